"""Sampling compiled: what the network sees, what the environment gets, whole rollouts, and what they were worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.compiled import fused_without_gil
from envs.roboschool.kernels import advance
from runtime.ppo.compiled.network_kernels import act


@fused_without_gil
def normalize(raw: Any, mean: Any, deviation: Any, clip: float, found: Any) -> None:
    """(B, I) observations as the network sees them: clip((x - mean) / deviation)."""
    for row in range(len(raw)):
        for i in range(raw.shape[1]):
            found[row, i] = min(max((raw[row, i] - mean[i]) / deviation[i], -clip), clip)


@fused_without_gil
def to_environment(actions: Any, low: Any, high: Any, half_range: Any, found: Any) -> None:
    """Actions of ±1 in the environment's units where there is a range, and within bounds, which may be infinite."""
    for row in range(len(actions)):
        for i in range(actions.shape[1]):
            value = actions[row, i]
            if half_range[i] > 0:
                value = low[i] + (value + np.float32(1.0)) * half_range[i]
            found[row, i] = min(max(value, low[i]), high[i])


@fused_without_gil
def collect(
    network: Any,
    parameters: Any,
    filtered: Any,
    ranges: Any,
    worlds: Any,
    state: Any,
    buffers: Any,
    noise: Any,
    noise_every: int,
    part: Any,
    span: Any,
    max_steps: int,
) -> None:
    """A span of a rollout in compiled worlds: observe, act, step, all without Python.

    Args:
        network: Of `NETWORK`.
        parameters: (P,).
        filtered: Mean, deviation (I,) and clip of the observation filter.
        ranges: Bounds and half the range (A,) of the environment's actions, as of `to_environment`.
        worlds: (N,) of the environment's own records.
        state: Observations (N, I) and last observations (N, I), kept from call to call.
        buffers: Of the rollout, (T, N, …): raw and seen observations, actions, logp, distribution inputs, rewards,
            terminated, truncated, last observations, returns, lengths.
        noise: (T // noise_every, N, …) for `act`.
        noise_every: Steps that share a draw.
        part: First and past the last of the worlds that this call steps.
        span: First and past the last step.
        max_steps: Where episodes are cut.
    """
    first, behind = part
    worlds, observations, last = worlds[first:behind], state[0][first:behind], state[1][first:behind]
    raws, seens, actions, logps, founds, rewards, terminated, truncated, lasts, returns, lengths = buffers
    scratch = np.empty(len(worlds) * network.width, np.float32)
    moves = np.empty((len(worlds), actions.shape[2]), np.float32)
    seen, found = np.empty_like(observations), np.empty((len(worlds), founds.shape[2]), np.float32)
    action, logp = np.empty_like(moves), np.empty(len(worlds), np.float32)
    for t in range(span[0], span[1]):
        raws[t, first:behind] = observations
        normalize(observations, filtered[0], filtered[1], filtered[2], seen)
        drawn = np.ascontiguousarray(noise[t // noise_every, first:behind])
        act(network, parameters, seen, drawn, scratch, action, logp, found)
        seens[t, first:behind], actions[t, first:behind] = seen, action
        logps[t, first:behind], founds[t, first:behind] = logp, found
        to_environment(action, ranges[0], ranges[1], ranges[2], moves)
        advance(
            worlds,
            moves,
            observations,
            last,
            rewards[t, first:behind],
            terminated[t, first:behind],
            truncated[t, first:behind],
            returns[t, first:behind],
            lengths[t, first:behind],
            max_steps,
        )
        for i in range(len(worlds)):
            if truncated[t, first + i]:
                lasts[t, first + i] = last[i]


@fused_without_gil
def advantages(
    rewards: Any, values: Any, following: Any, terminated: Any, truncated: Any, gamma: float, lam: float, found: Any
) -> None:
    """Generalised advantages (T, N).

    Args:
        rewards: (T, N).
        values: (T + 1, N); the last row is of what follows the rollout.
        following: (T, N), the value of an episode's last observation where it was truncated.
        terminated: (T, N); nothing is expected after it.
        truncated: (T, N); `following` is expected after it.
        gamma: Discount per step.
        lam: Of the generalised advantage estimation.
        found: (T, N), written.

    Source: Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation, eq. 16.
    """
    steps, count = rewards.shape
    for i in range(count):
        running = np.float64(0.0)
        for t in range(steps - 1, -1, -1):
            expected = np.float64(values[t + 1, i])
            if terminated[t, i]:
                expected, running = np.float64(0.0), np.float64(0.0)
            elif truncated[t, i]:
                expected, running = np.float64(following[t, i]), np.float64(0.0)
            running = rewards[t, i] + gamma * expected - values[t, i] + gamma * lam * running
            found[t, i] = running
