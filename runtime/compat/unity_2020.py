"""Patches `mlagents_envs.environment` to close environments that a script of 2020 never closes."""

from __future__ import annotations

from types import ModuleType

from envs.unity import exit_hooks


class _Unconnected:
    """What an environment whose port was taken closes at the program's end: it has no communicator of its own yet."""

    def close(self) -> None:
        """Does nothing, as there is no connection to close."""


def patch(module: ModuleType) -> None:
    """Has players ended before Python waits, for ever, for their threads."""
    module.atexit = exit_hooks  # type: ignore[attr-defined]
    # Its constructor registers _close before it has one, and raises where the port is taken.
    module.UnityEnvironment._communicator = _Unconnected()
