"""Evaluates a policy while it is trained."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from gymnasium.wrappers import TimeLimit

from runtime.environments.recording import play
from runtime.environments.spec import EnvSpec, make_env
from runtime.policies.acting import ActingPolicy

METRIC = "evaluation_reward_mean"
STATE = "evaluation"  # in the job's extra state, whose score chooses the best checkpoint
_MOST_STEPS = 100_000  # of an episode, as a deterministic policy may never end one
_STREAM = 0x65766131  # apart from the seeds of training


class Evaluator:
    """Plays whole episodes with the deterministic policy, from the same starts each time, so that scores compare.

    Args:
        spec: Environment of the job, of which the evaluator makes one of its own.
        episodes: Number of episodes of an evaluation.
        seed: Seed of the job.
    """

    def __init__(self, spec: EnvSpec, *, episodes: int, seed: int) -> None:
        self._spec = spec
        self._env: Any = None
        self._seeds = [int(one) for one in np.random.SeedSequence([seed, _STREAM]).generate_state(episodes)]

    def evaluate(self, policy: ActingPolicy) -> float:
        """Returns the mean return of the episodes.

        Raises:
            UserError: The environment cannot be made, or is at fault.
        """
        if self._env is None:
            self._env = TimeLimit(make_env(self._spec), _MOST_STEPS)
        return statistics.fmean(play(self._env, policy, seed=seed).total_reward for seed in self._seeds)

    def close(self) -> None:
        """Frees the environment."""
        if self._env is not None:
            self._env.close()
