"""Builds the graph of an offline-trained policy: one input, and one output, the action or action probabilities.

Source: Fujimoto et al. 2019, Benchmarking Batch Deep Reinforcement Learning Algorithms, arXiv 1910.01708; in the
form that d3rlpy's DiscreteBCQ acts by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.artifacts.exports import ACTION_MASK, OBSERVATIONS, PROBABILITIES
from runtime.export.filters import add_clip, add_filter
from runtime.export.graph import Graph
from runtime.export.layers import add_layers, add_linear, refuse, to_numpy
from runtime.export.policy_graph import add_mask
from runtime.policies.filter import ObservationFilter
from runtime.policies.network_policy import NetworkPolicy


def build_network_graph(policy: NetworkPolicy) -> Graph:
    """Builds the graph of a policy that learned from a log.

    Raises:
        UserError: A layer is not known.
    """
    shape = policy.observation_filter.mean.shape
    if policy.kind == "sampled":
        return build_sampled_graph(policy)
    if policy.kind == "actor":
        return build_actor_graph(
            policy.networks["actor"][0],
            low=policy.low,
            high=policy.high,
            observation_shape=shape,
            observation_filter=policy.observation_filter,
        )
    return build_bcq_graph(
        policy.networks["q"],
        next(iter(policy.networks.get("imitator", ())), None),
        action_flexibility=policy.action_flexibility,
        observation_shape=shape,
        num_actions=policy.num_actions,
        observation_filter=policy.observation_filter,
        mask_size=policy.mask_size,
    )


def build_bcq_graph(
    q_networks: Sequence[nn.Module],
    imitator: nn.Module | None,
    *,
    action_flexibility: float,
    observation_shape: tuple[int, ...],
    num_actions: int,
    observation_filter: ObservationFilter | None = None,
    mask_size: int = 0,
) -> Graph:
    """Builds the graph of a greedy policy: the action with the highest Q value among those that the data supports.

    Args:
        q_networks: Layers of each Q function, (B, O) to (B, A); their values are averaged.
        imitator: Layers of the behavior policy's logits, (B, O) to (B, A); None allows every action.
        action_flexibility: An action is allowed if it is more than this times as likely as the likeliest, 0..1.
        observation_shape: Shape of one observation, without a mask.
        num_actions: Number A of actions.
        observation_filter: Applied first, or None.
        mask_size: A for a policy with the input `action_mask`, which allows no other actions; else 0.

    Returns:
        A graph whose one output `action_probabilities` (B, A) is 1 for the chosen action, or shared equally in a tie.

    Raises:
        UserError: A layer is not known.
    """
    graph = Graph(observation_shape, mask_size=mask_size)
    x = OBSERVATIONS if observation_filter is None else add_filter(graph, OBSERVATIONS, observation_filter)
    values = [add_layers(graph, network, x, where=f"q_networks.{n}") for n, network in enumerate(q_networks)]
    value = values[0]
    for other in values[1:]:
        value = graph.add("add", value, other)
    value = graph.add("divide", value, graph.constant(len(values)))
    # Shifts all scores above 0, so that a masked action, whose score is 0, is below every allowed one.
    least = graph.add("max", graph.add("subtract", graph.constant(0.0), value))
    score = graph.add("add", graph.add("add", value, least), graph.constant(1e-5))
    if mask_size:
        mask = graph.add("greater", ACTION_MASK, graph.constant(0.0))
        score = graph.add("multiply", score, graph.add("cast", mask, dtype=np.float32))
    if imitator is not None:
        score = graph.add("multiply", score, _allowed(graph, imitator, x, action_flexibility))
    loses = graph.add("cast", graph.add("greater", graph.add("max", score), score), dtype=np.float32)
    chosen = graph.add("subtract", graph.constant(1.0), loses)
    count = graph.add("reshape", graph.add("sum", chosen), shape=(-1, 1))
    graph.name_output(PROBABILITIES, graph.add("divide", chosen, count), np.float32, (num_actions,))
    return graph


def _allowed(graph: Graph, imitator: nn.Module, x: str, action_flexibility: float) -> str:
    """1 for each action that the behavior policy takes often enough."""
    logits = add_mask(graph, add_layers(graph, imitator, x, where="imitator"))
    # log p - max log p is the same of logits: the softmax's constant cancels.
    below = graph.add("subtract", logits, graph.add("max", logits))
    limit = math.log(action_flexibility) if action_flexibility > 0 else -math.inf
    return graph.add("cast", graph.add("greater", below, graph.constant(limit)), dtype=np.float32)


def build_actor_graph(
    actor: nn.Module,
    *,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    observation_shape: tuple[int, ...],
    observation_filter: ObservationFilter,
) -> Graph:
    """Builds the graph of an offline-trained policy for continuous actions: one output, `actions` (B, A).

    Args:
        actor: Layers from (B, O) to (B, A), before the tanh.
        low: (A,) action at -1.
        high: (A,) action at 1.
        observation_shape: Shape of one observation.
        observation_filter: Filter that is applied first.
    """
    graph = Graph(observation_shape)
    x = add_filter(graph, OBSERVATIONS, observation_filter)
    unit = graph.add("tanh", add_layers(graph, actor, x, where="actor"))
    return _name_actions(graph, unit, low, high)


def _name_actions(graph: Graph, unit: str, low: NDArray[np.float32], high: NDArray[np.float32]) -> Graph:
    """Makes actions (B, A) between -1 and 1 the output `actions`, in the environment's units."""
    scaled = graph.add("multiply", unit, graph.constant((high - low) / 2))
    actions = graph.add("add", scaled, graph.constant((high + low) / 2))
    graph.name_output("actions", add_clip(graph, actions, low, high), np.float32, low.shape)
    return graph


