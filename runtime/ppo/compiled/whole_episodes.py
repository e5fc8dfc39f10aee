"""Batches of whole episodes (`batch_mode: complete_episodes`), from environments that go on from rollout to rollout.

Each environment's last episode, which a rollout cuts, is kept until a later rollout ends it. Its first steps were then
sampled by an older policy; PPO's ratio takes the log probabilities that they were sampled with.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from runtime.ppo.rollout import Rollout

_OF_STEPS = tuple(one.name for one in dataclasses.fields(Rollout) if one.name != "next_observations")


class WholeEpisodes:
    """Joins the rollouts of N environments, and takes out the episodes that have ended."""

    def __init__(self) -> None:
        self._rollouts: list[Rollout] = []

    def add(self, rollout: Rollout) -> None:
        """Adds the rollout that follows the last one."""
        if not self._rollouts:
            self._begins = np.zeros(rollout.rewards.shape[1], np.int64)
            self._ends = self._begins.copy()
        before = sum(len(one.rewards) for one in self._rollouts)
        has_ended = rollout.terminated | rollout.truncated
        newest = len(has_ended) - np.argmax(has_ended[::-1], axis=0)
        self._ends = np.where(has_ended.any(axis=0), before + newest, self._ends)
        self._rollouts.append(rollout)

    def count_steps(self) -> int:
        """Counts the steps of the episodes that have ended."""
        return int((self._ends - self._begins).sum()) if self._rollouts else 0

    def take(self) -> Rollout:
        """Takes out the episodes that have ended, one after the other, as a rollout (T, 1) of one environment."""
        joined = {name: np.concatenate([getattr(one, name) for one in self._rollouts]) for name in _OF_STEPS}
        spans = [np.arange(begin, end) for begin, end in zip(self._begins, self._ends, strict=True)]
        steps = np.concatenate(spans)
        envs = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        taken = {name: array[steps, envs][:, None] for name, array in joined.items()}
        oldest = int(self._ends.min())  # all before it are taken
        left = {name: array[oldest:] for name, array in joined.items()}
        self._rollouts = [Rollout(**left, next_observations=self._rollouts[-1].next_observations)]
        self._begins = self._ends = self._ends - oldest
        return Rollout(**taken, next_observations=taken["observations"][-1])  # not used: the last step ends an episode
