"""PPO's arithmetic compiled: networks, sampling, advantages, and gradient steps, on flat float32 arrays, without the GIL.

What is computed is RLlib's PPO (ray 2.60, `ppo_torch_learner.py`), whose loss is the check of this one; see
`runtime.ppo.fast_learner`. Shapes: B rows, I inputs, L inputs of the action distribution, A actions, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from envs.roboschool.kernels import advance
from runtime.ppo.module import VARIANCE_FLOOR

CATEGORICAL, FREE_GAUSSIAN, GAUSSIAN, STATE_DEPENDENT = range(4)
LINEAR, TANH, RELU = range(3)
# Columns of the table of layers.
INPUTS, OUTPUTS, ACTIVATION, WEIGHTS_AT, BIASES_AT, SCRATCH_AT = range(6)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

# A network's table, beside its layers: where its trunk, policy and value layers end, and what its actions are.
NETWORK = np.dtype(
    [
        ("layers", np.int64, (16, 6)),
        ("trunk_end", np.int64),
        ("policy_end", np.int64),
        ("value_end", np.int64),
        ("kind", np.int64),
        ("actions", np.int64),
        ("distribution_inputs", np.int64),
        ("log_std_at", np.int64),
        ("log_std_bound", np.float64),
        ("parameters", np.int64),
        ("width", np.int64),
    ],
    align=True,
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


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles without the GIL; sums and products may be fused, which the check against RLlib's loss allows for."""
    return numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(function)


@compiled
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


