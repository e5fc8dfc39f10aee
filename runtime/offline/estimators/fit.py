"""Whether fitted Q evaluation fits episodes that it was not fitted to.

Each half of the episodes corrects the value function of the other half by its weighted Bellman residuals. If the
function is right, these corrections are 0 on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import ReturnBounds
from runtime.offline.estimators.fqe import COARSE, FINE, FittedQEvaluation

Target = Callable[[Transitions], NDArray[np.float32]]


class FitTest:
    """Tests fitted Q evaluation of policies on one log.

    Args:
        data: Episodes.
        gamma: Discount per step, below 1.
        seed: Seed of the halves and the features.
        bounds: Limits of discounted returns.
    """

    def __init__(self, data: Transitions, *, gamma: float, seed: int, bounds: ReturnBounds) -> None:
        # One episode cannot be halved: it would check itself.
        self._halves = data.split(0.5, seed=seed) if len(data.starts) > 1 else (data, data)
        self._models = [
            [
                FittedQEvaluation(half, gamma=gamma, seed=seed, smoothness=smoothness, bounds=bounds)
                for half in self._halves
            ]
            for smoothness in (FINE, COARSE)
        ]

    def p_value(self, target: Target) -> float:
        """P-value of the hypothesis that the value function's errors on other episodes are 0 on average.

        Args:
            target: Returns the policy's action probabilities (or actions) at all observations of some data.
        """
        targets = [target(half) for half in self._halves]
        found = []
        for models in self._models:
            corrections = [
                models[fitted].correct(
                    models[fitted].evaluate(targets[fitted]), targets[fitted], self._halves[other], targets[other]
                )
                for fitted, other in ((1, 0), (0, 1))
            ]
            found.append(np.concatenate(corrections))
        return _p_value(np.mean(found, axis=0))


def _p_value(corrections: NDArray[np.float64]) -> float:
    """P-value of a two-sided t-test of a mean of 0."""
    from scipy.stats import t

    spread = float(corrections.std(ddof=1)) if len(corrections) > 1 else 0.0
    if not spread > 0 or not math.isfinite(spread):
        return 1.0
    statistic = abs(float(corrections.mean())) / (spread / math.sqrt(len(corrections)))
    return float(2 * t.sf(statistic, len(corrections) - 1))
