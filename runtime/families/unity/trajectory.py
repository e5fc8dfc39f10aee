"""Collects one agent's decisions for the learner."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode


class Trajectory:
    """Decisions of an agent with their results; the last one may still wait for its result.

    Attributes:
        total_reward: Return of the episode so far, over all chunks.
        steps: Decisions of the episode so far, over all chunks.

    Args:
        observation: Initial observation, as the network sees it.
    """

    def __init__(self, observation: Any) -> None:
        self._observations = [observation]
        self._decisions = list[dict[str, Any]]()
        self._rewards = list[float]()
        self.total_reward = 0.0
        self.steps = 0

    def __len__(self) -> int:
        """Returns the number of decisions with a result."""
        return len(self._rewards)

    def decide(self, decision: dict[str, Any]) -> None:
        """Adds an action with the network's outputs, by RLlib's column names."""
        self._decisions.append(decision)

    def complete(self, reward: float, observation: Any) -> None:
        """Adds the result of the last decision."""
        self._rewards.append(reward)
        self._observations.append(observation)
        self.total_reward += reward
        self.steps += 1

    def take(self, *, terminated: bool = False, truncated: bool = False) -> SingleAgentEpisode:
        """Takes the decisions with results for the learner; later decisions continue the episode.

        A decision that still waits stays, and so does the observation that it was made on.
        """
        done = len(self._rewards)
        actions = [decision.pop(Columns.ACTIONS) for decision in self._decisions[:done]]
        outputs = {key: [decision[key] for decision in self._decisions[:done]] for key in self._decisions[0]}
        chunk = SingleAgentEpisode(
            observations=self._observations,
            actions=actions,
            rewards=self._rewards,
            extra_model_outputs=outputs,
            terminated=terminated,
            truncated=truncated,
            len_lookback_buffer=0,
        )
        self._observations = [self._observations[-1]]
        self._rewards = []
        self._decisions = self._decisions[done:]
        return chunk.to_numpy()


def make_decisions(actions: Any, outputs: dict[str, np.ndarray[Any, Any]], rows: int) -> list[dict[str, Any]]:
    """Splits a batch of actions and network outputs into one decision per row.

    Args:
        actions: (B, …) actions, or a tuple of such arrays for hybrid actions.
        outputs: (B, …) network outputs by name.
        rows: Number B of rows.
    """
    found = []
    for row in range(rows):
        action = tuple(part[row] for part in actions) if isinstance(actions, tuple) else actions[row]
        found.append({Columns.ACTIONS: action, **{key: values[row] for key, values in outputs.items()}})
    return found