@compiled
def _outputs(network: Any, layer: int, scratch: Any, rows: int) -> Any:
    """(rows, outputs) of a layer, in scratch of `capacity * network.width` numbers."""
    width = network.layers[layer, OUTPUTS]
    begin = network.layers[layer, SCRATCH_AT] * (len(scratch) // network.width)
    return scratch[begin : begin + rows * width].reshape((rows, width))


@compiled
def _weights(network: Any, layer: int, parameters: Any) -> Any:
    inputs, outputs = network.layers[layer, INPUTS], network.layers[layer, OUTPUTS]
    begin = network.layers[layer, WEIGHTS_AT]
    return parameters[begin : begin + inputs * outputs].reshape((outputs, inputs))


@compiled
def _biases(network: Any, layer: int, parameters: Any) -> Any:
    begin = network.layers[layer, BIASES_AT]
    return parameters[begin : begin + network.layers[layer, OUTPUTS]]


@compiled
def _forward(network: Any, begin: int, end: int, parameters: Any, inputs: Any, scratch: Any) -> Any:
    """Runs (B, inputs) through layers `begin` to `end`; returns what the last gives."""
    rows = len(inputs)
    for layer in range(begin, end):
        outputs = _outputs(network, layer, scratch, rows)
        np.dot(inputs, _weights(network, layer, parameters).T, outputs)
        biases, activation = _biases(network, layer, parameters), network.layers[layer, ACTIVATION]
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


@compiled
def _clipped_log_std(network: Any, value: float) -> float:
    return min(max(value, np.float32(-network.log_std_bound)), np.float32(network.log_std_bound))


@compiled
def _features(network: Any, inputs: Any, scratch: Any) -> Any:
    """What the policy's last layer sees."""
    if network.policy_end - 1 > 0:
        return _outputs(network, network.policy_end - 2, scratch, len(inputs))
    return inputs


@compiled
def _distribution(network: Any, parameters: Any, inputs: Any, scratch: Any, found: Any) -> None:
    """(B, L) inputs of the action distribution, of (B, I): logits, or means and log standard deviations."""
    trunk = _forward(network, 0, network.trunk_end, parameters, inputs, scratch)
    outputs = _forward(network, network.trunk_end, network.policy_end, parameters, trunk, scratch)
    actions, rows = network.actions, len(inputs)
    if network.kind == CATEGORICAL:
        found[:] = outputs
        return
    for row in range(rows):
        for i in range(actions):
            found[row, i] = outputs[row, i]
    if network.kind == STATE_DEPENDENT:
        features = _features(network, inputs, scratch)
        _state_dependent_log_std(network, parameters, features, found)
        return
    for row in range(rows):
        for i in range(actions):
            raw = outputs[row, actions + i] if network.kind == GAUSSIAN else parameters[network.log_std_at + i]
            found[row, actions + i] = _clipped_log_std(network, raw)


@compiled
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
            variance = found_variances[row, j] + np.float32(VARIANCE_FLOOR)
            found[row, actions + j] = np.float32(0.5) * np.float32(math.log(variance))


@compiled
def _log_probability(network: Any, inputs: Any, action: Any) -> float:
    """Of one action, given (L,) inputs of its distribution."""
    if network.kind == CATEGORICAL:
        return inputs[int(action[0])] - _log_sum_exp(inputs)
    total = 0.0
    for i in range(network.actions):
        log_std = inputs[network.actions + i]
        z = (action[i] - inputs[i]) * math.exp(-log_std)
        total -= 0.5 * z * z + log_std + _HALF_LOG_2PI
    return total


@compiled
def _log_sum_exp(logits: Any) -> float:
    highest = logits[0]
    for value in logits:
        highest = max(highest, value)
    total = 0.0
    for value in logits:
        total += math.exp(value - highest)
    return highest + math.log(total)


@compiled
def values_of(network: Any, parameters: Any, inputs: Any, scratch: Any, found: Any) -> None:
    """(B,) values of (B, I), B being at most what scratch has room for."""
    trunk = _forward(network, 0, network.trunk_end, parameters, inputs, scratch)
    outputs = _forward(network, network.policy_end, network.value_end, parameters, trunk, scratch)
    for row in range(len(inputs)):
        found[row] = outputs[row, 0]


@compiled
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
    _distribution(network, parameters, inputs, scratch, found)
    if network.kind == STATE_DEPENDENT:
        deviations = np.exp(parameters[network.log_std_at : network.log_std_at + noise.shape[1]])
    else:
        deviations = parameters[:0]
    for row in range(len(inputs)):
        if network.kind == CATEGORICAL:
            actions[row, 0] = _choose(found[row], noise[row, 0])
        elif network.kind == STATE_DEPENDENT:
            features = _features(network, inputs, scratch)[row]
            for j in range(network.actions):
                drawn = 0.0
                for i in range(len(features)):
                    at = i * network.actions + j
                    drawn += features[i] * deviations[at] * noise[row, at]
                actions[row, j] = found[row, j] + drawn
        else:
            for j in range(network.actions):
                actions[row, j] = found[row, j] + math.exp(found[row, network.actions + j]) * noise[row, j]
        logp[row] = _log_probability(network, found[row], actions[row])


@compiled
def _choose(logits: Any, uniform: float) -> int:
    if uniform < 0:
        return np.argmax(logits)
    normal, total = _log_sum_exp(logits), 0.0
    for i in range(len(logits)):
        total += math.exp(logits[i] - normal)
        if uniform < total:
            return i
    return len(logits) - 1


@compiled
def normalize(raw: Any, mean: Any, deviation: Any, clip: float, found: Any) -> None:
    """(B, I) observations as the network sees them: clip((x - mean) / deviation)."""
    for row in range(len(raw)):
        for i in range(raw.shape[1]):
            found[row, i] = min(max((raw[row, i] - mean[i]) / deviation[i], -clip), clip)


@compiled
def to_environment(actions: Any, low: Any, half_range: Any, found: Any) -> None:
    """Actions of ±1 in the environment's units, and within its bounds; as they are where there is no range."""
    for row in range(len(actions)):
        for i in range(actions.shape[1]):
            if half_range[i] > 0:
                high = low[i] + 2.0 * half_range[i]
                found[row, i] = min(max(low[i] + (actions[row, i] + 1.0) * half_range[i], low[i]), high)
            else:
                found[row, i] = actions[row, i]


@compiled
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
        ranges: Lower bound and half the range (A,) of the environment's actions.
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
        to_environment(action, ranges[0], ranges[1], moves)
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


@compiled
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
        running = 0.0
        for t in range(steps - 1, -1, -1):
            expected = np.float64(values[t + 1, i])
            if terminated[t, i]:
                expected, running = 0.0, 0.0
            elif truncated[t, i]:
                expected, running = np.float64(following[t, i]), 0.0
            running = rewards[t, i] + gamma * expected - values[t, i] + gamma * lam * running
            found[t, i] = running


@compiled
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
    """Layers' gradients, from `deltas` of the last one's outputs; `towards` (B, I) is added to where it is not empty."""
    rows = len(inputs)
    for layer in range(end - 1, begin - 1, -1):
        delta, outputs = _outputs(network, layer, deltas, rows), _outputs(network, layer, scratch, rows)
        flat, activated = delta.reshape(-1), outputs.reshape(-1)
        if network.layers[layer, ACTIVATION] == TANH:
            for i in range(len(flat)):
                flat[i] *= np.float32(1.0) - activated[i] * activated[i]
        elif network.layers[layer, ACTIVATION] == RELU:
            for i in range(len(flat)):
                flat[i] = flat[i] if activated[i] > 0 else np.float32(0.0)
        below = _outputs(network, layer - 1, scratch, rows) if layer > begin else inputs
        np.dot(delta.T, below, _weights(network, layer, gradient))
        biases = _biases(network, layer, gradient)
        biases[:] = 0.0
        for row in range(rows):
            for i in range(len(biases)):
                biases[i] += delta[row, i]
        if layer > begin:
            np.dot(delta, _weights(network, layer, parameters), _outputs(network, layer - 1, deltas, rows))
        elif len(towards):
            towards += np.dot(delta, _weights(network, layer, parameters))


@compiled
def _choice_delta(
    inputs: Any, before: Any, choice: int, pull: float, entropy_weight: float, kl_weight: float, delta: Any
) -> None:
    """d loss / d logits of one row; `pull` is d loss / d logp."""
    normal, entropy = _log_sum_exp(inputs), 0.0
    for i in range(len(inputs)):
        entropy -= math.exp(inputs[i] - normal) * (inputs[i] - normal)
    normal_before = _log_sum_exp(before) if kl_weight > 0 else 0.0
    for i in range(len(inputs)):
        probability = math.exp(inputs[i] - normal)
        found = pull * ((1.0 if i == choice else 0.0) - probability)
        found += entropy_weight * probability * (inputs[i] - normal + entropy)
        if kl_weight > 0:
            found += kl_weight * (probability - math.exp(before[i] - normal_before))
        delta[i] = found


@compiled
def _normal_delta(
    count: int, inputs: Any, before: Any, action: Any, pull: float, entropy_weight: float, kl_weight: float, delta: Any
) -> None:
    """d loss / d means and log standard deviations of one row."""
    for i in range(count):
        inverse = math.exp(-2.0 * inputs[count + i])
        away = action[i] - inputs[i]
        delta[i] = pull * away * inverse
        delta[count + i] = pull * (away * away * inverse - 1.0) - entropy_weight
        if kl_weight > 0:
            moved, variance = inputs[i] - before[i], math.exp(2.0 * before[count + i])
            delta[i] += kl_weight * moved * inverse
            delta[count + i] += kl_weight * (1.0 - (variance + moved * moved) * inverse)


@compiled
def _policy_delta(network: Any, update: Any, batch: Any, found: Any, delta: Any) -> None:
    """d loss / d inputs of the action distribution, (B, L)."""
    actions, logps, befores, gains, _ = batch
    rows = len(found)
    for row in range(rows):
        ratio = math.exp(_log_probability(network, found[row], actions[row]) - logps[row])
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


@compiled
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
        for i in range(count):
            total = 0.0
            for row in range(rows):
                total += delta[row, count + i]
            is_inside = abs(parameters[network.log_std_at + i]) <= network.log_std_bound
            gradient[network.log_std_at + i] = total if is_inside else 0.0
    else:
        features = _features(network, inputs, scratch)
        shares = np.empty((rows, count), np.float32)
        for row in range(rows):
            for j in range(count):
                shares[row, j] = delta[row, count + j] * math.exp(-2.0 * found[row, count + j])
        sums = np.dot((features * features).T, shares)
        for i in range(sums.shape[0]):
            for j in range(count):
                at = network.log_std_at + i * count + j
                gradient[at] = sums[i, j] * math.exp(2.0 * parameters[at])


@compiled
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
    _distribution(network, parameters, inputs, scratch, found)
    _policy_delta(network, update, batch, found, delta)
    top = _outputs(network, network.policy_end - 1, deltas, rows)
    if network.kind == CATEGORICAL:
        top[:] = delta
    else:
        _log_std_gradient(network, parameters, inputs, scratch, found, delta, gradient, top)
    trunk_end = network.trunk_end
    trunk = _outputs(network, trunk_end - 1, scratch, rows) if trunk_end else inputs
    towards = _outputs(network, trunk_end - 1, deltas, rows) if trunk_end else np.empty((0, 0), np.float32)
    towards[:] = 0.0
    _backward(network, trunk_end, network.policy_end, parameters, trunk, scratch, deltas, gradient, towards)
    values = _forward(network, network.policy_end, network.value_end, parameters, trunk, scratch)
    top = _outputs(network, network.value_end - 1, deltas, rows)
    targets = batch[4]
    for row in range(rows):
        error = np.float64(values[row, 0]) - targets[row]
        is_clipped = error * error > update.value_clip
        top[row, 0] = 0.0 if is_clipped else 2.0 * update.value_weight * error / rows
    _backward(network, network.policy_end, network.value_end, parameters, trunk, scratch, deltas, gradient, towards)
    nothing = np.empty((0, 0), np.float32)
    _backward(network, 0, trunk_end, parameters, inputs, scratch, deltas, gradient, nothing)


@compiled
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


@compiled
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
