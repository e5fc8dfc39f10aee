"""Compiled collection of rollouts: observations normalized, actions sampled and scaled, environments stepped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.compiled import fused_without_gil
from envs.roboschool.kernels import advance
from runtime.ppo.compiled.network_kernels import sample_actions

if TYPE_CHECKING:
    from runtime.ppo.rollout import Rollout


@fused_without_gil
def normalize_observations(observations: Any, mean: Any, deviation: Any, clip: float, normalized: Any) -> None:
    """Writes (B, O) observations as the network sees them: clip((x - mean) / deviation, -clip, clip)."""
    for row in range(len(observations)):
        for i in range(observations.shape[1]):
            normalized[row, i] = min(max((observations[row, i] - mean[i]) / deviation[i], -clip), clip)


@fused_without_gil
def scale_actions(actions: Any, low: Any, high: Any, half_range: Any, scaled: Any) -> None:
    """Writes (B, A) actions in the environment's units, clipped to its bounds.

    Args:
        actions: (B, A) of the policy, in ±1 where `half_range` is positive.
        low: (A,) lower bounds, which may be -inf.
        high: (A,) upper bounds, which may be inf.
        half_range: (A,) half the distance of the bounds; 0 where actions are in the environment's units already.
        scaled: (B, A), written.
    """
    for row in range(len(actions)):
        for i in range(actions.shape[1]):
            value = actions[row, i]
            if half_range[i] > 0:
                value = low[i] + (value + np.float32(1.0)) * half_range[i]
            scaled[row, i] = min(max(value, low[i]), high[i])


def list_buffers(
    rollout: Rollout,
    raw_observations: NDArray[np.float32],
    returns: NDArray[np.float64],
    lengths: NDArray[np.int64],
) -> tuple[NDArray[Any], ...]:
    """Lists a rollout's arrays in the order of the argument `buffers` of `collect_rollout`.

    Args:
        rollout: The rollout to fill.
        raw_observations: (T, N, O) observations before the filter.
        returns: (T, N) return of each episode, written where one ends.
        lengths: (T, N) length of each episode in steps, written where one ends.
    """
    return (
        raw_observations,
        rollout.observations,
        rollout.actions,
        rollout.log_probs,
        rollout.action_distribution_inputs,
        rollout.rewards,
        rollout.terminated,
        rollout.truncated,
        rollout.final_observations,
        returns,
        lengths,
    )


@fused_without_gil
def collect_rollout(
    network: Any,
    parameters: Any,
    normalization: Any,
    action_range: Any,
    worlds: Any,
    state: Any,
    buffers: Any,
    noise: Any,
    noise_every: int,
    part: Any,
    span: Any,
    max_steps: int,
) -> None:
    """Collects some steps of a rollout in compiled worlds: observe, normalize, act, step, without Python.

    Args:
        network: Record of `NETWORK`.
        parameters: (P,) weights and biases.
        normalization: Mean (O,), deviation (O,) and clip of `normalize_observations`.
        action_range: Low, high and half range (A,) of `scale_actions`.
        worlds: (N,) records of the environment.
        state: The environment's current and final observations, (N, O) each, kept from call to call.
        buffers: Arrays of the rollout, (T, N, …), in the order of `list_buffers`.
        noise: (T // noise_every, N, …) of `sample_actions`.
        noise_every: Steps that share a draw of the noise.
        part: First of the worlds that this call steps, and one past the last.
        span: First of the steps, and one past the last.
        max_steps: Time limit of an episode.
    """
    first, past = part
    worlds = worlds[first:past]
    observations = state[0][first:past]
    final = state[1][first:past]
    (
        all_raw,
        all_normalized,
        all_actions,
        all_log_probs,
        all_distribution_inputs,
        rewards,
        terminated,
        truncated,
        all_final,
        returns,
        lengths,
    ) = buffers
    activations = np.empty(len(worlds) * network.width, np.float32)
    scaled = np.empty((len(worlds), all_actions.shape[2]), np.float32)
    normalized = np.empty_like(observations)
    distribution_inputs = np.empty((len(worlds), all_distribution_inputs.shape[2]), np.float32)
    actions = np.empty_like(scaled)
    log_probs = np.empty(len(worlds), np.float32)
    for t in range(span[0], span[1]):
        all_raw[t, first:past] = observations
        normalize_observations(observations, normalization[0], normalization[1], normalization[2], normalized)
        drawn = np.ascontiguousarray(noise[t // noise_every, first:past])
        sample_actions(network, parameters, normalized, drawn, activations, actions, log_probs, distribution_inputs)
        all_normalized[t, first:past], all_actions[t, first:past] = normalized, actions
        all_log_probs[t, first:past], all_distribution_inputs[t, first:past] = log_probs, distribution_inputs
        scale_actions(actions, action_range[0], action_range[1], action_range[2], scaled)
        advance(
            worlds,
            scaled,
            observations,
            final,
            rewards[t, first:past],
            terminated[t, first:past],
            truncated[t, first:past],
            returns[t, first:past],
            lengths[t, first:past],
            max_steps,
        )
        for i in range(len(worlds)):
            if truncated[t, first + i]:
                all_final[t, first + i] = final[i]
