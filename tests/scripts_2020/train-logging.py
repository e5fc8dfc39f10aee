"""A training script in the style of 2020 that logs what it samples, or learns from what another run has logged."""

import argparse

import gym
import ray  # noqa: F401
from ray.tune.registry import register_env
from sagemaker_rl.ray_launcher import SageMakerRayLauncher


class MyLauncher(SageMakerRayLauncher):
    def register_env_creator(self):
        register_env("Pole", lambda env_config: gym.make("CartPole-v1"))

    def get_experiment_config(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--log_to")
        parser.add_argument("--learn_from")
        args, _ = parser.parse_known_args()
        where = {"output": args.log_to} if args.learn_from is None else {"input": args.learn_from}
        return {
            "training": {
                "env": "Pole",
                "run": "PPO" if args.learn_from is None else "IMPALA",
                "stop": {"episodes_total": 60},
                "config": {
                    **where,
                    "use_pytorch": False,
                    "gamma": 0.98,
                    "num_sgd_iter": 2,
                    "train_batch_size": 500,
                    "monitor": True,
                    "model": {"free_log_std": True},
                    "num_workers": 0,
                    "batch_mode": "truncate_episodes",
                },
            }
        }


if __name__ == "__main__":
    MyLauncher().train_main()
