"""A replay buffer of columns for DQN and SAC, in the place of RLlib's buffer of episodes.

RLlib 2.60 slices an episode for each transition that it draws, and its learner connectors put a batch together again;
that takes most of an update. Here a minibatch is one indexing of each column. RLlib's buffer remains for prioritized
replay, n-step targets, images, and learners of their own processes. Unlike RLlib's it is drawn from by the job's seed.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.learner import LearnerConnectorPipeline
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

_OF_EPISODES = "EpisodeReplayBuffer"  # RLlib's, without priorities


def fits_columns(config: AlgorithmConfig, observations: gymnasium.Space[Any]) -> bool:
    """Whether a job's transitions are kept as columns.

    Args:
        config: RLlib's config of DQN or SAC.
        observations: Space of one observation.
    """
    is_row = isinstance(observations, gymnasium.spaces.Box) and len(observations.shape) == 1
    is_plain = config.replay_buffer_config["type"] == _OF_EPISODES and config.n_step == 1
    return is_row and is_plain and config.num_learners == 0


class Minibatch:
    """Transitions as columns, which travel through RLlib's learner as one episode of their number.

    Args:
        columns: (B, …) arrays, by RLlib's names.
    """

    def __init__(self, columns: dict[str, NDArray[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[Columns.REWARDS])


class ColumnReplayBuffer:
    """Keeps the latest transitions, and draws them uniformly with replacement.

    Args:
        capacity: Number of transitions.
        seed: Seed of the draws; None for a random one.
    """

    def __init__(self, capacity: int, *, seed: int | None) -> None:
        self._capacity = capacity
        self._rng = np.random.default_rng(seed)
        self._columns: dict[str, NDArray[Any]] = {}
        self._added = 0
        self._metrics = MetricsLogger(root=False)

    def __len__(self) -> int:
        return min(self._added, self._capacity)

    def add(self, episodes: list[SingleAgentEpisode]) -> None:
        """Adds the transitions of episodes, or of parts of them; called by RLlib."""
        for episode in episodes:
            if not len(episode):
                continue
            observations = np.asarray(episode.get_observations(slice(0, None)))
            count = len(episode)
            ends = np.zeros((2, count), bool)
            ends[:, -1] = episode.is_terminated, episode.is_truncated
            self._write(
                {
                    Columns.OBS: observations[:-1],
                    Columns.NEXT_OBS: observations[1:],
                    Columns.ACTIONS: np.asarray(episode.get_actions(slice(0, None))),
                    Columns.REWARDS: np.asarray(episode.get_rewards(slice(0, None)), np.float32),
                    Columns.TERMINATEDS: ends[0],
                    Columns.TRUNCATEDS: ends[1],
                },
                count,
            )

    def _write(self, columns: dict[str, NDArray[Any]], count: int) -> None:
        rows = np.arange(self._added, self._added + count) % self._capacity
        for name, values in columns.items():
            if name not in self._columns:  # pages that are not written take no memory
                self._columns[name] = np.empty((self._capacity, *values.shape[1:]), values.dtype)
            self._columns[name][rows] = values
        self._added += count

    def sample(self, *, num_items: int, **_: Any) -> list[Minibatch]:
        """Draws a minibatch; called by RLlib, whose further arguments are for sequences and n-step targets."""
        rows = self._rng.integers(len(self), size=num_items)
        columns = {name: values[rows] for name, values in self._columns.items()}
        columns["weights"] = np.ones(num_items, np.float32)
        columns["n_step"] = np.ones(num_items, np.int64)
        return [Minibatch(columns)]

    def get_metrics(self) -> Any:
        """Returns no metrics; called by RLlib."""
        return self._metrics.reduce()


class _ToTensors(ConnectorV2):  # type: ignore[misc]  # ray is not typed for strict mode
    """Makes RLlib's batch of a minibatch."""

    def __init__(self, device: Any) -> None:
        super().__init__()
        self._device = device

    def __call__(self, *, episodes: list[Minibatch], **_: Any) -> dict[str, Any]:
        """Returns tensors by policy and column; called by RLlib."""
        (minibatch,) = episodes
        tensors = {name: torch.from_numpy(values).to(self._device) for name, values in minibatch.columns.items()}
        return {DEFAULT_MODULE_ID: tensors}


class ColumnReplay:
    """The part of an algorithm that keeps transitions as columns where they fit."""

    def setup(self, config: AlgorithmConfig) -> None:
        """Sets the algorithm up; called by RLlib."""
        super().setup(config)  # type: ignore[misc]  # of RLlib's algorithm, beside which this class stands
        algorithm: Any = self
        learner = algorithm.learner_group._learner
        if learner is None or not fits_columns(algorithm.config, learner.module[DEFAULT_MODULE_ID].observation_space):
            return
        capacity = algorithm.config.replay_buffer_config["capacity"]
        algorithm.local_replay_buffer = ColumnReplayBuffer(capacity, seed=algorithm.config.seed)
        # RLlib's config cannot leave out the connectors for episodes, as DQN's and SAC's insert others behind them.
        learner._learner_connector = LearnerConnectorPipeline(connectors=[_ToTensors(learner._device)])
