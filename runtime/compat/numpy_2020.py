"""The names that NumPy had for Python's own types until 1.24, for environments of 2020."""

from __future__ import annotations

import numpy as np

_NAMES = {"int": int, "float": float, "bool": bool, "object": object, "str": str, "complex": complex}


def add_names() -> None:
    """Adds the names that NumPy no longer has, in this process; each is Python's own type, as it was."""
    for name, kind in _NAMES.items():
        if name not in vars(np):
            setattr(np, name, kind)
