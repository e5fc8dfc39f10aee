"""Normalizes observations by the running statistics of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ObservationFilter:
    """Normalizes observations by the statistics of training: clip((x - mean) / (std + 1e-8), ±clip).

    Attributes:
        mean: (O,) float64.
        std: (O,) float64.
        clip: Bound of the result.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    clip: float

    def __call__(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Normalizes one observation (O,) or a batch (B, O)."""
        return np.clip((observation - self.mean) / (self.std + 1e-8), -self.clip, self.clip).astype(np.float32)

    def without_last(self, count: int) -> ObservationFilter:
        """Returns the filter of observations without their last numbers, as a mask is."""
        return ObservationFilter(self.mean[:-count], self.std[:-count], self.clip) if count else self
