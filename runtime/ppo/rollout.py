"""A rollout as arrays: T steps of N environments, each of which starts its next episode when one ends."""

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
    """The steps that an env runner collected for the learner.

    Attributes:
        observations: (T, N, O) float32, normalized as the network saw them.
        actions: (T, N, A) float32, as the network sampled them; a discrete action is a whole number in (T, N, 1).
        log_probs: (T, N) log probabilities of those actions.
        action_distribution_inputs: (T, N, L) logits, or means and log standard deviations.
        rewards: (T, N).
        terminated: (T, N) bool.
        truncated: (T, N) bool; never where terminated is.
        final_observations: (T, N, O), normalized; written where truncated.
        next_observations: (N, O) that follow the last step, normalized.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    log_probs: NDArray[np.float32]
    action_distribution_inputs: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final_observations: NDArray[np.float32]
    next_observations: NDArray[np.float32]

    @classmethod
    def empty(
        cls, steps: int, num_envs: int, observation_shape: tuple[int, ...], action_size: int, distribution_size: int
    ) -> Rollout:
        """Buffers for a rollout, whose contents are undefined.

        Args:
            steps: T.
            num_envs: N.
            observation_shape: Shape of one observation.
            action_size: A.
            distribution_size: L.
        """
        size = steps, num_envs
        return cls(
            observations=np.empty((*size, *observation_shape), np.float32),
            actions=np.empty((*size, action_size), np.float32),
            log_probs=np.empty(size, np.float32),
            action_distribution_inputs=np.empty((*size, distribution_size), np.float32),
            rewards=np.empty(size, np.float32),
            terminated=np.empty(size, bool),
            truncated=np.empty(size, bool),
            final_observations=np.empty((*size, *observation_shape), np.float32),
            next_observations=np.empty((num_envs, *observation_shape), np.float32),
        )

    def env_steps(self) -> int:
        """Returns the number of environment steps, T * N; called by RLlib."""
        return int(self.rewards.size)

    def __len__(self) -> int:
        """Returns the number of environment steps; called by RLlib."""
        return self.env_steps()

    def to_episodes(
        self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
    ) -> list[SingleAgentEpisode]:
        """Converts the steps to RLlib's episodes, for RLlib's own learner."""
        episodes = []
        steps, num_envs = self.rewards.shape
        for i in range(num_envs):
            edges = [0, *(np.flatnonzero(self.terminated[:, i] | self.truncated[:, i]) + 1).tolist(), steps]
            for begin, end in itertools.pairwise(edges):
                if begin < end:
                    episodes.append(self._episode(i, begin, end, observation_space, action_space))
        return episodes

    def _episode(self, i: int, begin: int, end: int, observation_space: Any, action_space: Any) -> SingleAgentEpisode:
        if self.truncated[end - 1, i]:
            following = self.final_observations[end - 1, i]
        elif end < len(self.rewards):  # terminated: RLlib wants an observation, but nothing is estimated from it
            following = self.observations[end, i]
        else:
            following = self.next_observations[i]
        is_discrete = isinstance(action_space, gymnasium.spaces.Discrete)
        taken = self.actions[begin:end, i]
        actions = [int(action[0]) for action in taken] if is_discrete else list(taken.astype(action_space.dtype))
        episode = SingleAgentEpisode(
            observations=[*self.observations[begin:end, i], following],
            observation_space=observation_space,
            actions=actions,
            action_space=action_space,
            rewards=self.rewards[begin:end, i].tolist(),
            terminated=bool(self.terminated[end - 1, i]),
            truncated=bool(self.truncated[end - 1, i]),
            extra_model_outputs={
                Columns.ACTION_LOGP: list(self.log_probs[begin:end, i]),
                Columns.ACTION_DIST_INPUTS: list(self.action_distribution_inputs[begin:end, i]),
            },
            len_lookback_buffer=0,
        )
        return episode.to_numpy()
