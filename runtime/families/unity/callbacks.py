"""Callbacks of a Unity training: reports the players that failed in an iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.artifacts.checkpoint import JobState
from runtime.outputs.console import Reporter


class PlayerFaults:
    """Counts restarted Unity players and reports why each was restarted.

    Args:
        reporter: Prints the lines of the log.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._restarts = 0.0

    def after_iteration(self, algorithm: Any, result: Mapping[str, Any], state: JobState) -> dict[str, float]:
        """Returns the additional metric `unity_restarts`, the restarts of the job so far."""
        if state.rows:  # of an earlier start of the job as well
            self._restarts = state.rows[-1].get("unity_restarts", 0.0)
        taken = algorithm.env_runner_group.foreach_env_runner(lambda runner: runner.take_faults())
        for fault in (fault for faults in taken for fault in faults):
            self._restarts += 1
            self._reporter.note(f"a player was restarted: {fault}")
        return {"unity_restarts": self._restarts}
