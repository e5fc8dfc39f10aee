"""PPO's update from top to bottom, in the order of the paper, compiled by numba.

1. An env runner collects T steps of N environments and normalizes their observations (`rollout_kernels.py`).
2. `make_train_batch`: value estimates, advantages and value targets.
3. `draw_minibatches`: the epochs of shuffled minibatches.
4. `update_on_minibatches`: for each minibatch, the gradient of the loss and a step of Adam.
5. `loss_gradient`: probability ratio, clipped surrogate (eq. 7), entropy bonus (eq. 9), KL penalty (eq. 8), value loss.
6. `apply_gradient`: clips the gradient's norm and takes the step of Adam.

`learner.py` runs these steps inside RLlib's learner, which adapts the KL coefficient after each update (section 4).

Gradients are derived by hand: d_x stands for the derivative of the loss by x. Shapes are those of `network_kernels`,
and M minibatches.

Source: Schulman et al. 2017, Proximal policy optimization algorithms, arXiv:1707.06347; the loss is RLlib's (ray 2.60,
`ppo_torch_learner.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from envs.compiled import fused_without_gil
from runtime.ppo.advantages import generalized_advantages
from runtime.ppo.compiled.barrier import wait_at
from runtime.ppo.compiled.network_kernels import (
    ACTIVATION,
    CATEGORICAL,
    FREE_GAUSSIAN,
    GAUSSIAN,
    RELU,
    TANH,
    action_distribution,
    forward,
    layer_biases,
    layer_outputs,
    layer_weights,
    log_probability,
    log_sum_exp,
    policy_features,
)
from runtime.ppo.rollout import Rollout

# A minibatch's chunks: enough for as many cores, and enough rows for matrix products at full speed.
_MOST_CHUNKS = 16
_LEAST_ROWS = 128
_LEAST_DEVIATION = 1e-4  # of advantages, when they are standardized; as RLlib's

# Settings of an update under RLlib's names; `adam_steps` counts on.
UPDATE_SETTINGS = np.dtype(
    [
        (name, np.float64)
        for name in (
            *("clip_param", "vf_clip_param", "vf_loss_coeff", "entropy_coeff", "kl_coeff", "grad_clip"),
            *("lr", "beta1", "beta2", "epsilon", "adam_steps", "torch_skip_nan_gradients"),
        )
    ]
)


class TrainBatch(NamedTuple):
    """Steps to learn from, or a minibatch of them.

    Attributes:
        observations: (B, …) float32, normalized as the network sees them.
        actions: (B, A) float32; a discrete action is a whole number in (B, 1).
        log_probs: (B,) log probabilities of the actions when they were sampled.
        action_distribution_inputs: (B, L) inputs of the distributions that they were sampled from.
        advantages: (B,) standardized over the batch.
        value_targets: (B,) returns that the value function learns.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    log_probs: NDArray[np.float32]
    action_distribution_inputs: NDArray[np.float32]
    advantages: NDArray[np.float32]
    value_targets: NDArray[np.float32]

    def rows(self, rows: NDArray[np.int64]) -> TrainBatch:
        """Selects these rows as a minibatch."""
        return TrainBatch(*(column[rows] for column in self))


def make_train_batch(
    rollouts: Sequence[Rollout],
    estimate_values: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    gamma: float,
    lambda_: float,
) -> TrainBatch:
    """Joins all rollouts into one batch, with advantages standardized over all of them.

    Args:
        rollouts: The rollouts of all env runners.
        estimate_values: The value function: (B, …) observations to (B,) values.
        gamma: Discount factor in [0, 1].
        lambda_: Trace decay of the advantages in [0, 1].
    """
    batches = [_with_advantages(rollout, estimate_values, gamma, lambda_) for rollout in rollouts]
    columns = zip(*batches, strict=True)
    batch = TrainBatch(*(parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in columns))
    advantages = batch.advantages
    deviation = max(_LEAST_DEVIATION, float(advantages.std()))
    return batch._replace(advantages=((advantages - advantages.mean()) / deviation).astype(np.float32))


