"""Measures how far an exported policy differs from the trained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from runtime.policies.filter import ObservationFilter
from runtime.policies.spaces import mask_size

OBSERVATION_COUNT = 256
TOLERANCE = 1e-5
_UNBOUNDED = 1e6  # larger bounds, as the largest float32, count as no bound
_ROUNDING = 4.0  # allowed rounding difference of a format, as a multiple of the policy's own rounding error

Outputs = Mapping[str, NDArray[Any]]


def make_observations(
    space: spaces.Box,
    observation_filter: ObservationFilter | None,
    *,
    counts: tuple[int, ...] = (),
    seed: int = 0,
) -> NDArray[np.float32]:
    """Makes 256 observations (B, …): ordinary ones, ones around the filter's range and far beyond it, and extremes.

    The first rows are all zeros, all ±1, and the space's own bounds, ±1e6 where it has none. A mask at their end allows
    some of the choices, at least one of each action.

    Args:
        space: Space of one observation.
        observation_filter: The policy's, or None.
        counts: Number of choices of each discrete action, of which a mask is made.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    count = OBSERVATION_COUNT
    scale = rng.choice([0.01, 0.1, 1.0, 10.0, 1000.0], (count, *([1] * len(space.shape))))
    rows = scale * rng.standard_normal((count, *space.shape))
    if observation_filter is not None:
        seen = slice(count // 2, count)
        size = len(observation_filter.mean)  # without the mask, where the filter has none of it
        numbers = (seen, ..., slice(size)) if rows.ndim == 2 else seen
        rows[numbers] = observation_filter.mean + observation_filter.std * rows[numbers]
    bounded = (space.low >= -_UNBOUNDED) & (space.high <= _UNBOUNDED)
    low, high = np.where(bounded, space.low, -_UNBOUNDED), np.where(bounded, space.high, _UNBOUNDED)
    rows = np.where(bounded, rng.uniform(low, high, rows.shape), rows)
    for row, value in enumerate((np.zeros_like(low), np.ones_like(low), -np.ones_like(low), low, high)):
        rows[row] = np.clip(value, low, high)
    if size := mask_size(space):
        rows[:, -size:] = np.concatenate([_make_masks(rng, count, choices) for choices in counts], axis=1)
    return rows.astype(np.float32)


def _make_masks(rng: np.random.Generator, rows: int, choices: int) -> NDArray[np.bool_]:
    """Makes (B, M) masks that allow each choice with one half, and one of them for sure."""
    masks: NDArray[np.bool_] = rng.random((rows, choices)) < 0.5
    masks[np.arange(rows), rng.integers(choices, size=rows)] = True
    return masks


def measure(
    trained: Outputs,
    exact: Outputs,
    exported: Outputs,
    *,
    scale: NDArray[Any],
    action_space: gymnasium.Space[Any] | None,
) -> dict[str, float]:
    """The largest difference of each output beyond what rounding explains; at most TOLERANCE for a correct export.

    A number counts relative to itself where it is over 1. A network that sums up large numbers of both signs loses
    digits in any order of summation: its own loss, measured against float64 and growing with the observation, is
    allowed for. A discrete action is compared by its logit difference to the policy's own choice, as rounding
    may decide between two actions that are equally likely to seven digits.

    Args:
        trained: Outputs of the training policy, (B, …).
        exact: Outputs of the training policy in float64.
        exported: Outputs of the exported policy; may have more names.
        scale: (B,) size of each observation as the network sees it, at least 1.
        action_space: Action space of `actions`; None if there is no such output.
    """
    usable = _finite_rows(trained)
    scale = scale[usable]
    differences = {}
    for name, expected in trained.items():
        found = exported.get(name)
        if found is None or found.shape != expected.shape:
            differences[name] = float("inf")
        elif name == "actions" and isinstance(action_space, spaces.Tuple):
            differences[name] = _hybrid_difference(trained, exact, found, usable, scale, action_space)
        elif name == "actions" and not isinstance(action_space, spaces.Box):
            inputs = "behaviour_logits" if "behaviour_logits" in trained else "q_values"
            logits = trained[inputs][usable]
            budget = _budget(logits, exact[inputs][usable], scale)
            differences[name] = _less_likely(logits, found[usable], budget.max(axis=1), action_space)
        else:
            three = [expected[usable], exact[name][usable], found[usable]]
            if name == "action_prob":  # compared as a log probability, as exp magnifies its error
                three = [np.log(np.clip(values.astype(np.float64), 1e-30, 1e30)) for values in three]
            differences[name] = _largest(*three, scale=scale)
    return differences


def _hybrid_difference(
    trained: Outputs,
    exact: Outputs,
    found: NDArray[Any],
    usable: NDArray[np.bool_],
    scale: NDArray[Any],
    space: spaces.Tuple,
) -> float:
    """Compares the continuous and the discrete part of hybrid actions separately; returns the larger difference."""
    numbers, choices = space.spaces
    size = (numbers.shape or (0,))[0]
    approximate, true = (values["actions"][usable, :size] for values in (trained, exact))
    logits = trained["behaviour_logits"][usable]
    budget = _budget(logits, exact["behaviour_logits"][usable], scale)
    less_likely = _less_likely(
        logits[:, 2 * size :], found[usable, size:].astype(np.int64), budget.max(axis=1), choices
    )
    return max(_largest(approximate, true, found[usable, :size], scale=scale), less_likely)


def _finite_rows(trained: Outputs) -> NDArray[np.bool_]:
    """Selects rows on which the policy is finite; a network without a filter may overflow at the ends of float32.

    A probability density may be infinite.
    """
    others = [values for name, values in trained.items() if name != "action_prob"]
    usable = np.all([np.isfinite(values.reshape(len(values), -1)).all(axis=1) for values in others], axis=0)
    assert usable.sum() >= OBSERVATION_COUNT // 4, "the policy overflows on ordinary observations"
    return np.asarray(usable)


def _budget(trained: NDArray[Any], exact: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float64]:
    """Returns (B, N) tolerances: a few times the policy's own rounding error, which grows with the observation."""
    rows = len(trained)
    own = np.abs(trained.astype(np.float64) - exact).reshape(rows, -1)
    return np.asarray(_ROUNDING * scale[:, None] * (own / scale[:, None]).max(axis=0))


def _largest(trained: NDArray[Any], exact: NDArray[Any], found: NDArray[Any], *, scale: NDArray[Any]) -> float:
    rows = len(trained)
    budget = _budget(trained, exact, scale)
    a, b = (x.reshape(rows, -1).astype(np.float64) for x in (trained, found))
    relative = np.abs(a - b) / (np.maximum(1.0, np.abs(a)) + budget / TOLERANCE)
    return float(np.where(np.isnan(relative), np.inf, relative).max())


def _less_likely(
    logits: NDArray[Any], actions: NDArray[Any], budget: NDArray[Any], space: gymnasium.Space[Any] | None
) -> float:
    rows = np.arange(len(logits))
    if isinstance(space, spaces.MultiDiscrete):
        counts = space.nvec.tolist()
        chosen = actions
    else:
        assert isinstance(space, spaces.Discrete)
        counts = [int(space.n)]
        chosen = actions[:, None]
    worst = 0.0
    start = 0
    for column, count in enumerate(counts):
        block = logits[:, start : start + count].astype(np.float64)
        if chosen[:, column].min() < 0 or chosen[:, column].max() >= count:
            return float("inf")
        best = block.max(axis=1)
        gap = best - block[rows, chosen[:, column]]
        gap /= np.maximum(1.0, np.abs(best)) + 2 * budget / TOLERANCE
        worst = max(worst, float(gap.max()))
        start = start + count
    return worst
