"""Fault tolerance: notices env runners and hosts that were lost or came back, and losses that need a restart.

runtime/cluster/hosts.py says what happens when something is lost; restart.py restarts the training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RaySystemError, WorkerCrashedError

from runtime.errors import find_cause
from runtime.outputs.console import Reporter

# How often, and for how long, env runners that died are probed; RLlib would wait up to 30 s in every iteration.
_PROBE_EVERY_S = 5.0
PROBE_TIMEOUT_S = 0.5
_LOSSES = (RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError, RaySystemError)


class LostError(Exception):
    """A process died that training cannot continue without; training restarts from the last checkpoint."""


class FaultTolerance:
    """Mixin for RLlib's algorithms: keeps training while Ray restarts env runners that died, as resources allow."""

    _probed_at = 0.0

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Sends the weights to env runners that were restarted; called by RLlib before each iteration."""
        group = env_runner_group
        if group.num_healthy_remote_workers() == group.num_remote_workers():
            return []
        if time.monotonic() - self._probed_at < _PROBE_EVERY_S:
            return []
        restored: list[int] = super().restore_env_runners(group)  # type: ignore[misc]  # RLlib's Algorithm has it
        self._probed_at = time.monotonic()
        return restored


class FaultWatch:
    """Counts lost and restarted env runners and hosts, and prints a metric line for each.

    Args:
        reporter: Prints the lines.
        take_events: Returns kind and description of each change of the hosts since the last call.
    """

    def __init__(self, reporter: Reporter, take_events: Callable[[], list[tuple[str, str]]]) -> None:
        self._reporter = reporter
        self._take_events = take_events
        self._healthy: set[int] = set()
        self.counts: dict[str, int] = {}

    def begin(self, algorithm: Any, counts: dict[str, int]) -> None:
        """Starts to watch a new algorithm, with the counts of the checkpoint that it resumes from."""
        # RLlib logs several lines about each process that dies.
        logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)
        self._healthy = set(algorithm.env_runner_group.healthy_env_runner_ids())
        for name, count in counts.items():
            self.counts[name] = max(count, self.counts.get(name, 0))

    def look(self, algorithm: Any) -> None:
        """Counts and prints what has changed since the last call."""
        for kind, story in self._take_events():
            self.count({"host_lost": "hosts_lost", "host_rejoined": "hosts_rejoined"}[kind], story)
        healthy = set(algorithm.env_runner_group.healthy_env_runner_ids())
        lost = self._healthy - healthy
        back = healthy - self._healthy
        self._healthy = healthy
        for number in sorted(lost):
            self.count("env_runners_lost", f"env runner {number} does not answer, {len(healthy)} do")
        for number in sorted(back):
            self.count("env_runners_restarted", f"env runner {number} samples again, one of {len(healthy)}")

    def count(self, name: str, story: str) -> None:
        """Increments a counter and prints its line."""
        self.counts[name] = self.counts.get(name, 0) + 1
        self._reporter.log(f"{name}: {self.counts[name]} ({story})")


def find_loss(error: BaseException) -> str | None:
    """Describes the loss of a process that an exception of Ray or RLlib reports; None for any other exception."""
    loss = next((cause for kind in _LOSSES if (cause := find_cause(error, kind)) is not None), None)
    if loss is None or getattr(loss, "actor_init_failed", False):  # the user's code raised in the constructor
        return None
    return f"{type(loss).__name__}: {str(loss).strip().splitlines()[0]}"
