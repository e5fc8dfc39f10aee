"""Trains Stable-Baselines3's PPO with its defaults on one task, plays the policy, and prints its mean return as JSON.

Arguments: environment id, keyword arguments as JSON, steps, seed, episodes to play.
"""

from __future__ import annotations

import json
import sys

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor


def main(env_id: str, arguments: str, steps: str, seed: str, episodes: str) -> None:
    """Trains and plays with one thread, as the network is small."""
    torch.set_num_threads(1)
    algorithm = PPO("MlpPolicy", Monitor(gymnasium.make(env_id, **json.loads(arguments))), seed=int(seed), device="cpu")
    algorithm.learn(int(steps))
    games = Monitor(gymnasium.make(env_id, **json.loads(arguments)))
    games.reset(seed=1000 + int(seed))
    mean, _ = evaluate_policy(algorithm, games, n_eval_episodes=int(episodes), deterministic=True)
    print(json.dumps(float(mean)))


if __name__ == "__main__":
    main(*sys.argv[1:])
