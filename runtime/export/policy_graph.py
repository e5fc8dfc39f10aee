"""A policy that RLlib trained as a graph: filter, networks, the most likely action, scaling and clipping."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.core.models.torch.encoder import TorchActorCriticEncoder, TorchCNNEncoder, TorchMLPEncoder
from ray.rllib.core.models.torch.heads import TorchFreeLogStdMLPHead, TorchMLPHead

from runtime.artifacts.exports import ACTION_MASK, OBSERVATIONS
from runtime.errors import UserError
from runtime.export.filters import add_clip, add_filter
from runtime.export.graph import Graph
from runtime.export.layers import add_layers, add_linear, refuse, to_numpy
from runtime.export.traced_network import add_network
from runtime.policies.masks import MASKED_LOGIT
from runtime.policies.noise_head import VARIANCE_FLOOR, StateDependentNoiseHead
from runtime.policies.own_module import is_own
from runtime.policies.policy import Policy

_LOG_2PI = math.log(2 * math.pi)


def build_graph(policy: Policy, observation_shape: tuple[int, ...]) -> Graph:
    """Builds the graph of a policy of PPO, IMPALA, APPO, DQN or SAC.

    Outputs, for B observations: `actions` in the environment's own units, `action_logp` and `action_prob` (B,) of that
    action, `behaviour_logits` (B, L) and `vf_preds` (B,), the names of RLlib's old SavedModels. DQN's has `actions` and
    `q_values` (B, A), SAC's `actions` and `behaviour_logits`.

    Args:
        policy: The policy.
        observation_shape: Shape of one unfiltered observation; a mask at its end becomes an input of its own.

    Raises:
        UserError: The network holds a module that is not known here, or the action space is unusual.
    """
    module = policy.module
    if module.model_config.get("lidar") is not None:
        raise UserError("export: got a policy of a picture and other numbers together, which no format is written for.")
    size = policy.mask_size
    graph = Graph((observation_shape[0] - size, *observation_shape[1:]), mask_size=size)
    x = OBSERVATIONS
    if policy.observation_filter is not None:
        x = add_filter(graph, x, policy.observation_filter.without_last(size))
    if is_own(module):
        return _add_own_network(graph, policy, x)
    if isinstance(module, DefaultDQNTorchRLModule):
        return _add_q_network(graph, module, x)
    if isinstance(module, DefaultSACTorchRLModule):
        return _add_squashed_gaussian(graph, policy, x)
    if not isinstance(module, DefaultPPOTorchRLModule):
        raise refuse("the policy", module, "RLlib's PPO, APPO, IMPALA, DQN or SAC module")
    if not isinstance(module.encoder, TorchActorCriticEncoder):
        raise refuse("encoder", module.encoder, "a TorchActorCriticEncoder; a recurrent one needs its state served")
    shared = module.encoder.config.shared
    actor = _encode(graph, module.encoder, "encoder" if shared else "actor_encoder", x)
    critic = actor if shared else _encode(graph, module.encoder, "critic_encoder", x)
    logits, size = _policy_head(graph, module.pi, actor)
    logits = add_mask(graph, logits)
    _name_outputs(graph, policy, logits, size)
    value = add_layers(graph, module.vf.net.mlp, critic, where="vf.net.mlp")
    graph.name_output("vf_preds", graph.add("reshape", value, shape=(-1,)), np.float32)
    return graph


def _name_outputs(graph: Graph, policy: Policy, logits: str, size: int) -> None:
    """Adds what an action distribution's inputs (B, size) say: the most likely action and its probability."""
    actions, logp = _act(graph, logits, size, policy)
    graph.name_output("action_prob", graph.add("exp", logp), np.float32)
    graph.name_output("action_logp", logp, np.float32)
    graph.name_output("actions", *actions)
    graph.name_output("behaviour_logits", logits, np.float32, (size,))


