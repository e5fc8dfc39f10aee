"""A rollout as arrays: T steps of N environments, each going on into its next episode."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode


@dataclasses.dataclass
class Rollout:
    """What a runner hands to the learner.

    Attributes:
        observations: (T, N, O) float32, as the network saw them.
        actions: (T, N, A) float32, as the network drew them; a choice is a whole number in (T, N, 1).
        logp: (T, N) of those actions.
        inputs: (T, N, L) of the action distribution.
        rewards: (T, N).
        terminated: (T, N) bool.
        truncated: (T, N) bool; never where terminated is.
        last_observations: (T, N, O), as the network would see them; written where truncated.
        following: (N, O) observations after the last step, as the network will see them.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    logp: NDArray[np.float32]
    inputs: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    last_observations: NDArray[np.float32]
    following: NDArray[np.float32]

    @classmethod
    def empty(cls, steps: int, count: int, shape: tuple[int, ...], actions: int, inputs: int) -> Rollout:
        """Room for T steps of N environments with observations of a shape."""
        size = steps, count
        return cls(
            observations=np.empty((*size, *shape), np.float32),
            actions=np.empty((*size, actions), np.float32),
            logp=np.empty(size, np.float32),
            inputs=np.empty((*size, inputs), np.float32),
            rewards=np.empty(size, np.float32),
            terminated=np.empty(size, bool),
            truncated=np.empty(size, bool),
            last_observations=np.empty((*size, *shape), np.float32),
            following=np.empty((count, *shape), np.float32),
        )

    def env_steps(self) -> int:
        """Steps in all; RLlib asks."""
        return int(self.rewards.size)

    def __len__(self) -> int:
        """Steps in all; RLlib asks."""
        return self.env_steps()

    def to_episodes(
        self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
    ) -> list[SingleAgentEpisode]:
        """The same as RLlib's episodes, for its own learner."""
        found = []
        steps, count = self.rewards.shape
        for i in range(count):
            edges = [0, *(np.flatnonzero(self.terminated[:, i] | self.truncated[:, i]) + 1).tolist(), steps]
            for begin, end in itertools.pairwise(edges):
                if begin < end:
                    found.append(self._episode(i, begin, end, observation_space, action_space))
        return found

    def _episode(self, i: int, begin: int, end: int, observation_space: Any, action_space: Any) -> SingleAgentEpisode:
        if self.truncated[end - 1, i]:
            following = self.last_observations[end - 1, i]
        elif end < len(self.rewards):  # after a true end nothing is expected, whatever is seen
            following = self.observations[end, i]
        else:
            following = self.following[i]
        is_choice = isinstance(action_space, gymnasium.spaces.Discrete)
        taken = self.actions[begin:end, i]
        actions = [int(action[0]) for action in taken] if is_choice else list(taken.astype(action_space.dtype))
        episode = SingleAgentEpisode(
            observations=[*self.observations[begin:end, i], following],
            observation_space=observation_space,
            actions=actions,
            action_space=action_space,
            rewards=self.rewards[begin:end, i].tolist(),
            terminated=bool(self.terminated[end - 1, i]),
            truncated=bool(self.truncated[end - 1, i]),
            extra_model_outputs={
                Columns.ACTION_LOGP: list(self.logp[begin:end, i]),
                Columns.ACTION_DIST_INPUTS: list(self.inputs[begin:end, i]),
            },
            len_lookback_buffer=0,
        )
        return episode.to_numpy()
