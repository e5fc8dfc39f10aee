"""PPO's gradient steps compiled: RLlib's loss (ray 2.60, `ppo_torch_learner.py`), its gradient by hand, and Adam.

Shapes as in `network_kernels`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.compiled import fused_without_gil
from runtime.ppo.compiled.network_kernels import (
    ACTIVATION,
    CATEGORICAL,
    FREE_GAUSSIAN,
    GAUSSIAN,
    RELU,
    TANH,
    biases_of,
    distribution_of,
    features_of,
    forward,
    log_probability,
    log_sum_exp,
    outputs_of,
    weights_of,
)

# Numbers of an update.
UPDATE = np.dtype(
    [
        (name, np.float64)
        for name in (
            *("clip", "value_clip", "value_weight", "entropy_weight", "kl_weight", "grad_clip"),
            *("lr", "beta1", "beta2", "epsilon", "steps", "skips_nan"),
        )
    ]
)


@fused_without_gil
def _backward(
    network: Any,
    begin: int,
    end: int,
    parameters: Any,
    inputs: Any,
    scratch: Any,
    deltas: Any,
    gradient: Any,
    towards: Any,
) -> None:
    """Layers' gradients, from `deltas` of the last one's outputs; adds to `towards` (B, I) where that is not empty."""
    rows = len(inputs)
    for layer in range(end - 1, begin - 1, -1):
        delta, outputs = outputs_of(network, layer, deltas, rows), outputs_of(network, layer, scratch, rows)
        flat, activated = delta.reshape(-1), outputs.reshape(-1)
        if network.layers[layer, ACTIVATION] == TANH:
            for i in range(len(flat)):
                flat[i] *= np.float32(1.0) - activated[i] * activated[i]
        elif network.layers[layer, ACTIVATION] == RELU:
            for i in range(len(flat)):
                flat[i] = flat[i] if activated[i] > 0 else np.float32(0.0)
        below = outputs_of(network, layer - 1, scratch, rows) if layer > begin else inputs
        np.dot(delta.T, below, weights_of(network, layer, gradient))
        biases = biases_of(network, layer, gradient)
        biases[:] = 0.0
        for row in range(rows):
            for i in range(len(biases)):
                biases[i] += delta[row, i]
        if layer > begin:
            np.dot(delta, weights_of(network, layer, parameters), outputs_of(network, layer - 1, deltas, rows))
        elif len(towards):
            towards += np.dot(delta, weights_of(network, layer, parameters))


@fused_without_gil
def _choice_delta(
    inputs: Any, before: Any, choice: int, pull: float, entropy_weight: float, kl_weight: float, delta: Any
) -> None:
    """D loss / d logits of one row; `pull` is d loss / d logp."""
    normal, entropy = log_sum_exp(inputs), 0.0
    for i in range(len(inputs)):
        entropy -= math.exp(inputs[i] - normal) * (inputs[i] - normal)
    normal_before = log_sum_exp(before) if kl_weight > 0 else 0.0
    for i in range(len(inputs)):
        probability = math.exp(inputs[i] - normal)
        found = pull * ((1.0 if i == choice else 0.0) - probability)
        found += entropy_weight * probability * (inputs[i] - normal + entropy)
        if kl_weight > 0:
            found += kl_weight * (probability - math.exp(before[i] - normal_before))
        delta[i] = found


@fused_without_gil
def _normal_delta(
    count: int, inputs: Any, before: Any, action: Any, pull: float, entropy_weight: float, kl_weight: float, delta: Any
) -> None:
    """D loss / d means and log standard deviations of one row."""
    for i in range(count):
        inverse = math.exp(-2.0 * inputs[count + i])
        away = action[i] - inputs[i]
        delta[i] = pull * away * inverse
        delta[count + i] = pull * (away * away * inverse - 1.0) - entropy_weight
        if kl_weight > 0:
            moved, variance = inputs[i] - before[i], math.exp(2.0 * before[count + i])
            delta[i] += kl_weight * moved * inverse
            delta[count + i] += kl_weight * (1.0 - (variance + moved * moved) * inverse)


@fused_without_gil
def _policy_delta(network: Any, update: Any, batch: Any, found: Any, delta: Any) -> None:
    """D loss / d inputs of the action distribution, (B, L)."""
    actions, logps, befores, gains, _ = batch
    rows = len(found)
    for row in range(rows):
        ratio = math.exp(log_probability(network, found[row], actions[row]) - logps[row])
        gain = gains[row]
        is_clipped = (gain > 0 and ratio > 1.0 + update.clip) or (gain < 0 and ratio < 1.0 - update.clip)
        pull = 0.0 if is_clipped else -gain * ratio / rows
        entropy_weight, kl_weight = update.entropy_weight / rows, update.kl_weight / rows
        if network.kind == CATEGORICAL:
            choice = int(actions[row, 0])
            _choice_delta(found[row], befores[row], choice, pull, entropy_weight, kl_weight, delta[row])
        else:
            _normal_delta(
                network.actions, found[row], befores[row], actions[row], pull, entropy_weight, kl_weight, delta[row]
            )


@fused_without_gil
def _log_std_gradient(
    network: Any, parameters: Any, inputs: Any, scratch: Any, found: Any, delta: Any, gradient: Any, top: Any
) -> None:
    """Carries deltas of log standard deviations to where they come from: parameters, or the policy's last layer."""
    count, rows = network.actions, len(inputs)
    for row in range(rows):
        for i in range(count):
            top[row, i] = delta[row, i]
    if network.kind == GAUSSIAN:
        for row in range(rows):
            for i in range(count):
                is_inside = abs(found[row, count + i]) < network.log_std_bound
                top[row, count + i] = delta[row, count + i] if is_inside else np.float32(0.0)
    elif network.kind == FREE_GAUSSIAN:
        _free_gradient(network, parameters, delta, gradient)
    else:
        _noise_gradient(network, parameters, features_of(network, inputs, scratch), found, delta, gradient)