def _add_own_network(graph: Graph, policy: Policy, x: str) -> Graph:
    """Adds a network of the user's own, which sees the mask at the end of its observations, if they have one."""
    if ACTION_MASK in graph.inputs:
        x = graph.add("concat", x, ACTION_MASK)
    logits, size, values = add_network(graph, policy.module, x, policy.module.observation_space.shape)
    _name_outputs(graph, policy, logits, size)
    graph.name_output("vf_preds", values, np.float32)
    return graph


def _add_q_network(graph: Graph, module: Any, x: str) -> Graph:
    """Adds DQN's greedy policy: the action with the largest Q value.

    Dueling: Q = V + A - mean(A), Wang et al. 2016, eq. 9. Distributional: the mean of the atoms under the softmax of
    the action's logits, in which RLlib's dueling streams, constant over an action's atoms, cancel out.
    """
    x = _encode(graph, module, "encoder", x)
    values = add_layers(graph, module.af.net.mlp, x, where="af.net.mlp")
    actions = int(module.action_space.n)
    if module.num_atoms > 1:
        values = _add_means_of_atoms(graph, values, module, actions)
    elif module.uses_dueling:
        state = add_layers(graph, module.vf.net.mlp, x, where="vf.net.mlp")
        values = graph.add("add", graph.add("subtract", values, graph.add("mean", values)), state)
    values = add_mask(graph, values)
    graph.name_output("actions", graph.add("argmax", values), np.int64)
    graph.name_output("q_values", values, np.float32, (actions,))
    return graph


def add_mask(graph: Graph, logits: str) -> str:
    """Gives the actions that the input `action_mask` does not allow the logit that training gives them."""
    if ACTION_MASK not in graph.inputs:
        return logits
    mask = graph.add("cast", graph.add("greater", ACTION_MASK, graph.constant(0.0)), dtype=np.float32)
    # logits * 1 + 0 where allowed, logits * 0 + the masked logit where not: both are exact.
    kept = graph.add("multiply", logits, mask)
    away = graph.add("multiply", graph.add("subtract", mask, graph.constant(1.0)), graph.constant(-MASKED_LOGIT))
    return graph.add("add", kept, away)


def _add_means_of_atoms(graph: Graph, logits: str, module: Any, actions: int) -> str:
    """Mean return of each action, (B, A), of logits (B, A * atoms)."""
    count = module.num_atoms
    atoms = graph.constant(np.linspace(module.v_min, module.v_max, count)[:, None])
    means = []
    for action in range(actions):
        mine = graph.add("columns", logits, start=action * count, count=count)
        weights = graph.add("exp", graph.add("subtract", mine, graph.add("max", mine)))
        total = graph.add("reshape", graph.add("sum", weights), shape=(-1, 1))
        means.append(graph.add("divide", graph.add("matmul", weights, atoms), total))
    return graph.add("concat", *means)


