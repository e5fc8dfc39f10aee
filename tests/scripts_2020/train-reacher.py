"""A training script in the style of 2020: Ray 0.8's names, gym's old API, a dead launcher beside it."""

import gym
import ray  # noqa: F401
import roboschool  # noqa: F401
from ray.tune import run_experiments  # noqa: F401
from ray.tune.registry import register_env
from sagemaker_rl.ray_launcher import SageMakerRayLauncher


def create_environment(env_config):
    # Inside the function, so that worker processes import it too.

    return gym.make("RoboschoolReacher-v1")


class MyLauncher(SageMakerRayLauncher):
    def register_env_creator(self):
        register_env("RoboschoolReacher-v1", create_environment)

    def get_experiment_config(self):
        return {
            "training": {
                "env": "RoboschoolReacher-v1",
                "run": "PPO",
                "stop": {"episode_reward_mean": 18},
                "config": {
                    "ignore_worker_failures": True,
                    "use_pytorch": False,
                    "gamma": 0.995,
                    "kl_coeff": 1.0,
                    "num_sgd_iter": 20,
                    "lr": 0.0001,
                    "sgd_minibatch_size": 500,
                    "train_batch_size": 2000,
                    "monitor": True,
                    "model": {"free_log_std": True},
                    "num_workers": (self.num_cpus - 1),
                    "num_gpus": self.num_gpus,
                    "batch_mode": "truncate_episodes",
                    "observation_filter": "MeanStdFilter",
                },
            }
        }


if __name__ == "__main__":
    MyLauncher().train_main()
