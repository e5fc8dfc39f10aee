"""Observation filters and bounds as graph operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.export.graph import Graph
from runtime.policies.filter import ObservationFilter

# Deviations between a mean and 0 from where on the filter is computed in double: float32 is off by 6e-7 of one here.
_FAR = 10.0


def add_filter(graph: Graph, x: str, observation_filter: ObservationFilter) -> str:
    """clip((x - mean) / (std + 1e-8)).

    In double where a mean is many deviations away from 0: of 1e6 with a deviation of 1, float32 would leave nothing.
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
    """One operation where all bounds are alike, as ONNX has it for scalars alone."""
    if len(set(low.ravel().tolist())) == len(set(high.ravel().tolist())) == 1:
        return graph.add("clip", x, *(graph.constant(side.ravel()[0], side.dtype) for side in (low, high)))
    x = graph.add("minimum", x, graph.constant(high, high.dtype))
    return graph.add("maximum", x, graph.constant(low, low.dtype))
