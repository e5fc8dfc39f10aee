"""Measures the limit of one core: only the environments' steps, PPO's matrix products, and Adam."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import threadpoolctl

from envs import ROBOSCHOOL_IDS
from envs.roboschool.vector_env import RoboschoolVectorEnv

_WORLDS = 8
_STEPS = 512
_MINIBATCH = 128
_EPOCHS = 10
_WIDTH = 64
_ROUNDS = 3


def limit(env_id: str) -> float:
    """Env steps a second of one iteration of the benchmark's equal work."""
    with threadpoolctl.threadpool_limits(1):
        seconds = [_stepping(env_id) + _products(env_id) for _ in range(_ROUNDS)]
    return _WORLDS * _STEPS / min(seconds)


def _stepping(env_id: str) -> float:
    if env_id in ROBOSCHOOL_IDS:
        worlds = RoboschoolVectorEnv(env_id.removeprefix("Roboschool").removesuffix("-v1"), _WORLDS, compat="bullet")
        worlds.reset(seed=0)
        shape = _STEPS, _WORLDS, *(worlds.single_action_space.shape or ())
        actions = np.random.default_rng(0).normal(size=shape).clip(-1, 1).astype(np.float32)
        worlds.advance(actions[0])
        started = time.perf_counter()
        for action in actions:
            worlds.advance(action)
        took = time.perf_counter() - started
        worlds.close()
        return took
    env: Any = gymnasium.make(env_id, disable_env_checker=True)
    choices = np.random.default_rng(0).integers(env.action_space.n, size=_WORLDS * _STEPS).tolist()
    env.reset(seed=0)
    started = time.perf_counter()
    for choice in choices:
        _, _, terminated, truncated, _ = env.step(choice)
        if terminated or truncated:
            env.reset()
    return time.perf_counter() - started


def _products(env_id: str) -> float:
    """Runs the matrix products: the policy for each step; both networks' passes and Adam for each minibatch."""
    env: Any = gymnasium.make(env_id, disable_env_checker=True)
    inputs = int(np.prod(env.observation_space.shape))
    outputs = int(np.prod(env.action_space.shape)) if env.action_space.shape else int(env.action_space.n)
    env.close()
    sizes = [(inputs, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, outputs)]
    rng = np.random.default_rng(0)

    def chains(rows: int, last: int) -> Any:
        shapes = [*sizes[:2], (_WIDTH, last)]
        return [tuple(rng.normal(size=s).astype(np.float32) for s in ((rows, a), (a, b), (rows, b))) for a, b in shapes]

    acting = chains(_WORLDS, outputs)
    learning = chains(_MINIBATCH, outputs) + chains(_MINIBATCH, 1)
    buffers = [(np.empty_like(y), np.empty_like(w), np.empty_like(x)) for x, w, y in learning]
    count = sum(w.size + w.shape[1] for _, w, _ in learning)
    flat = [rng.random(count).astype(np.float32) for _ in range(4)]
    started = time.perf_counter()
    for _ in range(_STEPS):
        for x, w, y in acting:
            np.dot(x, w, out=y)
    for _ in range(_EPOCHS * _WORLDS * _STEPS // _MINIBATCH):
        for (x, w, y), (forward, weights, backward) in zip(learning, buffers, strict=True):
            np.dot(x, w, out=forward)
            np.dot(x.T, y, out=weights)
            np.dot(y, w.T, out=backward)
        parameters, gradient, first, second = flat
        first += np.float32(0.1) * (gradient - first)
        second += np.float32(0.001) * (gradient * gradient - second)
        parameters -= np.float32(1e-9) * first / (np.sqrt(second) + np.float32(1e-8))
    return time.perf_counter() - started
