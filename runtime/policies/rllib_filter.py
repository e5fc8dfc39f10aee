"""RLlib's observation filter: the connector that normalizes observations in an env runner, and its state."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.utils.filter import RunningStat

from runtime.policies.filter import ObservationFilter


def find_filter_connector(env_runner: Any) -> Any | None:
    """Returns the MeanStdFilter connector of an RLlib env runner; None if the runner does not filter observations."""
    connectors = env_runner._env_to_module.connectors
    return next((connector for connector in connectors if isinstance(connector, MeanStdFilter)), None)


def find_filter(env_runner: Any) -> Any | None:
    """The filter of an RLlib env runner: it maps observations (N, O), and `running_stats` has its statistics."""
    connector = find_filter_connector(env_runner)
    if connector is None:
        return None
    if connector._filters is None:  # before the first sample
        connector._init_new_filters()
    return connector._filters[None]


def filter_of_state(state: dict[Any, Any]) -> ObservationFilter:
    """Returns the observation filter that the state of a MeanStdFilter connector describes."""
    agent = state[None]
    stats = RunningStat.from_state(agent["running_stats"][0])
    mean, std = (np.asarray(values, np.float64) for values in (stats.mean, stats.std))
    return ObservationFilter(mean, std, float(agent["clip_by_value"]))
