"""What becomes of a training's processes and hosts: who died, who came back, what to begin again for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RaySystemError, WorkerCrashedError
from ray.rllib.algorithms.ppo import PPO

from runtime.errors import find_cause
from runtime.outputs.console import Reporter

# Env runners that died are asked for this often and this long; RLlib would wait up to 30 s in every iteration.
_PROBE_EVERY_S, PROBE_TIMEOUT_S = 5.0, 0.5
_LOSSES = (RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError, RaySystemError)


class LostError(Exception):
    """A process that the training cannot do without has died: it begins again from the last checkpoint."""


class FaultTolerantPPO(PPO):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's PPO, which goes on training while Ray starts env runners that died again, where there is room."""

    _probed_at = 0.0

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Called by RLlib before each step; hands the weights to env runners that have come back."""
        group = env_runner_group
        if group.num_healthy_remote_workers() == group.num_remote_workers():
            return []
        if time.monotonic() - self._probed_at < _PROBE_EVERY_S:
            return []
        restored: list[int] = super().restore_env_runners(group)
        self._probed_at = time.monotonic()
        return restored


class FaultWatch:
    """Counts what is lost and comes back, and says it in a line of metrics each.

    Args:
        reporter: Prints the lines.
        take_events: What has happened to hosts since the last call.
    """

    def __init__(self, reporter: Reporter, take_events: Callable[[], list[tuple[str, str]]]) -> None:
        self._reporter, self._take_events = reporter, take_events
        self._healthy: set[int] = set()
        self.counts: dict[str, int] = {}

    def begin(self, algorithm: Any, counts: dict[str, int]) -> None:
        """Looks at a new algorithm, which goes on from a checkpoint's counts."""
        # It tells of each process that dies, over several lines.
        logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)
        self._healthy = set(algorithm.env_runner_group.healthy_env_runner_ids())
        for name, count in counts.items():
            self.counts[name] = max(count, self.counts.get(name, 0))

    def look(self, algorithm: Any) -> None:
        """Says what has changed since the last look."""
        for kind, story in self._take_events():
            self.count({"host_lost": "hosts_lost", "host_rejoined": "hosts_rejoined"}[kind], story)
        healthy = set(algorithm.env_runner_group.healthy_env_runner_ids())
        lost, back, self._healthy = self._healthy - healthy, healthy - self._healthy, healthy
        for number in sorted(lost):
            self.count("env_runners_lost", f"env runner {number} does not answer, {len(healthy)} do")
        for number in sorted(back):
            self.count("env_runners_restarted", f"env runner {number} samples again, one of {len(healthy)}")

    def count(self, name: str, story: str) -> None:
        """Adds to a counter, in a line of its own."""
        self.counts[name] = self.counts.get(name, 0) + 1
        self._reporter.log(f"{name}: {self.counts[name]} ({story})")


def find_loss(error: BaseException) -> str | None:
    """What a library's exception says of a process that died by itself; None for any other."""
    found = next((cause for kind in _LOSSES if (cause := find_cause(error, kind)) is not None), None)
    if found is None or getattr(found, "actor_init_failed", False):  # an exception of the user's own code
        return None
    return f"{type(found).__name__}: {str(found).strip().splitlines()[0]}"
