"""Whole episodes of DeepRacer cars: the learner's batch, and the columns that trace files record of each step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass
class DrivenEpisodes:
    """Steps of whole episodes, one episode after another; a rollout of DeepRacer's env runner.

    Attributes:
        observations: (T, H, W, C) uint8; (T, N) float32 with a LIDAR.
        actions: (T,) or (T, 2) actions in the action space.
        logits: (T, L) inputs of the action distribution.
        rewards: (T,) reward of each step.
        lengths: (E,) steps of each episode.
        trace: (T, K) float64 with the columns of `TRACE`.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    logits: NDArray[np.float32]
    rewards: NDArray[np.float32]
    lengths: NDArray[np.int64]
    trace: NDArray[np.float64]

    def env_steps(self) -> int:
        """Returns the number of environment steps; called by RLlib."""
        return len(self.rewards)


# Columns of a trace. A continuous action is -1. Positions are those of the front of the car before the step; time is
# after the step.
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
