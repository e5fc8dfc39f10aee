"""Environment variables that libraries read, and one that marks jobs which run a script of 2020."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_USERS_SCRIPT = "SMRL_USERS_SCRIPT"
_GPUS = "CUDA_VISIBLE_DEVICES"


def setdefault_environment(defaults: Mapping[str, str]) -> None:
    """Sets environment variables that are not set yet (thread counts, Ray's switches)."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def name_gpus(count: int) -> list[str]:
    """Returns CUDA's names of this process's GPUs.

    Args:
        count: How many it may use, which are the first of the visible ones.
    """
    visible = os.environ.get(_GPUS)
    names = visible.split(",") if visible else []
    return names[:count] + [str(number) for number in range(len(names), count)]


def show_gpus(names: Sequence[str]) -> None:
    """Limits this process to some GPUs by their names; to be called before CUDA is initialized."""
    os.environ[_GPUS] = ",".join(names)


def find_ray_root() -> Path | None:
    """Returns the folder for Ray's files that RAY_TMPDIR names; None if it is not set."""
    root = os.environ.get("RAY_TMPDIR")
    return Path(root).absolute() if root else None


def in_users_script() -> bool:
    """Whether this process, or the one that started it, runs a user's script of 2020."""
    return _USERS_SCRIPT in os.environ


def mark_users_script() -> None:
    """Tells processes that this one starts (Ray's workers) that a user's script of 2020 runs."""
    os.environ[_USERS_SCRIPT] = "1"