def _with_advantages(
    rollout: Rollout,
    estimate_values: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    gamma: float,
    lambda_: float,
) -> TrainBatch:
    """Arranges a rollout's steps as rows, with their advantages and value targets."""
    observation_shape = rollout.observations.shape[2:]
    values = estimate_values(rollout.observations.reshape(-1, *observation_shape)).reshape(rollout.rewards.shape)
    next_values = estimate_values(rollout.next_observations)
    bootstrap_values = np.zeros_like(rollout.rewards)
    if rollout.truncated.any():
        final_observations = np.ascontiguousarray(rollout.final_observations[rollout.truncated])
        bootstrap_values[rollout.truncated] = estimate_values(final_observations)
    advantages = generalized_advantages(
        rollout.rewards,
        np.concatenate([values, next_values[None]]),
        rollout.terminated | rollout.truncated,
        gamma=gamma,
        lambda_=lambda_,
        bootstrap_values=bootstrap_values,
    )
    columns = TrainBatch(
        observations=rollout.observations,
        actions=rollout.actions,
        log_probs=rollout.log_probs,
        action_distribution_inputs=rollout.action_distribution_inputs,
        advantages=advantages,
        value_targets=advantages + values,
    )
    return TrainBatch(*(column.reshape(-1, *column.shape[2:]) for column in columns))


def draw_minibatches(rows: int, size: int | None, epochs: int, *, is_shuffled: bool) -> NDArray[np.int64]:
    """Draws the rows of each minibatch of an update.

    Args:
        rows: Rows of the train batch.
        size: Rows of a minibatch; all rows if None.
        epochs: Passes over the batch.
        is_shuffled: Whether each epoch has an order of its own.

    Returns:
        (M, size): the epochs one after another, the last minibatch filled up from the beginning of the last epoch.
    """
    size = min(size or rows, rows)
    # Seeded from PyTorch's generator, whose state checkpoints keep; some environments seed NumPy's global one.
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    orders = [rng.permutation(rows) if is_shuffled else np.arange(rows) for _ in range(epochs)]
    order = np.concatenate(orders)
    missing = -len(order) % size
    return np.concatenate([order, orders[-1][:missing]]).reshape(-1, size)


