"""How far an exported policy is from the one that was trained: on which observations, and by what measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from runtime.policy import ObservationFilter

OBSERVATION_COUNT = 256
TOLERANCE = 1e-5


def make_observations(
    space: gymnasium.Space[Any], observation_filter: ObservationFilter | None, *, seed: int = 0
) -> NDArray[np.float32]:
    """256 observations (B, …): ordinary ones, what the filter has seen and far beyond its clip, and the extremes.

    The first rows are all zeros, all ±1, all ±1e6 (where the space is unbounded) and the space's own bounds.
    """
    assert isinstance(space, spaces.Box)
    rng = np.random.default_rng(seed)
    count = OBSERVATION_COUNT
    scale = rng.choice([0.01, 0.1, 1.0, 10.0, 1000.0], (count, *([1] * len(space.shape))))
    rows = scale * rng.standard_normal((count, *space.shape))
    if observation_filter is not None:
        seen = slice(count // 2, count)
        rows[seen] = observation_filter.mean + observation_filter.std * rows[seen]
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, -1e6), np.where(bounded, space.high, 1e6)
    inside = rng.uniform(low, high, rows.shape)
    rows = np.where(bounded, inside, rows)
    for row, value in enumerate((np.zeros_like(low), np.ones_like(low), -np.ones_like(low), low, high)):
        rows[row] = np.clip(value, space.low, space.high)
    return rows.astype(np.float32)


def measure(
    trained: Mapping[str, NDArray[Any]], exported: Mapping[str, NDArray[Any]], action_space: gymnasium.Space[Any]
) -> dict[str, float]:
    """The largest difference of each output, each row relative to its largest number where that is over 1.

    A discrete action is judged by how much less likely the trained policy finds it than its own choice, in logits: two
    actions that are equally likely to seven digits may be told apart differently.

    Args:
        trained: Outputs of the training policy.
        exported: Outputs of the exported one; may hold more names.
        action_space: Whose actions they are.
    """
    differences = {}
    for name, expected in trained.items():
        found = exported[name]
        if found.shape != expected.shape:
            differences[name] = float("inf")
        elif name == "actions" and not isinstance(action_space, spaces.Box):
            differences[name] = _less_likely(trained["behaviour_logits"], found, action_space)
        else:
            slack = 1 + np.abs(trained["action_logp"]) if name == "action_prob" else 1.0
            differences[name] = _largest(expected, found, slack)
    return differences


def _largest(expected: NDArray[Any], found: NDArray[Any], slack: Any) -> float:
    rows = len(expected)
    a, b = (x.reshape(rows, -1).astype(np.float64) for x in (expected, found))
    with np.errstate(invalid="ignore"):
        away = np.where(a == b, 0.0, np.abs(a - b)).max(axis=1)
        relative = away / (np.maximum(1.0, np.abs(a).max(axis=1)) * slack)
    return float(np.where(np.isnan(relative), np.inf, relative).max())


def _less_likely(logits: NDArray[Any], actions: NDArray[Any], space: gymnasium.Space[Any]) -> float:
    rows = np.arange(len(logits))
    if isinstance(space, spaces.MultiDiscrete):
        counts, chosen = space.nvec.tolist(), actions
    else:
        assert isinstance(space, spaces.Discrete)
        counts, chosen = [int(space.n)], (actions - int(space.start))[:, None]
    worst, start = 0.0, 0
    for column, count in enumerate(counts):
        block = logits[:, start : start + count].astype(np.float64)
        if chosen[:, column].min() < 0 or chosen[:, column].max() >= count:
            return float("inf")
        best = block.max(axis=1)
        gap = (best - block[rows, chosen[:, column]]) / np.maximum(1.0, np.abs(best))
        worst, start = max(worst, float(gap.max())), start + count
    return worst
