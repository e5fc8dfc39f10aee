"""Bounds on discounted returns from the rewards of a log, which clip estimates, value targets and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.transitions import TERMINAL, Transitions

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReturnBounds:
    """Bounds on the discounted return.

    Attributes:
        low: Least possible discounted return.
        high: Largest possible discounted return.
    """

    low: float
    high: float

    def clip(self, value: float) -> float:
        """Clips a value to the bounds; returns a value that is not finite unchanged."""
        return min(max(value, self.low), self.high) if math.isfinite(value) else value


def bound_returns(data: Transitions, gamma: float, *, horizon: int | None = None) -> ReturnBounds:
    """Bounds on the discounted return from any state, for any policy.

    A reward is paid either at a step after which the episode continues, any number of times in an episode, or at an
    episode's last step, once. Let the former lie in [a, b] and the latter in [c, d]. An episode of n + 1 steps that
    ends returns at most

        f(n) = b g(n) + gamma^n d,    g(n) = 1 + gamma + … + gamma^(n-1) = (1 - gamma^n) / (1 - gamma),

    and n if gamma is 1. f is affine in gamma^n, thus monotone in n, and so is b g(n), the return of n steps of an
    episode that continues or is cut. With at most H steps the largest return is therefore that of the shortest or the
    longest episode: max(d, b, b g(H), f(H - 1)); without a limit max(d, b, b / (1 - gamma)). The least likewise, from
    a and c. Every return of the log itself lies within.

    Assumptions: no policy earns a reward outside of [a, b] at a step after which its episode continues, or outside of
    [c, d] at its last one. H is `horizon` (or the longest logged episode, if longer), or the length that all
    episodes of the log share, where each of them ended by itself. Without either there is no limit: the longest
    logged episode bounds no policy that lasts longer, and a state that was cut off has a value beyond the cut.

    Args:
        data: The log. The last step of an episode that was cut off counts as a last step where the following state
            is unknown (nothing is learned from it), and as one after which the episode continues where it is known.
        gamma: Discount per step, 0..1; at 1 a bound may be infinite.
        horizon: Steps after which every episode is over; None if there is no such limit.

    Source: geometric sums. The values of fitted iteration are bounded by the largest return in Munos & Szepesvári 2008,
    Finite-time bounds for fitted value iteration; clipping to bounds that hold leaves the true values as they are.
    """
    has_next = data.next_rows >= 0
    inner, last = (data.rewards[rows].astype(np.float64) for rows in (has_next, ~has_next))
    most_steps = _most_steps(data, horizon)
    return ReturnBounds(_extreme(min, inner, last, gamma, most_steps), _extreme(max, inner, last, gamma, most_steps))


def _most_steps(data: Transitions, horizon: int | None) -> float:
    longest = int(data.lengths.max())
    ends = data.next_rows[data.starts + data.lengths - 1]
    if len(data.starts) > 1 and (data.lengths == longest).all() and (ends == TERMINAL).all():
        return longest
    return math.inf if horizon is None else max(horizon, longest)


def _extreme(
    pick: Callable[[Iterable[float]], float], inner: Floats, last: Floats, gamma: float, most_steps: float
) -> float:
    """Computes the least (`min`) or the largest (`max`) return; most_steps may be infinite."""
    ends = [pick((float(last.min()), float(last.max())))] if len(last) else []
    if not len(inner):
        return ends[0]
    reward = pick((float(inner.min()), float(inner.max())))
    found = [*ends, reward, _repeated(reward, gamma, most_steps)]
    found += [_repeated(reward, gamma, most_steps - 1) + gamma ** (most_steps - 1) * end for end in ends]
    return pick(found)


def _repeated(reward: float, gamma: float, steps: float) -> float:
    """Computes the discounted sum of a constant reward over a number of steps."""
    if reward == 0:  # infinitely often, too
        return 0.0
    return reward * (steps if gamma == 1 else (1 - gamma**steps) / (1 - gamma))