def count_chunks(size: int) -> int:
    """Returns into how many chunks of rows a minibatch is split; it does not depend on the number of threads."""
    return max(1, min(_MOST_CHUNKS, size // _LEAST_ROWS))


@fused_without_gil
def update_on_minibatches(
    networks: Any,
    settings: Any,
    parameters: Any,
    mean: Any,
    mean_square: Any,
    batch: Any,
    minibatches: Any,
    gradients: Any,
    thread: int,
    threads: int,
    barrier: int,
) -> None:
    """Takes a step of Adam on each minibatch, as one of several threads that call this at the same time.

    Each minibatch is split into C chunks. A thread computes the gradients of every T-th chunk; the first thread then
    sums all of them, always in the same order, and takes the step. So the result does not depend on T.

    Args:
        networks: (1,) record of `NETWORK`.
        settings: (1,) record of `UPDATE_SETTINGS`; its `adam_steps` counts on.
        parameters: (P,), changed.
        mean: (P,) Adam's mean of gradients, changed.
        mean_square: (P,) Adam's mean of squared gradients, changed.
        batch: `TrainBatch` of the whole iteration, with observations (B, O).
        minibatches: (M, size) rows of each minibatch.
        gradients: (C, P) zeros that all threads share.
        thread: Number of this thread.
        threads: Number of threads T.
        barrier: Address of a `Barrier` of T threads, read where there is more than one.
    """
    network, setting = networks[0], settings[0]
    size, chunks = minibatches.shape[1], gradients.shape[0]
    most = (size + chunks - 1) // chunks
    activations = np.empty(most * network.width, np.float32)
    d_activations = np.empty_like(activations)
    own = TrainBatch(
        np.empty((most, batch.observations.shape[1]), np.float32),
        np.empty((most, batch.actions.shape[1]), np.float32),
        np.empty(most, np.float32),
        np.empty((most, batch.action_distribution_inputs.shape[1]), np.float32),
        np.empty(most, np.float32),
        np.empty(most, np.float32),
    )
    for rows in minibatches:
        for chunk in range(thread, chunks, threads):
            begin, end = chunk * size // chunks, (chunk + 1) * size // chunks
            count = end - begin
            for i in range(count):
                row = rows[begin + i]
                own.observations[i], own.actions[i] = batch.observations[row], batch.actions[row]
                own.log_probs[i] = batch.log_probs[row]
                own.action_distribution_inputs[i] = batch.action_distribution_inputs[row]
                own.advantages[i], own.value_targets[i] = batch.advantages[row], batch.value_targets[row]
            part = TrainBatch(
                own.observations[:count],
                own.actions[:count],
                own.log_probs[:count],
                own.action_distribution_inputs[:count],
                own.advantages[:count],
                own.value_targets[:count],
            )
            loss_gradient(network, setting, parameters, part, activations, d_activations, gradients[chunk])
        if threads > 1:
            wait_at(barrier)
        if thread == 0:
            _sum_chunks(gradients, size)
            apply_gradient(setting, parameters, gradients[0], mean, mean_square)
        if threads > 1:
            wait_at(barrier)


@fused_without_gil
def _sum_chunks(gradients: Any, size: int) -> None:
    """Replaces the first of (C, P) gradients by the mean over the minibatch's `size` rows."""
    chunks = gradients.shape[0]
    total = gradients[0]
    if chunks == 1:
        return
    for chunk in range(chunks):
        count = (chunk + 1) * size // chunks - chunk * size // chunks
        share = np.float32(count / size)
        gradient = gradients[chunk]
        if chunk == 0:
            for i in range(len(total)):
                total[i] *= share
        else:
            for i in range(len(total)):
                total[i] += share * gradient[i]


@fused_without_gil
def loss_gradient(
    network: Any, setting: Any, parameters: Any, batch: Any, activations: Any, d_activations: Any, gradient: Any
) -> None:
    """Computes the gradient of PPO's loss on a minibatch.

    The loss is the mean over the minibatch of
    -surrogate + vf_loss_coeff * value loss - entropy_coeff * entropy + kl_coeff * KL divergence.

    Args:
        network: Record of `NETWORK`.
        setting: Record of `UPDATE_SETTINGS`.
        parameters: (P,) weights and biases.
        batch: `TrainBatch` with observations (B, O).
        activations: Buffer for B rows.
        d_activations: Another of the same size.
        gradient: (P,), written.
    """
    observations = batch.observations
    rows = len(observations)
    # The policy as it is now. Layers that policy and value function share run once.
    distribution_inputs = np.empty((rows, network.distribution_size), np.float32)
    action_distribution(network, parameters, observations, activations, distribution_inputs)
    d_inputs = np.empty_like(distribution_inputs)
    for row in range(rows):
        # Probability ratio r = π(a | s) / π_old(a | s), section 3.
        now = distribution_inputs[row]
        before = batch.action_distribution_inputs[row]
        action, advantage = batch.actions[row], batch.advantages[row]
        ratio = math.exp(log_probability(network, now, action) - batch.log_probs[row])
        # Clipped surrogate min(r A, clip(r, 1 - ε, 1 + ε) A), eq. 7: constant where the clipped term is the smaller
        # one; elsewhere its derivative by log π is r A.
        is_clipped = (advantage > 0 and ratio > 1.0 + setting.clip_param) or (
            advantage < 0 and ratio < 1.0 - setting.clip_param
        )
        d_log_prob = 0.0 if is_clipped else -advantage * ratio / rows
        # Entropy bonus S[π], eq. 9, and penalty β KL[π_old, π], eq. 8.
        entropy_coeff, kl_coeff = setting.entropy_coeff / rows, setting.kl_coeff / rows
        if network.kind == CATEGORICAL:
            _categorical_derivative(now, before, int(action[0]), d_log_prob, entropy_coeff, kl_coeff, d_inputs[row])
        else:
            _gaussian_derivative(
                network.actions, now, before, action, d_log_prob, entropy_coeff, kl_coeff, d_inputs[row]
            )
    # Backward through the policy's own layers.
    shared_end, policy_end, value_end = network.shared_end, network.policy_end, network.value_end
    d_policy = layer_outputs(network, policy_end - 1, d_activations, rows)
    if network.kind == CATEGORICAL:
        d_policy[:] = d_inputs
    else:
        _gaussian_backward(
            network, parameters, observations, activations, distribution_inputs, d_inputs, gradient, d_policy
        )
    nothing = np.empty((0, 0), np.float32)
    shared = layer_outputs(network, shared_end - 1, activations, rows) if shared_end else observations
    d_shared = layer_outputs(network, shared_end - 1, d_activations, rows) if shared_end else nothing
    d_shared[:] = 0.0
    _backward(network, shared_end, policy_end, parameters, shared, activations, d_activations, gradient, d_shared)
    # Value loss (V(s) - target)², eq. 9, constant above `vf_clip_param`.
    values = forward(network, policy_end, value_end, parameters, shared, activations)
    d_values = layer_outputs(network, value_end - 1, d_activations, rows)
    for row in range(rows):
        error = np.float64(values[row, 0]) - batch.value_targets[row]
        is_clipped = error * error > setting.vf_clip_param
        d_values[row, 0] = 0.0 if is_clipped else 2.0 * setting.vf_loss_coeff * error / rows
    _backward(network, policy_end, value_end, parameters, shared, activations, d_activations, gradient, d_shared)
    # Backward through the layers that both share.
    _backward(network, 0, shared_end, parameters, observations, activations, d_activations, gradient, nothing)


@fused_without_gil
def _categorical_derivative(
    logits: Any,
    logits_before: Any,
    choice: int,
    d_log_prob: float,
    entropy_coeff: float,
    kl_coeff: float,
    d_logits: Any,
) -> None:
    """Derivative of one row's loss by the logits of a categorical distribution."""
    normalizer = log_sum_exp(logits)
    entropy = 0.0
    for i in range(len(logits)):
        entropy -= math.exp(logits[i] - normalizer) * (logits[i] - normalizer)
    normalizer_before = log_sum_exp(logits_before) if kl_coeff > 0 else 0.0
    for i in range(len(logits)):
        probability = math.exp(logits[i] - normalizer)
        derivative = d_log_prob * ((1.0 if i == choice else 0.0) - probability)
        derivative += entropy_coeff * probability * (logits[i] - normalizer + entropy)
        if kl_coeff > 0:
            derivative += kl_coeff * (probability - math.exp(logits_before[i] - normalizer_before))
        d_logits[i] = derivative


@fused_without_gil
def _gaussian_derivative(
    count: int,
    inputs: Any,
    inputs_before: Any,
    action: Any,
    d_log_prob: float,
    entropy_coeff: float,
    kl_coeff: float,
    d_inputs: Any,
) -> None:
    """Derivative of one row's loss by the means and log standard deviations of `count` normal distributions."""
    for i in range(count):
        precision = math.exp(-2.0 * inputs[count + i])
        distance = action[i] - inputs[i]
        d_inputs[i] = d_log_prob * distance * precision
        d_inputs[count + i] = d_log_prob * (distance * distance * precision - 1.0) - entropy_coeff
        if kl_coeff > 0:
            shift = inputs[i] - inputs_before[i]
            variance_before = math.exp(2.0 * inputs_before[count + i])
            d_inputs[i] += kl_coeff * shift * precision
            d_inputs[count + i] += kl_coeff * (1.0 - (variance_before + shift * shift) * precision)


@fused_without_gil
def _gaussian_backward(
    network: Any,
    parameters: Any,
    observations: Any,
    activations: Any,
    distribution_inputs: Any,
    d_inputs: Any,
    gradient: Any,
    d_policy: Any,
) -> None:
    """Carries derivatives by means to the policy's last layer, those by log standard deviations to their source.

    The source is that layer too, or parameters of their own.
    """
    count = network.actions
    rows = len(observations)
    for row in range(rows):
        for i in range(count):
            d_policy[row, i] = d_inputs[row, i]
    if network.kind == GAUSSIAN:
        for row in range(rows):
            for i in range(count):
                is_inside = abs(distribution_inputs[row, count + i]) < network.log_std_bound
                d_policy[row, count + i] = d_inputs[row, count + i] if is_inside else np.float32(0.0)
    elif network.kind == FREE_GAUSSIAN:
        _free_log_std_gradient(network, parameters, d_inputs, gradient)
    else:
        features = policy_features(network, observations, activations)
        _state_dependent_gradient(network, parameters, features, distribution_inputs, d_inputs, gradient)


@fused_without_gil
def _free_log_std_gradient(network: Any, parameters: Any, d_inputs: Any, gradient: Any) -> None:
    """Gradient of log standard deviations that are parameters themselves; 0 where a schedule sets them."""
    count = network.actions
    if not network.learns_log_std:
        gradient[network.log_std_at : network.log_std_at + count] = 0.0
        return
    for i in range(count):
        total = 0.0
        for row in range(len(d_inputs)):
            total += d_inputs[row, count + i]
        is_inside = abs(parameters[network.log_std_at + i]) <= network.log_std_bound
        gradient[network.log_std_at + i] = total if is_inside else 0.0


@fused_without_gil
def _state_dependent_gradient(
    network: Any, parameters: Any, features: Any, distribution_inputs: Any, d_inputs: Any, gradient: Any
) -> None:
    """Gradient of the log standard deviations of state-dependent noise; the features get none of it."""
    count = network.actions
    d_variances = np.empty((len(d_inputs), count), np.float32)
    for row in range(len(d_inputs)):
        for j in range(count):
            d_variances[row, j] = d_inputs[row, count + j] * math.exp(-2.0 * distribution_inputs[row, count + j])
    sums = np.dot((features * features).T, d_variances)
    for i in range(sums.shape[0]):
        for j in range(count):
            at = network.log_std_at + i * count + j
            gradient[at] = sums[i, j] * math.exp(2.0 * parameters[at])


@fused_without_gil
def _backward(
    network: Any,
    begin: int,
    end: int,
    parameters: Any,
    inputs: Any,
    activations: Any,
    d_activations: Any,
    gradient: Any,
    d_inputs: Any,
) -> None:
    """Backpropagation through layers `begin` to `end`, from the derivatives by the last one's outputs.

    Args:
        network: Record of `NETWORK`.
        begin: First layer.
        end: One past the last layer.
        parameters: (P,) weights and biases.
        inputs: (B, I) inputs of the first layer.
        activations: Activations of the forward pass.
        d_activations: Holds the derivatives by the last layer's outputs; the others' are written.
        gradient: (P,), written where the layers' weights and biases are.
        d_inputs: (B, I), the derivative by the inputs is added to it; nothing is where it is empty.
    """
    rows = len(inputs)
    for layer in range(end - 1, begin - 1, -1):
        d_outputs = layer_outputs(network, layer, d_activations, rows)
        outputs = layer_outputs(network, layer, activations, rows)
        d_flat, flat = d_outputs.reshape(-1), outputs.reshape(-1)
        if network.layers[layer, ACTIVATION] == TANH:
            for i in range(len(d_flat)):
                d_flat[i] *= np.float32(1.0) - flat[i] * flat[i]
        elif network.layers[layer, ACTIVATION] == RELU:
            for i in range(len(d_flat)):
                d_flat[i] = d_flat[i] if flat[i] > 0 else np.float32(0.0)
        below = layer_outputs(network, layer - 1, activations, rows) if layer > begin else inputs
        np.dot(d_outputs.T, below, layer_weights(network, layer, gradient))
        d_biases = layer_biases(network, layer, gradient)
        d_biases[:] = 0.0
        for row in range(rows):
            for i in range(len(d_biases)):
                d_biases[i] += d_outputs[row, i]
        if layer > begin:
            d_below = layer_outputs(network, layer - 1, d_activations, rows)
            np.dot(d_outputs, layer_weights(network, layer, parameters), d_below)
        elif len(d_inputs):
            d_inputs += np.dot(d_outputs, layer_weights(network, layer, parameters))


@fused_without_gil
def apply_gradient(setting: Any, parameters: Any, gradient: Any, mean: Any, mean_square: Any) -> None:
    """Clips the gradient by its global norm and takes a step of Adam.

    A gradient that is not finite counts as 0, or its step is skipped, as RLlib's settings ask.

    Args:
        setting: Record of `UPDATE_SETTINGS`; its `adam_steps` counts on.
        parameters: (P,), changed.
        gradient: (P,), set to 0 if its norm is not finite.
        mean: (P,) Adam's mean of gradients, changed.
        mean_square: (P,) Adam's mean of squared gradients, changed.

    Source: Kingma and Ba 2015, Adam: a method for stochastic optimization, algorithm 1; ε as in PyTorch's.
    """
    total = 0.0
    for value in gradient:
        total += np.float64(value) * value
    norm = math.sqrt(total)
    scale = 1.0
    if not math.isfinite(norm):
        if setting.torch_skip_nan_gradients:
            return
        gradient[:] = 0.0
    elif setting.grad_clip > 0:
        scale = min(1.0, setting.grad_clip / max(norm + 1e-6, setting.grad_clip))
    setting.adam_steps += 1.0
    rate = np.float32(setting.lr / (1.0 - setting.beta1**setting.adam_steps))
    root = np.float32(1.0 / math.sqrt(1.0 - setting.beta2**setting.adam_steps))
    beta1 = np.float32(setting.beta1)
    beta2 = np.float32(setting.beta2)
    factor = np.float32(scale)
    rest1, rest2 = np.float32(1.0 - setting.beta1), np.float32(1.0 - setting.beta2)
    epsilon = np.float32(setting.epsilon)
    for i in range(len(parameters)):
        slope = gradient[i] * factor
        mean[i] = beta1 * mean[i] + rest1 * slope
        mean_square[i] = beta2 * mean_square[i] + rest2 * slope * slope
        parameters[i] -= rate * mean[i] / (np.sqrt(mean_square[i]) * root + epsilon)


@fused_without_gil
def apply_one_gradient(settings: Any, parameters: Any, gradient: Any, mean: Any, mean_square: Any) -> None:
    """`apply_gradient` for Python, which has the settings as a (1,) array."""
    apply_gradient(settings[0], parameters, gradient, mean, mean_square)
