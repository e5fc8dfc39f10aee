"""Makes a job's environment for RLlib's env runners."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np

from runtime.environments.adapting import is_image
from runtime.environments.spec import EnvSpec, make_env
from runtime.rllib.transition_log import TransitionLog


@dataclasses.dataclass(frozen=True)
class EnvMaker:
    """Makes the job's environment; RLlib's registry of environments holds it.

    Attributes:
        spec: Environment to make.
        threads: Threads that step the compiled worlds of one env runner.
        keeps_bytes: Whether images of bytes stay bytes, a quarter of the floats that policies take otherwise.
    """

    spec: EnvSpec
    threads: int = 1
    keeps_bytes: bool = False

    def __call__(self, context: dict[str, Any]) -> gymnasium.Env[Any, Any]:
        """Makes one environment; called by RLlib with its EnvContext."""
        env = make_env(self.spec, context=context)
        if self.keeps_bytes and is_image(env.observation_space) and env.unwrapped.observation_space.dtype == np.uint8:
            env = gymnasium.wrappers.DtypeObservation(env, np.uint8)
        if self.spec.transitions_folder is not None:
            numbers = getattr(context, "worker_index", 0), getattr(context, "vector_index", 0)
            env = TransitionLog(env, self.spec.transitions_folder, worker=numbers[0], number=numbers[1])
        scale = self.spec.reward_scale
        # Outside of the monitor that reports returns.
        return env if scale == 1.0 else gymnasium.wrappers.TransformReward(env, lambda reward: scale * float(reward))
