"""Stable-Baselines3's PPO, with the benchmark's equal settings or with its own best-known ones."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from benchmarks.ppo_peers.counting import Clock, makers, quiet, read_job

_EQUAL: dict[str, Any] = {
    **{"n_steps": 512, "batch_size": 128, "n_epochs": 10, "learning_rate": 3e-4, "gamma": 0.99, "gae_lambda": 0.95},
    "policy_kwargs": {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": nn.Tanh},
}


def _falling(start: float) -> Any:
    return lambda left: start * left


# RL Baselines3 Zoo's for CartPole; for the robots, what a study of ours found fastest with this library.
_OWN: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        **{"envs": 8, "total": 100_000, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98},
        **{"gae_lambda": 0.8, "learning_rate": _falling(1e-3), "clip_range": _falling(0.2)},
    },
    "RoboschoolReacher-v1": {
        **{"envs": 16, "total": 500_000, "n_steps": 256, "batch_size": 256, "n_epochs": 10, "gamma": 0.98},
        **{"gae_lambda": 0.9, "learning_rate": _falling(1e-3), "normalized": True},
        "policy_kwargs": {"log_std_init": -0.5},
    },
    "RoboschoolHopper-v1": {
        **{"envs": 8, "total": 2_000_000, "n_steps": 512, "batch_size": 256, "n_epochs": 10, "gamma": 0.99},
        **{"gae_lambda": 0.92, "learning_rate": _falling(2e-4), "clip_range": _falling(0.4), "normalized": True},
        **{"use_sde": True, "sde_sample_freq": 4},
        "policy_kwargs": {
            **{"log_std_init": -2, "ortho_init": False, "activation_fn": nn.ReLU},
            "net_arch": {"pi": [128, 128], "vf": [128, 128]},
        },
    },
}


class _Marks(BaseCallback):  # type: ignore[misc]  # types are where the peers are installed
    def __init__(self, clock: Clock, most_steps: int) -> None:
        super().__init__()
        self._clock = clock
        self._most_steps = most_steps
        self._is_reached = False

    def _on_rollout_start(self) -> None:
        self._is_reached = self._clock.mark(self.num_timesteps)

    def _on_step(self) -> bool:
        return not self._is_reached and self.num_timesteps <= self._most_steps


def main() -> None:
    """Trains, and prints one line of JSON."""
    job = read_job()
    torch.set_num_threads(1)
    returns: list[float] = []
    is_own = job.get("threshold") is not None
    settings = dict(_OWN[job["env"]] if is_own else _EQUAL)
    total = settings.pop("total", job["steps"])
    is_normalized = settings.pop("normalized", False)
    clock = Clock(returns, threshold=job.get("threshold"))
    with quiet():
        envs: Any = DummyVecEnv(makers(job["env"], settings.pop("envs", 8), returns))
        if is_normalized:
            envs = VecNormalize(envs, gamma=settings["gamma"])
        model = PPO("MlpPolicy", envs, seed=job["seed"], device="cpu", **settings)
        model.learn(total + 8 * settings["n_steps"], callback=_Marks(clock, job["steps"]))
    clock.report()


if __name__ == "__main__":
    main()