def build_sampled_graph(policy: NetworkPolicy) -> Graph:
    """Builds the graph of BCQ for continuous actions: the most valuable of K proposed actions, `actions` (B, A).

    The policy's latents are fixed, so that they are constants of the graph and the action is a function of the
    observation. A first layer of a state beside an action is a sum of two products, of which the state's is computed
    once for all K actions.

    Source: Fujimoto, Meger & Precup 2019, Off-Policy Deep Reinforcement Learning without Exploration, section 5, in
    the form that d3rlpy's BCQ acts by.
    """
    graph = Graph(policy.observation_filter.mean.shape)
    x = add_filter(graph, OBSERVATIONS, policy.observation_filter)
    networks = {role: policy.networks[role][0] for role in ("decoder", "residual", "q")}
    latents = policy.latents
    size = len(policy.low)
    proposed = _add_for_each(graph, networks["decoder"], x, latents, count=len(latents), where="decoder")
    moved = graph.add(
        "tanh", _add_for_each(graph, networks["residual"], x, proposed, count=len(latents), where="residual")
    )
    moved = graph.add("multiply", moved, graph.constant(policy.residual_scale))
    ones = np.ones(1, np.float32)
    actions = add_clip(graph, graph.add("add", proposed, moved), -ones, ones)
    values = _add_for_each(graph, networks["q"], x, actions, count=len(latents), where="q")
    first = _select_first_largest(graph, graph.add("reshape", values, shape=(-1, len(latents))), len(latents))
    chosen = []
    for column in range(size):
        candidates = graph.add("columns", actions, start=column, count=1)
        candidates = graph.add("reshape", candidates, shape=(-1, len(latents)))
        total = graph.add("sum", graph.add("multiply", candidates, first))
        chosen.append(graph.add("reshape", total, shape=(-1, 1)))
    return _name_actions(graph, graph.add("concat", *chosen), policy.low, policy.high)


def _add_for_each(
    graph: Graph, network: nn.Sequential, x: str, actions: str | torch.Tensor, *, count: int, where: str
) -> str:
    """Adds a network of states beside actions, (B K, out), for K actions of each state.

    Args:
        graph: The graph.
        network: Its first layer is linear, of (O + A) inputs.
        x: (B, O) states.
        actions: (B K, A) actions of each state, or (K, A) that are the same for all.
        count: K.
        where: Name of the network, for errors.
    """
    first: Any = network[0]
    if not isinstance(first, nn.Linear):
        raise refuse(f"{where}.0", first, "a Linear")
    weight, bias = to_numpy(first.weight), to_numpy(first.bias)
    width = first.out_features
    size = first.in_features - math.prod(size or 1 for size in graph.inputs[OBSERVATIONS].shape[1:])
    by_state = add_linear(graph, x, weight[:, :-size], bias)
    by_state = graph.add("reshape", by_state, shape=(-1, 1, width))
    if isinstance(actions, str):
        by_action = graph.add("reshape", add_linear(graph, actions, weight[:, -size:], None), shape=(-1, count, width))
    else:
        by_action = graph.constant(to_numpy(actions)[None] @ weight[:, -size:].T)
    both = graph.add("reshape", graph.add("add", by_state, by_action), shape=(-1, width))
    return add_layers(graph, network[1:], both, where=where)


def _select_first_largest(graph: Graph, values: str, count: int) -> str:
    """Returns (B, K): 1 at the first of the largest of each row's values, 0 elsewhere."""
    loses = graph.add("cast", graph.add("greater", graph.add("max", values), values), dtype=np.float32)
    wins = graph.add("subtract", graph.constant(1.0), loses)
    ranked = graph.add("multiply", wins, graph.constant(np.arange(count, 0, -1)))
    later = graph.add("cast", graph.add("greater", graph.add("max", ranked), ranked), dtype=np.float32)
    return graph.add("subtract", graph.constant(1.0), later)