def _add_squashed_gaussian(graph: Graph, policy: Policy, x: str) -> Graph:
    """Adds SAC's deterministic action, tanh(mean), scaled to the action space."""
    module, space = policy.module, policy.action_space
    assert isinstance(space, spaces.Box)
    logits = add_layers(graph, module.pi.net.mlp, _encode(graph, module, "pi_encoder", x), where="pi.net.mlp")
    size = 2 * int(np.prod(space.shape))
    mean = graph.add("tanh", graph.add("columns", logits, start=0, count=size // 2))
    dtype = np.dtype(np.float64 if space.dtype == np.float64 else np.float32)
    action = _scale(graph, mean, space, policy, dtype)
    if len(space.shape) != 1:
        action = graph.add("reshape", action, shape=(-1, *space.shape))
    graph.name_output("actions", action, dtype, space.shape)
    graph.name_output("behaviour_logits", logits, np.float32, (size,))
    return graph


def _encode(graph: Graph, encoders: Any, name: str, x: str) -> str:
    encoder = getattr(encoders, name)
    where = f"encoder.{name}" if encoders.__class__ is TorchActorCriticEncoder else name
    if isinstance(encoder, TorchMLPEncoder):
        return add_layers(graph, encoder.net.mlp, x, where=f"{where}.net.mlp")
    if isinstance(encoder, TorchCNNEncoder):
        # The image stays (B, H, W, C) throughout, which is also the order that RLlib flattens it in.
        x = add_layers(graph, encoder.net[0].cnn, x, where=f"{where}.net.0.cnn")
        return graph.add("reshape", x, shape=(-1, int(np.prod(encoder.config.output_dims))))
    raise refuse(where, encoder, "a TorchMLPEncoder or a TorchCNNEncoder")


def _policy_head(graph: Graph, head: Any, x: str) -> tuple[str, int]:
    """Returns the inputs of the action distribution, and how many they are."""
    if isinstance(head, StateDependentNoiseHead):
        return _noise_head(graph, head, x)
    layers = head.net.mlp if isinstance(head, (TorchMLPHead, TorchFreeLogStdMLPHead)) else None
    if layers is None:
        raise refuse("pi", head, "a TorchMLPHead or a TorchFreeLogStdMLPHead")
    bound = float(head.log_std_clip_param_const[0])
    if isinstance(head, TorchFreeLogStdMLPHead):
        x = add_layers(graph, layers[:-1], x, where="pi.net.mlp")
        log_std = to_numpy(head.log_std)
        if head.clip_log_std:
            log_std = np.clip(log_std, -bound, bound)
        # The log deviations are a bias of outputs that no weight reaches.
        last = layers[-1]
        weight = np.concatenate([to_numpy(last.weight), np.zeros_like(to_numpy(last.weight))])
        return add_linear(graph, x, weight, np.concatenate([to_numpy(last.bias), log_std])), 2 * len(log_std)
    size = layers[-1].out_features
    x = add_layers(graph, layers, x, where="pi.net.mlp")
    if not head.clip_log_std:
        return x, size
    mean, log_std = (graph.add("columns", x, start=start, count=size // 2) for start in (0, size // 2))
    log_std = add_clip(graph, log_std, np.array([-bound], np.float32), np.array([bound], np.float32))
    return graph.add("concat", mean, log_std), size


def _noise_head(graph: Graph, head: StateDependentNoiseHead, x: str) -> tuple[str, int]:
    """Adds a state-dependent noise head, as its `distribution_inputs` computes it."""
    layers = head.net.mlp
    features = add_layers(graph, layers[:-1], x, where="pi.net.mlp")
    mean = add_layers(graph, layers[-1:], features, where="pi.net.mlp")
    squares = graph.add("multiply", features, features)
    variance = graph.add("matmul", squares, graph.constant(np.exp(2 * to_numpy(head.log_std))))
    variance = graph.add("add", variance, graph.constant(VARIANCE_FLOOR))
    log_std = graph.add("multiply", graph.constant(0.5), graph.add("log", variance))
    return graph.add("concat", mean, log_std), 2 * layers[-1].out_features


def _act(graph: Graph, logits: str, size: int, policy: Policy) -> tuple[tuple[str, Any, tuple[int, ...]], str]:
    """Returns the most likely action as (tensor, dtype, shape of one), and its log probability (B,)."""
    space = policy.action_space
    if isinstance(space, spaces.Discrete):
        action, logp = _categorical(graph, logits)
        return (action, np.int64, ()), logp
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return _multi_categorical(graph, logits, space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        mean = graph.add("columns", logits, start=0, count=size // 2)
        log_std = graph.add("columns", logits, start=size // 2, count=size // 2)
        logp = graph.add("subtract", graph.constant(-size / 4 * _LOG_2PI), graph.add("sum", log_std))
        dtype = np.dtype(np.float64 if space.dtype == np.float64 else np.float32)
        action = _scale(graph, mean, space, policy, dtype)
        if len(space.shape) != 1:
            action = graph.add("reshape", action, shape=(-1, *space.shape))
        return (action, dtype, space.shape), logp
    if isinstance(space, spaces.Tuple):
        return _act_hybrid(graph, logits, size, space)
    raise UserError(
        f"export: got the action space {space}; expected a Discrete, a one-dimensional MultiDiscrete, a Box of "
        "floats. Wrap the environment."
    )


def _act_hybrid(
    graph: Graph, logits: str, size: int, space: spaces.Tuple
) -> tuple[tuple[str, Any, tuple[int, ...]], str]:
    """Numbers in ±1 and choices beside them, all as floats: (B, numbers + choices)."""
    box, choices = space.spaces
    assert isinstance(box, spaces.Box)
    assert isinstance(choices, spaces.MultiDiscrete)
    count = box.shape[0]
    log_std = graph.add("columns", logits, start=count, count=count)
    logp = graph.add("subtract", graph.constant(-count / 2 * _LOG_2PI), graph.add("sum", log_std))
    ones = np.ones(count, np.float32)
    numbers = add_clip(graph, graph.add("columns", logits, start=0, count=count), -ones, ones)
    rest = graph.add("columns", logits, start=2 * count, count=size - 2 * count)
    (chosen, _, _), choice_logp = _multi_categorical(graph, rest, choices)
    actions = graph.add("concat", numbers, graph.add("cast", chosen, dtype=np.float32))
    return (actions, np.float32, (count + len(choices.nvec),)), graph.add("add", logp, choice_logp)


def _categorical(graph: Graph, logits: str) -> tuple[str, str]:
    """Returns the index (B,) of the largest logit, and its log probability (B,): -log(sum(exp(logits - largest)))."""
    away = graph.add("subtract", logits, graph.add("max", logits))
    total = graph.add("log", graph.add("sum", graph.add("exp", away)))
    logp = graph.add("subtract", graph.constant(0.0), total)
    return graph.add("argmax", logits), logp


def _multi_categorical(
    graph: Graph, logits: str, space: spaces.MultiDiscrete
) -> tuple[tuple[str, Any, tuple[int, ...]], str]:
    actions = []
    logps = []
    start = 0
    for count in space.nvec.tolist():
        action, logp = _categorical(graph, graph.add("columns", logits, start=start, count=count))
        actions.append(graph.add("reshape", action, shape=(-1, 1)))
        logps.append(logp)
        start += count
    total = logps[0]
    for logp in logps[1:]:
        total = graph.add("add", total, logp)
    return (graph.add("concat", *actions), np.int64, space.shape), total


def _scale(graph: Graph, mean: str, space: spaces.Box, policy: Policy, dtype: np.dtype[Any]) -> str:
    """Returns the network's action (B, A) in the environment's units, as `Policy.to_environment` has it."""
    low, high = space.low.ravel().astype(dtype), space.high.ravel().astype(dtype)
    if dtype == np.float64:
        mean = graph.add("cast", mean, dtype=np.float64)
    if policy.normalize_actions:
        if not _is_bounded(space):
            return mean
        mean = _scale_to_bounds(graph, mean, low, high)
    elif not policy.clip_actions:
        return mean
    return add_clip(graph, mean, low, high)


def _scale_to_bounds(graph: Graph, mean: str, low: NDArray[Any], high: NDArray[Any]) -> str:
    """±1 to low..high: low + (a + 1)(high - low) / 2 as one factor and one offset.

    One row at a time, the number of operations is what a policy costs.
    """
    factor = high / 2 - low / 2
    offset = high / 2 + low / 2
    if np.any(factor != 1):
        mean = graph.add("multiply", mean, graph.constant(factor, low.dtype))
    return graph.add("add", mean, graph.constant(offset, low.dtype)) if np.any(offset) else mean


def _is_bounded(space: gymnasium.spaces.Box) -> bool:
    return bool(np.all(space.bounded_below) and np.all(space.bounded_above))
