"""Compiled forward pass of policy and value networks: from observations to action distributions, actions and values.

Everything is a flat float32 array. Shapes: B batch rows, O observation, L inputs of the action distribution (logits, or
means and log standard deviations), A action, P parameters. `activations` is a buffer for the outputs of every layer on
a batch, made by `FlatNetwork.activations`; it fits batches of up to as many rows as it was made for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.compiled import fused_without_gil

CATEGORICAL, FREE_GAUSSIAN, GAUSSIAN, STATE_DEPENDENT = range(4)
LINEAR, TANH, RELU = range(3)
# Columns of the table of layers: sizes, activation function, and offsets into the parameters and the activations.
INPUTS, OUTPUTS, ACTIVATION, WEIGHTS_AT, BIASES_AT, OUTPUTS_AT = range(6)
MOST_LAYERS = 16
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

# One network: its layers (those shared by policy and value first, then the policy's, then the value function's, each
# group up to its `_end`), its action distribution, and how many numbers its parameters and activations are.
NETWORK = np.dtype(
    [
        ("layers", np.int64, (MOST_LAYERS, 6)),
        ("shared_end", np.int64),
        ("policy_end", np.int64),
        ("value_end", np.int64),
        ("kind", np.int64),
        ("actions", np.int64),
        ("distribution_size", np.int64),
        ("log_std_at", np.int64),
        ("log_std_bound", np.float64),
        ("learns_log_std", np.int64),
        ("variance_floor", np.float64),
        ("parameters", np.int64),
        ("width", np.int64),
    ],
    align=True,
)


@fused_without_gil
def _tanh(values: Any) -> None:
    """Replaces values by their tanh within 3e-7: a rational function of degree 13 over 6.

    Source: Eigen's `generic_fast_tanh_float`.

    The C library's tanh cannot be vectorized and takes 50 times as long.
    """
    for i in range(len(values)):
        x = min(max(values[i], np.float32(-7.90531110763549805)), np.float32(7.90531110763549805))
        s = x * x
        p = s * np.float32(-2.76076847742355e-16) + np.float32(2.00018790482477e-13)
        p = s * p + np.float32(-8.60467152213735e-11)
        p = s * p + np.float32(5.12229709037114e-08)
        p = s * p + np.float32(1.48572235717979e-05)
        p = s * p + np.float32(6.37261928875436e-04)
        p = s * p + np.float32(4.89352455891786e-03)
        q = s * np.float32(1.19825839466702e-06) + np.float32(1.18534705686654e-04)
        q = s * q + np.float32(2.26843463243900e-03)
        q = s * q + np.float32(4.89352518554385e-03)
        values[i] = x * p / q


@fused_without_gil
def layer_outputs(network: Any, layer: int, activations: Any, rows: int) -> Any:
    """Returns (rows, outputs) view of a layer's outputs in the activations."""
    width = network.layers[layer, OUTPUTS]
    begin = network.layers[layer, OUTPUTS_AT] * (len(activations) // network.width)
    return activations[begin : begin + rows * width].reshape((rows, width))


@fused_without_gil
def layer_weights(network: Any, layer: int, parameters: Any) -> Any:
    """Returns (outputs, inputs) view of a layer's weights in (P,) parameters."""
    inputs, outputs = network.layers[layer, INPUTS], network.layers[layer, OUTPUTS]
    begin = network.layers[layer, WEIGHTS_AT]
    return parameters[begin : begin + inputs * outputs].reshape((outputs, inputs))


@fused_without_gil
def layer_biases(network: Any, layer: int, parameters: Any) -> Any:
    """Returns (outputs,) view of a layer's biases in (P,) parameters."""
    begin = network.layers[layer, BIASES_AT]
    return parameters[begin : begin + network.layers[layer, OUTPUTS]]


@fused_without_gil
def forward(network: Any, begin: int, end: int, parameters: Any, inputs: Any, activations: Any) -> Any:
    """Runs (B, inputs) through layers `begin` to `end` and returns the outputs of the last one."""
    rows = len(inputs)
    for layer in range(begin, end):
        outputs = layer_outputs(network, layer, activations, rows)
        np.dot(inputs, layer_weights(network, layer, parameters).T, outputs)
        biases = layer_biases(network, layer, parameters)
        activation = network.layers[layer, ACTIVATION]
        for row in range(rows):
            for i in range(len(biases)):
                outputs[row, i] += biases[i]
        flat = outputs.reshape(-1)
        if activation == TANH:
            _tanh(flat)
        elif activation == RELU:
            for i in range(len(flat)):
                flat[i] = max(flat[i], np.float32(0.0))
        inputs = outputs
    return inputs


@fused_without_gil
def _clipped_log_std(network: Any, value: Any) -> Any:
    return min(max(value, np.float32(-network.log_std_bound)), np.float32(network.log_std_bound))


@fused_without_gil
def policy_features(network: Any, observations: Any, activations: Any) -> Any:
    """Returns (B, features) inputs of the policy's last layer, after a forward pass."""
    if network.policy_end - 1 > 0:
        return layer_outputs(network, network.policy_end - 2, activations, len(observations))
    return observations


@fused_without_gil
def action_distribution(
    network: Any, parameters: Any, observations: Any, activations: Any, distribution_inputs: Any
) -> None:
    """Writes the policy's (B, L) distribution inputs for (B, O) observations."""
    shared = forward(network, 0, network.shared_end, parameters, observations, activations)
    outputs = forward(network, network.shared_end, network.policy_end, parameters, shared, activations)
    actions = network.actions
    rows = len(observations)
    if network.kind == CATEGORICAL:
        distribution_inputs[:] = outputs
        return
    for row in range(rows):
        for i in range(actions):
            distribution_inputs[row, i] = outputs[row, i]
    if network.kind == STATE_DEPENDENT:
        features = policy_features(network, observations, activations)
        _state_dependent_log_std(network, parameters, features, distribution_inputs)
        return
    for row in range(rows):
        for i in range(actions):
            raw = outputs[row, actions + i] if network.kind == GAUSSIAN else parameters[network.log_std_at + i]
            distribution_inputs[row, actions + i] = _clipped_log_std(network, raw)


@fused_without_gil
def _state_dependent_log_std(network: Any, parameters: Any, features: Any, distribution_inputs: Any) -> None:
    """Log standard deviations of noise that is a random linear function of the features.

    The parameters are (features, A) log standard deviations. Source: Raffin et al. 2021, Smooth exploration for robotic
    reinforcement learning.
    """
    actions = network.actions
    width = features.shape[1]
    variances = np.empty((width, actions), np.float32)
    for i in range(width):
        for j in range(actions):
            variances[i, j] = math.exp(2.0 * parameters[network.log_std_at + i * actions + j])
    squares = features * features
    sums = np.dot(squares, variances)
    for row in range(len(features)):
        for j in range(actions):
            variance = sums[row, j] + np.float32(network.variance_floor)
            distribution_inputs[row, actions + j] = np.float32(0.5) * np.float32(math.log(variance))


@fused_without_gil
def log_probability(network: Any, distribution_inputs: Any, action: Any) -> float:
    """Returns the log probability of one action, given the (L,) inputs of its distribution."""
    if network.kind == CATEGORICAL:
        return distribution_inputs[int(action[0])] - log_sum_exp(distribution_inputs)
    total = 0.0
    for i in range(network.actions):
        log_std = distribution_inputs[network.actions + i]
        z = (action[i] - distribution_inputs[i]) * math.exp(-log_std)
        total -= 0.5 * z * z + log_std + _HALF_LOG_2PI
    return total


@fused_without_gil
def log_sum_exp(logits: Any) -> float:
    """Returns the logarithm of the sum of exponentials; logits less this are log probabilities."""
    highest = logits[0]
    for value in logits:
        highest = max(highest, value)
    total = 0.0
    for value in logits:
        total += math.exp(value - highest)
    return highest + math.log(total)


@fused_without_gil
def state_values(network: Any, parameters: Any, observations: Any, activations: Any, values: Any) -> None:
    """Writes the value function's (B,) estimates for (B, O) observations."""
    shared = forward(network, 0, network.shared_end, parameters, observations, activations)
    outputs = forward(network, network.policy_end, network.value_end, parameters, shared, activations)
    for row in range(len(observations)):
        values[row] = outputs[row, 0]


@fused_without_gil
def sample_actions(
    network: Any,
    parameters: Any,
    observations: Any,
    noise: Any,
    activations: Any,
    actions: Any,
    log_probs: Any,
    distribution_inputs: Any,
) -> None:
    """Samples an action for each observation.

    Args:
        network: Record of `NETWORK`.
        parameters: (P,) weights and biases.
        observations: (B, O) normalized observations.
        noise: (B, 1) uniform in [0, 1) for discrete actions; (B, A) standard normal for continuous ones; for
            state-dependent noise (B, features * A) standard normal. A uniform of -1, or normals of 0, give the most
            likely action.
        activations: Buffer for at least B rows.
        actions: (B, A) float32, written; a discrete action is a whole number in (B, 1).
        log_probs: (B,), written.
        distribution_inputs: (B, L), written.
    """
    action_distribution(network, parameters, observations, activations, distribution_inputs)
    if network.kind == STATE_DEPENDENT:
        deviations = np.exp(parameters[network.log_std_at : network.log_std_at + noise.shape[1]])
    else:
        deviations = parameters[:0]
    for row in range(len(observations)):
        if network.kind == CATEGORICAL:
            actions[row, 0] = _choose(distribution_inputs[row], noise[row, 0])
        elif network.kind == STATE_DEPENDENT:
            features = policy_features(network, observations, activations)[row]
            for j in range(network.actions):
                drawn = 0.0
                for i in range(len(features)):
                    at = i * network.actions + j
                    drawn += features[i] * deviations[at] * noise[row, at]
                actions[row, j] = distribution_inputs[row, j] + drawn
        else:
            for j in range(network.actions):
                deviation = math.exp(distribution_inputs[row, network.actions + j])
                actions[row, j] = distribution_inputs[row, j] + deviation * noise[row, j]
        log_probs[row] = log_probability(network, distribution_inputs[row], actions[row])


@fused_without_gil
def _choose(logits: Any, uniform: float) -> Any:
    """The action at a quantile of the categorical distribution, or the most likely one for a negative quantile."""
    if uniform < 0:
        return np.argmax(logits)
    normalizer = log_sum_exp(logits)
    cumulative = 0.0
    for i in range(len(logits)):
        cumulative += math.exp(logits[i] - normalizer)
        if uniform < cumulative:
            return i
    return len(logits) - 1
