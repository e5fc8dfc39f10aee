"""A rollout of whole episodes: what the learner learns from, and what the files tell of each step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass
class Rollout:
    """Steps of whole episodes, one episode after the other.

    Attributes:
        observations: (T, H, W, C) uint8; (T, N) float32 with a LIDAR.
        actions: (T,) or (T, 2) of the action space.
        logits: (T, L) inputs of the action distribution.
        rewards: (T,).
        lengths: (E,) steps of each episode.
        trace: (T, K) float64 of `TRACE`, what the files tell of each step.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    logits: NDArray[np.float32]
    rewards: NDArray[np.float32]
    lengths: NDArray[np.int64]
    trace: NDArray[np.float64]

    def env_steps(self) -> int:
        """Steps in all; RLlib asks."""
        return len(self.rewards)


# Columns of a trace; an action that is no number is -1. Positions are those of the front of the car where the step
# found it; time is after the step.
TRACE = (
    *(
        "episode",
        "steps",
        "x",
        "y",
        "yaw_deg",
        "steering_deg",
        "speed",
        "action",
        "reward",
        "has_ended",
        "all_wheels_on_track",
    ),
    *("progress", "closest_waypoint", "track_length", "time", "status", "pause_s", "crashes", "wall_clock"),
)


def advantages(
    rewards: NDArray[np.float32], values: NDArray[np.float32], lengths: NDArray[np.int64], *, gamma: float, lam: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Generalised advantages and value targets; nothing is expected after an episode's end, whatever ended it.

    Args:
        rewards: (T,).
        values: (T,) of the value network.
        lengths: (E,) steps of each episode, one after the other.
        gamma: Discount per step.
        lam: Of the generalised advantage estimation.

    Returns:
        (T,) advantages, not standardised; (T,) targets.

    Source: Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation, eq. 16.
    """
    found = np.zeros(len(rewards))
    ends = np.zeros(len(rewards), bool)
    ends[np.cumsum(lengths) - 1] = True
    running, following = 0.0, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        if ends[t]:
            running, following = 0.0, 0.0
        running = float(rewards[t]) + gamma * following - float(values[t]) + gamma * lam * running
        found[t] = running
        following = float(values[t])
    return found.astype(np.float32), (found + values).astype(np.float32)
