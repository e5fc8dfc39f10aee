"""Networks compiled: from observations to action distributions, actions and values, on flat float32 arrays.

Shapes: B rows, I inputs, L inputs of the action distribution, A actions, P parameters. Scratch holds what every layer
gives for a batch, for as many rows as it was made for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.compiled import fused_without_gil

CATEGORICAL, FREE_GAUSSIAN, GAUSSIAN, STATE_DEPENDENT = range(4)
LINEAR, TANH, RELU = range(3)
# Columns of the table of layers.
INPUTS, OUTPUTS, ACTIVATION, WEIGHTS_AT, BIASES_AT, SCRATCH_AT = range(6)
MOST_LAYERS = 16
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

# A network's table, beside its layers: where its trunk, policy and value layers end, and what its actions are.
NETWORK = np.dtype(
    [
        ("layers", np.int64, (MOST_LAYERS, 6)),
        ("trunk_end", np.int64),
        ("policy_end", np.int64),
        ("value_end", np.int64),
        ("kind", np.int64),
        ("actions", np.int64),
        ("distribution_inputs", np.int64),
        ("log_std_at", np.int64),
        ("log_std_bound", np.float64),
        ("variance_floor", np.float64),
        ("parameters", np.int64),
        ("width", np.int64),
    ],
    align=True,
)


@fused_without_gil
def _tanh(values: Any) -> None:
    """In place, within 3e-7: a rational function of degree 13 over 6, as in Eigen's `generic_fast_tanh_float`.

    C's tanh cannot fill the processor's vectors, and takes 50 times as long.
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
def outputs_of(network: Any, layer: int, scratch: Any, rows: int) -> Any:
    """(rows, outputs) of a layer, in scratch of `capacity * network.width` numbers."""
    width = network.layers[layer, OUTPUTS]
    begin = network.layers[layer, SCRATCH_AT] * (len(scratch) // network.width)
    return scratch[begin : begin + rows * width].reshape((rows, width))


@fused_without_gil
def weights_of(network: Any, layer: int, parameters: Any) -> Any:
    """(outputs, inputs) of a layer, in (P,) numbers."""
    inputs, outputs = network.layers[layer, INPUTS], network.layers[layer, OUTPUTS]
    begin = network.layers[layer, WEIGHTS_AT]
    return parameters[begin : begin + inputs * outputs].reshape((outputs, inputs))


@fused_without_gil
def biases_of(network: Any, layer: int, parameters: Any) -> Any:
    """(outputs,) of a layer, in (P,) numbers."""
    begin = network.layers[layer, BIASES_AT]
    return parameters[begin : begin + network.layers[layer, OUTPUTS]]


@fused_without_gil
def forward(network: Any, begin: int, end: int, parameters: Any, inputs: Any, scratch: Any) -> Any:
    """Runs (B, inputs) through layers `begin` to `end`; returns what the last gives."""
    rows = len(inputs)
    for layer in range(begin, end):
        outputs = outputs_of(network, layer, scratch, rows)
        np.dot(inputs, weights_of(network, layer, parameters).T, outputs)
        biases, activation = biases_of(network, layer, parameters), network.layers[layer, ACTIVATION]
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
def features_of(network: Any, inputs: Any, scratch: Any) -> Any:
    """What the policy's last layer sees."""
    if network.policy_end - 1 > 0:
        return outputs_of(network, network.policy_end - 2, scratch, len(inputs))
    return inputs


@fused_without_gil
def distribution_of(network: Any, parameters: Any, inputs: Any, scratch: Any, found: Any) -> None:
    """(B, L) inputs of the action distribution, of (B, I): logits, or means and log standard deviations."""
    trunk = forward(network, 0, network.trunk_end, parameters, inputs, scratch)
    outputs = forward(network, network.trunk_end, network.policy_end, parameters, trunk, scratch)
    actions, rows = network.actions, len(inputs)
    if network.kind == CATEGORICAL:
        found[:] = outputs
        return
    for row in range(rows):
        for i in range(actions):
            found[row, i] = outputs[row, i]
    if network.kind == STATE_DEPENDENT:
        features = features_of(network, inputs, scratch)
        _state_dependent_log_std(network, parameters, features, found)
        return
    for row in range(rows):
        for i in range(actions):
            raw = outputs[row, actions + i] if network.kind == GAUSSIAN else parameters[network.log_std_at + i]
            found[row, actions + i] = _clipped_log_std(network, raw)


@fused_without_gil
def _state_dependent_log_std(network: Any, parameters: Any, features: Any, found: Any) -> None:
    """Of noise that is a random linear function of the features; parameters are (features, A) log deviations."""
    actions, width = network.actions, features.shape[1]
    variances = np.empty((width, actions), np.float32)
    for i in range(width):
        for j in range(actions):
            variances[i, j] = math.exp(2.0 * parameters[network.log_std_at + i * actions + j])
    squares = features * features
    found_variances = np.dot(squares, variances)
    for row in range(len(features)):
        for j in range(actions):
            variance = found_variances[row, j] + np.float32(network.variance_floor)
            found[row, actions + j] = np.float32(0.5) * np.float32(math.log(variance))


@fused_without_gil
def log_probability(network: Any, inputs: Any, action: Any) -> float:
    """Of one action, given (L,) inputs of its distribution."""
    if network.kind == CATEGORICAL:
        return inputs[int(action[0])] - log_sum_exp(inputs)
    total = 0.0
    for i in range(network.actions):
        log_std = inputs[network.actions + i]
        z = (action[i] - inputs[i]) * math.exp(-log_std)
        total -= 0.5 * z * z + log_std + _HALF_LOG_2PI
    return total


@fused_without_gil
def log_sum_exp(logits: Any) -> float:
    """What logits are normalised by."""
    highest = logits[0]
    for value in logits:
        highest = max(highest, value)
    total = 0.0
    for value in logits:
        total += math.exp(value - highest)
    return highest + math.log(total)


@fused_without_gil
def values_of(network: Any, parameters: Any, inputs: Any, scratch: Any, found: Any) -> None:
    """(B,) values of (B, I), B being at most what scratch has room for."""
    trunk = forward(network, 0, network.trunk_end, parameters, inputs, scratch)
    outputs = forward(network, network.policy_end, network.value_end, parameters, trunk, scratch)
    for row in range(len(inputs)):
        found[row] = outputs[row, 0]


@fused_without_gil
def act(
    network: Any, parameters: Any, inputs: Any, noise: Any, scratch: Any, actions: Any, logp: Any, found: Any
) -> None:
    """Draws actions.

    Args:
        network: Of `NETWORK`.
        parameters: (P,).
        inputs: (B, I).
        noise: (B, 1) uniform for a choice; (B, A) normal; (B, features, A) normal for state-dependent noise, as
            (B, features * A). All zero, or a uniform of -1: the likeliest action.
        scratch: Room for B rows.
        actions: (B, A) float32, written; a choice is a whole number in (B, 1).
        logp: (B,), written.
        found: (B, L), written.
    """
    distribution_of(network, parameters, inputs, scratch, found)
    if network.kind == STATE_DEPENDENT:
        deviations = np.exp(parameters[network.log_std_at : network.log_std_at + noise.shape[1]])
    else:
        deviations = parameters[:0]
    for row in range(len(inputs)):
        if network.kind == CATEGORICAL:
            actions[row, 0] = _choose(found[row], noise[row, 0])
        elif network.kind == STATE_DEPENDENT:
            features = features_of(network, inputs, scratch)[row]
            for j in range(network.actions):
                drawn = 0.0
                for i in range(len(features)):
                    at = i * network.actions + j
                    drawn += features[i] * deviations[at] * noise[row, at]
                actions[row, j] = found[row, j] + drawn
        else:
            for j in range(network.actions):
                actions[row, j] = found[row, j] + math.exp(found[row, network.actions + j]) * noise[row, j]
        logp[row] = log_probability(network, found[row], actions[row])


@fused_without_gil
def _choose(logits: Any, uniform: float) -> Any:
    if uniform < 0:
        return np.argmax(logits)
    normal, total = log_sum_exp(logits), 0.0
    for i in range(len(logits)):
        total += math.exp(logits[i] - normal)
        if uniform < total:
            return i
    return len(logits) - 1
