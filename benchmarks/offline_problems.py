"""The problems of benchmarks/offline.py: their logging policies, hyperparameters, and true returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.offline.bcq import Recipe
from runtime.offline.data.reading import read_transitions
from runtime.offline.data.rollouts import Policy, VectoredGymEnvironment
from runtime.offline.data.transitions import Transitions
from runtime.policies.network_policy import NetworkPolicy

TRUTH_EPISODES = 100  # episodes that measure a policy's true return
CARTPOLE = Recipe("BCQ", (128, 128), "relu", 3e-4, 0.99, 128, 50, 0.3, "mse", 1.0, 0.999, 0)
_PENDULUM = replace(CARTPOLE, algorithm="IQL", gamma=0.95)
_COLLAPSING = replace(CARTPOLE, algorithm="DDQN", hidden=(64, 64), lr=1e-3, target_update=100, loss="huber")


@dataclass(frozen=True)
class Problem:
    """A log and how to learn from it.

    Attributes:
        env: Where it was logged.
        envs: Number of environment copies.
        episodes: Of each copy.
        behave: Makes the policy that acts in the log, from a seed.
        recipe: Hyperparameters of the algorithm.
        iterations: Number of off-policy evaluations.
        updates: Number of updates between two evaluations.
        runs_all: Whether every iteration's policy is measured, to find the best one; else only the chosen and the last.
        true_env: Environment in which true returns are measured: without a time limit, or with a later one.
        limit: Steps that count in the undiscounted return.
    """

    env: str
    envs: int
    episodes: int
    behave: Callable[[int], Policy]
    recipe: Recipe
    iterations: int
    updates: int
    runs_all: bool
    true_env: str
    limit: int


def uniform(_: int) -> Policy:
    """CartPole's log of the notebook."""
    return lambda states: np.full((len(states), 2), 0.5)


def swing(_: int) -> Policy:
    """A poor way to swing Acrobot up, half of the time; uniform actions else."""
    return lambda states: 0.5 * np.eye(3)[np.where(states[:, 4] + 0.5 * states[:, 5] > 0, 0, 2)] + 0.5 / 3


def pump(seed: int) -> Policy:
    """A pendulum's energy controller in three of ten steps; uniform torques else."""
    rng = np.random.default_rng(seed)

    def act(states: NDArray[np.float32]) -> NDArray[np.float64]:
        cosine, sine, speed = states.T
        energy = 0.5 * speed**2 + 15 * (cosine - 1)
        pumping = np.where(speed >= 0, 1.6, -1.6) * np.where(energy < 0, 1, -1)
        torque = np.where(cosine > 0.9, -8 * np.arctan2(sine, cosine) - 1.5 * speed, pumping).clip(-2, 2)
        mixed = rng.random(len(states)) < 0.7
        return np.asarray(np.where(mixed, rng.uniform(-2, 2, len(states)), torque)[:, None], np.float64)

    return act


PROBLEMS = {
    "seeds": Problem("CartPole-v0", 100, 5, uniform, CARTPOLE, 16, 250, True, "CartPole-v1", 200),
    "collapse": Problem("CartPole-v0", 100, 5, uniform, _COLLAPSING, 20, 250, True, "CartPole-v1", 200),
    "acrobot": Problem("Acrobot-v1", 100, 3, swing, CARTPOLE, 16, 500, False, "Acrobot-v1", 500),
    "pendulum": Problem("Pendulum-v1", 50, 2, pump, _PENDULUM, 12, 500, False, "Pendulum-v1", 200),
}


@dataclass(frozen=True)
class Truth:
    """A policy's true return in the environment.

    Attributes:
        mean_return: Over TRUTH_EPISODES episodes.
        discounted: Mean discounted return.
        error: How far that may be from the truth: two standard errors, and what followed after a time limit.
    """

    mean_return: float
    discounted: float
    error: float


def measure_truth(problem: Problem, policy: Policy, *, seed: int) -> Truth:
    """Runs a policy in the environment to measure its true return."""
    gamma = problem.recipe.gamma
    frame = VectoredGymEnvironment(problem.true_env, TRUTH_EPISODES, seed=1000 + seed).collect(policy, num_episodes=1)
    episodes, steps = frame["episode_id"], frame["transition_number"]
    discounted = (frame["reward"] * gamma**steps).groupby(episodes).sum()
    beyond = gamma ** (steps[frame["truncated"]] + 1) * frame["reward"].abs().max() / (1 - gamma)
    counted = frame["reward"].where(steps < problem.limit, 0).groupby(episodes).sum()
    error = 2 * float(discounted.std() / np.sqrt(len(discounted))) + float(beyond.sum() / TRUTH_EPISODES)
    return Truth(float(counted.mean()), float(discounted.mean()), error)


def as_policy(policy: NetworkPolicy) -> Policy:
    """A trained policy for the rollouts."""
    if policy.kind == "greedy":
        return lambda states: policy.probabilities(states).astype(np.float64)
    return lambda states: policy.actions(states).astype(np.float64)


def collect(problem: Problem, seed: int, path: Path) -> Transitions:
    """Logs to a CSV file, and reads that."""
    envs = VectoredGymEnvironment(problem.env, problem.envs, seed=seed)
    envs.collect(problem.behave(seed), num_episodes=problem.episodes).to_csv(path, index=False)
    return read_transitions(path)
