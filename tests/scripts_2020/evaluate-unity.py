"""An evaluation script in the style of 2020: a scene that cannot be rendered, and that nobody closes."""

import argparse
import os

import gym
import numpy as np
import ray
from gym import wrappers
from gym_unity.envs import UnityToGymWrapper
from mlagents_envs.environment import UnityEnvironment
from mlagents_envs.exception import UnityWorkerInUseException
from ray.rllib.agents.registry import get_agent_class
from ray.tune.registry import register_env

BASE = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")


class UnityScene(gym.Env):
    def __init__(self, env_config):
        self.worker_index = 0
        name = os.path.join(os.environ["SM_CHANNEL_TRAIN"], env_config["env_name"])
        os.chmod(name, 0o755)
        while True:
            try:
                unity_env = UnityEnvironment(name, no_graphics=True, worker_id=self.worker_index)
            except UnityWorkerInUseException:
                self.worker_index += 1
            else:
                break
        self.env = UnityToGymWrapper(unity_env)
        self.action_space = self.env.action_space
        self.observation_space = self.env.observation_space

    def reset(self):
        return self.env.reset()

    def step(self, action):
        return self.env.step(action)


def run(args):
    ray.init(webui_host="127.0.0.1")
    env_config = {"env_name": args.env}
    register_env("unity_env", lambda config: UnityScene(env_config))
    agent = get_agent_class(args.algorithm)(env="unity_env", config={"monitor": False, "num_workers": 0})
    agent.restore(os.path.join(BASE, "input/data/model/checkpoint"))
    waiting = UnityScene(env_config)  # noqa: F841  # its port is taken when the next one starts
    env = UnityScene(env_config)
    env = wrappers.Monitor(env, os.path.join(BASE, "output/intermediate"), force=True, video_callable=lambda episode: True)
    all_rewards = []
    for _ in range(args.evaluate_episodes):
        state, done, steps, reward_total = env.reset(), False, 0, 0.0
        while not done:
            state, reward, done, _ = env.step(agent.compute_action(state))
            reward_total += reward
            steps += 1
        all_rewards.append(reward_total)
        print("Episode reward: %s. Episode steps: %s" % (reward_total, steps))  # noqa: UP031
    print("Mean Reward:", np.mean(all_rewards))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithm", type=str, required=True)
    parser.add_argument("--env", type=str)
    parser.add_argument("--evaluate_episodes", type=int)
    run(parser.parse_args())
