"""An evaluation script in the style of 2020."""

import argparse
import json
import os

import gym
import numpy as np
import ray
from gym import wrappers
from ray.rllib.agents.registry import get_agent_class
from ray.tune.registry import register_env

BASE = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")
MODEL_DIR = os.path.join(BASE, "input/data/model")
OUTPUT_DIR = os.path.join(BASE, "output/intermediate")


def create_environment(env_config):
    import roboschool  # noqa: F401

    return gym.make("RoboschoolReacher-v1")


def create_parser():
    parser = argparse.ArgumentParser(description="Roll out a reinforcement learning agent given a checkpoint.")
    parser.add_argument("--evaluate_episodes", type=int, default=None)
    parser.add_argument("--algorithm", type=str, default=None)
    parser.add_argument("--env", type=str, default=None)
    return parser


def run(args):
    checkpoint = os.path.join(MODEL_DIR, "checkpoint")
    with open(os.path.join(MODEL_DIR, "params.json")) as f:
        config = json.load(f)
    config["monitor"] = False
    config["num_workers"] = 1
    config["num_gpus"] = 0
    register_env(args.env, create_environment)
    cls = get_agent_class(args.algorithm)
    agent = cls(env=args.env, config=config)
    agent.restore(checkpoint)
    env = wrappers.Monitor(create_environment({}), OUTPUT_DIR, force=True, video_callable=lambda episode_id: True)
    all_rewards = []
    for _ in range(args.evaluate_episodes):
        steps, reward_total, done = 0, 0.0, False
        state = env.reset()
        while not done:
            next_state, reward, done, _ = env.step(agent.compute_action(state))
            reward_total += reward
            steps += 1
            state = next_state
        all_rewards.append(reward_total)
        print("Episode reward: %s. Episode steps: %s" % (reward_total, steps))  # noqa: UP031
    print("Mean Reward:", np.mean(all_rewards))
    print("Max Reward:", np.max(all_rewards))
    print("Min Reward:", np.min(all_rewards))


if __name__ == "__main__":
    arguments = create_parser().parse_args()
    ray.init(webui_host="127.0.0.1")
    run(arguments)
