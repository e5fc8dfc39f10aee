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


def show_gpus(numbers: Sequence[int]) -> None:
    """Limits this process to some of the GPUs that it may use; to be called before CUDA is initialized.

    Args:
        numbers: Positions in the list of GPUs that are visible so far.
    """
    visible = os.environ.get(_GPUS)
    names = visible.split(",") if visible else []
    os.environ[_GPUS] = ",".join(names[number] if number < len(names) else str(number) for number in numbers)


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
