"""A launcher as those of 2020: a scene of the registry, or an executable of the train channel, behind gym-unity."""

import os

import gym
from gym_unity.envs import UnityToGymWrapper
from mlagents_envs.environment import UnityEnvironment
from mlagents_envs.exception import UnityWorkerInUseException
from mlagents_envs.registry import default_registry
from ray.tune.registry import register_env
from sagemaker_rl.ray_launcher import SageMakerRayLauncher


class UnityScene(gym.Env):
    def __init__(self, env_config):
        self.worker_index = env_config.worker_index
        name = env_config["env_name"]
        channel = os.environ.get("SM_CHANNEL_TRAIN")
        if channel:
            name = os.path.join(channel, name)
            os.chmod(name, 0o755)
        unity_env = None
        while unity_env is None:
            options = {"no_graphics": True, "worker_id": self.worker_index, "additional_args": ["-logFile", "unity.log"]}
            try:
                if channel:
                    unity_env = UnityEnvironment(name, **options)
                else:
                    unity_env = default_registry[name].make(**options)
            except UnityWorkerInUseException:
                self.worker_index += 1
        self.env = UnityToGymWrapper(unity_env)
        self.action_space = self.env.action_space
        self.observation_space = self.env.observation_space

    def reset(self):
        return self.env.reset()

    def step(self, action):
        return self.env.step(action)


class MyLauncher(SageMakerRayLauncher):
    def register_env_creator(self):
        register_env("unity_env", lambda config: UnityScene(config))

    def get_experiment_config(self):
        return {
            "training": {
                "env": "unity_env",
                "run": "PPO",
                "stop": {"timesteps_total": 10000},
                "config": {
                    "gamma": 0.995,
                    "kl_coeff": 1.0,
                    "num_sgd_iter": 20,
                    "lr": 0.0001,
                    "sgd_minibatch_size": 100,
                    "train_batch_size": 500,
                    "monitor": True,
                    "model": {"free_log_std": True},
                    "env_config": {"env_name": "Basic"},
                    "num_workers": (self.num_cpus - 1),
                    "ignore_worker_failures": True,
                },
            }
        }


if __name__ == "__main__":
    MyLauncher().train_main()