@fused_without_gil
def _free_gradient(network: Any, parameters: Any, delta: Any, gradient: Any) -> None:
    """Of log standard deviations that are parameters themselves."""
    count = network.actions
    for i in range(count):
        total = 0.0
        for row in range(len(delta)):
            total += delta[row, count + i]
        is_inside = abs(parameters[network.log_std_at + i]) <= network.log_std_bound
        gradient[network.log_std_at + i] = total if is_inside else 0.0


@fused_without_gil
def _noise_gradient(network: Any, parameters: Any, features: Any, found: Any, delta: Any, gradient: Any) -> None:
    """Of log deviations of state-dependent noise; the features themselves are not moved by it."""
    count = network.actions
    shares = np.empty((len(delta), count), np.float32)
    for row in range(len(delta)):
        for j in range(count):
            shares[row, j] = delta[row, count + j] * math.exp(-2.0 * found[row, count + j])
    sums = np.dot((features * features).T, shares)
    for i in range(sums.shape[0]):
        for j in range(count):
            at = network.log_std_at + i * count + j
            gradient[at] = sums[i, j] * math.exp(2.0 * parameters[at])


@fused_without_gil
def gradient_of(
    network: Any, update: Any, parameters: Any, inputs: Any, batch: Any, scratch: Any, deltas: Any, gradient: Any
) -> None:
    """The gradient (P,) of PPO's loss on a minibatch.

    Args:
        network: Of `NETWORK`.
        update: Of `UPDATE`.
        parameters: (P,).
        inputs: (B, I) observations as the network sees them.
        batch: Actions (B, A), logp (B,) and distribution inputs (B, L) of sampling, advantages (B,), targets (B,).
        scratch: Room for B rows.
        deltas: The same again.
        gradient: (P,), written.
    """
    rows = len(inputs)
    found = np.empty((rows, network.distribution_inputs), np.float32)
    delta = np.empty_like(found)
    distribution_of(network, parameters, inputs, scratch, found)
    _policy_delta(network, update, batch, found, delta)
    top = outputs_of(network, network.policy_end - 1, deltas, rows)
    if network.kind == CATEGORICAL:
        top[:] = delta
    else:
        _log_std_gradient(network, parameters, inputs, scratch, found, delta, gradient, top)
    trunk_end = network.trunk_end
    trunk = outputs_of(network, trunk_end - 1, scratch, rows) if trunk_end else inputs
    towards = outputs_of(network, trunk_end - 1, deltas, rows) if trunk_end else np.empty((0, 0), np.float32)
    towards[:] = 0.0
    _backward(network, trunk_end, network.policy_end, parameters, trunk, scratch, deltas, gradient, towards)
    values = forward(network, network.policy_end, network.value_end, parameters, trunk, scratch)
    top = outputs_of(network, network.value_end - 1, deltas, rows)
    targets = batch[4]
    for row in range(rows):
        error = np.float64(values[row, 0]) - targets[row]
        is_clipped = error * error > update.value_clip
        top[row, 0] = 0.0 if is_clipped else 2.0 * update.value_weight * error / rows
    _backward(network, network.policy_end, network.value_end, parameters, trunk, scratch, deltas, gradient, towards)
    nothing = np.empty((0, 0), np.float32)
    _backward(network, 0, trunk_end, parameters, inputs, scratch, deltas, gradient, nothing)


