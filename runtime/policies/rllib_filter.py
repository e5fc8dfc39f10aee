"""RLlib's observation filter: the connector that normalizes observations in an env runner, and its state."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.utils.filter import MeanStdFilter as RunningFilter
from ray.rllib.utils.filter import RunningStat

from runtime.policies.filter import ObservationFilter
from runtime.policies.spaces import MaskedBox, mask_size


class MaskedMeanStdFilter(MeanStdFilter):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's MeanStdFilter connector for observations in a MaskedBox: it leaves the mask as it is."""

    _filters: Any

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space[Any], input_action_space: gymnasium.Space[Any]
    ) -> gymnasium.Space[Any]:
        """Returns the space of filtered observations; called by RLlib."""
        filtered = super().recompute_output_observation_space(input_observation_space, input_action_space)
        assert isinstance(input_observation_space, MaskedBox)
        assert isinstance(filtered, gymnasium.spaces.Box)
        size = input_observation_space.mask_size
        numbers = gymnasium.spaces.Box(filtered.low[:-size], filtered.high[:-size], dtype=np.float32)
        return MaskedBox(numbers, size)

    def _init_new_filters(self) -> None:
        super()._init_new_filters()
        self._filters = {None: _MaskedFilter(self._filters[None], mask_size(self.input_observation_space))}


class _MaskedFilter(RunningFilter):  # type: ignore[misc]  # ray is not typed for strict mode
    """Normalizes all but the last `size` numbers of an observation."""

    def __init__(self, plain: RunningFilter, size: int) -> None:
        super().__init__(plain.shape, demean=plain.demean, destd=plain.destd, clip=plain.clip)
        self._size = size

    def __call__(self, x: NDArray[Any], update: bool = True) -> NDArray[np.float32]:
        filtered: NDArray[np.float32] = super().__call__(x, update=update)
        filtered[..., -self._size :] = np.asarray(x)[..., -self._size :]
        return filtered


def make_filter(env: Any, spaces: Any, device: Any) -> MeanStdFilter:
    """Makes the observation filter of an env runner; called by RLlib, with the environments or only their spaces."""
    space = spaces[INPUT_ENV_SINGLE_SPACES][0] if env is None else env.single_observation_space
    return MaskedMeanStdFilter() if isinstance(space, MaskedBox) else MeanStdFilter()


# Folders of a checkpoint's connectors with the filter's state, one of which it has.
FILTER_FOLDERS = (MeanStdFilter.__name__, MaskedMeanStdFilter.__name__)


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


def filter_of_state(state: dict[Any, Any], space: gymnasium.Space[Any]) -> ObservationFilter:
    """Returns the observation filter that the state of a MeanStdFilter connector describes.

    Args:
        state: The connector's.
        space: Space of the observations, whose mask, if it has one, the filter leaves as it is.
    """
    agent = state[None]
    stats = RunningStat.from_state(agent["running_stats"][0])
    mean = leave_mask(np.asarray(stats.mean, np.float64), space, 0.0)
    std = leave_mask(np.asarray(stats.std, np.float64), space, 1.0)
    return ObservationFilter(mean, std, float(agent["clip_by_value"]))


def leave_mask(values: NDArray[Any], space: gymnasium.Space[Any], neutral: float) -> NDArray[Any]:
    """Returns (O + M) statistics whose last M change nothing: means of 0, or deviations of 1, for the mask.

    Args:
        values: The statistic of each number of an observation.
        space: Space of the observations; without a mask in it, the values stay as they are.
        neutral: 0 or 1.
    """
    size = mask_size(space)
    return np.concatenate([values[:-size], np.full(size, neutral, values.dtype)]) if size else values
