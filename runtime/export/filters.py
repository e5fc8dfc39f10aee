"""Observation filters and bounds as graph operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.export.graph import Graph
from runtime.policies.filter import ObservationFilter

# Distance of a mean from 0, in standard deviations, above which the filter is float64; float32 errs by 6e-7 here.
_FAR = 10.0


def add_filter(graph: Graph, x: str, observation_filter: ObservationFilter) -> str:
    """Adds the observation filter, clip((x - mean) / (std + 1e-8)).

    In float64 where a mean is many standard deviations from 0: for a mean of 1e6 and a deviation of 1, float32 would
    lose all digits.
    """
    mean, std = observation_filter.mean, observation_filter.std + 1e-8
    dtype = np.float64 if np.abs(mean / std).max() > _FAR else np.float32
    if dtype == np.float64:
        x = graph.add("cast", x, dtype=dtype)
    x = graph.add("subtract", x, graph.constant(mean, dtype))
    x = graph.add("divide", x, graph.constant(std, dtype))
    low, high = (np.array([sign * observation_filter.clip], dtype) for sign in (-1, 1))
    x = add_clip(graph, x, low, high)
    return graph.add("cast", x, dtype=np.float32) if dtype == np.float64 else x


def add_clip(graph: Graph, x: str, low: NDArray[Any], high: NDArray[Any]) -> str:
    """Clips to bounds, in one operation if all bounds are equal, as ONNX clips to scalars only."""
    if len(set(low.ravel().tolist())) == len(set(high.ravel().tolist())) == 1:
        return graph.add("clip", x, *(graph.constant(side.ravel()[0], side.dtype) for side in (low, high)))
    x = graph.add("minimum", x, graph.constant(high, high.dtype))
    return graph.add("maximum", x, graph.constant(low, low.dtype))
