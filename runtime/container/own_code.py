"""Finds the user's own modules, in the current folder or among the installed packages."""

from __future__ import annotations

import importlib.util
import sys


def is_importable(module: str) -> bool:
    """Whether there is a module of that name; the current folder is searched first, as by `python -m`."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
    except Exception:  # of a package above it, which its import says with file and line
        return True