@fused_without_gil
def _adam(update: Any, parameters: Any, gradient: Any, first: Any, second: Any) -> None:
    """A step of Adam on the gradient, clipped to its norm as RLlib clips; one that is not finite counts as zero."""
    total = 0.0
    for value in gradient:
        total += np.float64(value) * value
    norm = math.sqrt(total)
    scale = 1.0
    if not math.isfinite(norm):
        if update.skips_nan:
            return
        gradient[:] = 0.0
    elif update.grad_clip > 0:
        scale = min(1.0, update.grad_clip / max(norm + 1e-6, update.grad_clip))
    update.steps += 1.0
    rate = np.float32(update.lr / (1.0 - update.beta1**update.steps))
    root = np.float32(1.0 / math.sqrt(1.0 - update.beta2**update.steps))
    beta1, beta2, factor = np.float32(update.beta1), np.float32(update.beta2), np.float32(scale)
    rest1, rest2 = np.float32(1.0 - update.beta1), np.float32(1.0 - update.beta2)
    epsilon = np.float32(update.epsilon)
    for i in range(len(parameters)):
        slope = gradient[i] * factor
        first[i] = beta1 * first[i] + rest1 * slope
        second[i] = beta2 * second[i] + rest2 * slope * slope
        parameters[i] -= rate * first[i] / (np.sqrt(second[i]) * root + epsilon)


@fused_without_gil
def step(updates: Any, parameters: Any, gradient: Any, first: Any, second: Any) -> None:
    """One step of Adam, on a gradient that is there already.

    Args:
        updates: (1,) of `UPDATE`; `steps` goes on.
        parameters: (P,), changed.
        gradient: (P,), changed where it is not finite.
        first: (P,) Adam's mean, changed.
        second: (P,) Adam's mean square, changed.
    """
    _adam(updates[0], parameters, gradient, first, second)


@fused_without_gil
def descend(
    networks: Any, updates: Any, parameters: Any, first: Any, second: Any, inputs: Any, batch: Any, order: Any
) -> None:
    """A step of Adam on each minibatch.

    Args:
        networks: (1,) of `NETWORK`.
        updates: (1,) of `UPDATE`; `steps` goes on.
        parameters: (P,), changed.
        first: (P,) Adam's mean, changed.
        second: (P,) Adam's mean square, changed.
        inputs: (B, I) of the whole rollout.
        batch: As of `gradient_of`, of the whole rollout.
        order: (M, minibatch) rows of each minibatch.
    """
    network, update = networks[0], updates[0]
    size = order.shape[1]
    actions, logps, befores, gains, targets = batch
    scratch = np.empty(size * network.width, np.float32)
    deltas, gradient = np.empty_like(scratch), np.zeros_like(parameters)
    rows = np.empty((size, inputs.shape[1]), np.float32)
    own_actions = np.empty((size, actions.shape[1]), np.float32)
    own_befores = np.empty((size, befores.shape[1]), np.float32)
    own_logps, own_gains = np.empty(size, np.float32), np.empty(size, np.float32)
    own_targets = np.empty(size, np.float32)
    for picked in order:
        for i in range(size):
            at = picked[i]
            rows[i], own_actions[i], own_befores[i] = inputs[at], actions[at], befores[at]
            own_logps[i], own_gains[i], own_targets[i] = logps[at], gains[at], targets[at]
        own = own_actions, own_logps, own_befores, own_gains, own_targets
        gradient_of(network, update, parameters, rows, own, scratch, deltas, gradient)
        _adam(update, parameters, gradient, first, second)
