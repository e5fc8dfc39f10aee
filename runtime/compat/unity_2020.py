"""Patches `mlagents_envs.environment` to close environments that a script of 2020 never closes."""

from __future__ import annotations

from types import ModuleType

from envs.unity import exit_hooks


class _Unconnected:
    """Communicator of an environment that failed to connect, so that closing it at exit does not raise."""

    def close(self) -> None:
        """Does nothing, as there is no connection to close."""


def patch(module: ModuleType) -> None:
    """Ends players at exit, before Python joins their threads, which would block forever."""
    module.atexit = exit_hooks  # type: ignore[attr-defined]
    # Its constructor registers _close before it has one, and raises where the port is taken.
    module.UnityEnvironment._communicator = _Unconnected()
