"""`mlagents_envs.environment` of a script of 2020, which does not close its environment: Python would wait for ever."""

from __future__ import annotations

from types import ModuleType

from envs.unity import exits


def patch(module: ModuleType) -> None:
    """Has players ended before Python waits for their threads."""
    module.atexit = exits  # type: ignore[attr-defined]
