"""Builds the graph of an offline-trained policy: one input, and one output, the action or action probabilities.

Source: Fujimoto et al. 2019, Benchmarking Batch Deep Reinforcement Learning Algorithms, arXiv 1910.01708; in the
form that d3rlpy's DiscreteBCQ acts by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from runtime.artifacts.exports import OBSERVATIONS, PROBABILITIES
from runtime.errors import UserError
from runtime.export.filters import add_clip, add_filter
from runtime.export.graph import Graph
from runtime.export.layers import add_layers
from runtime.policies.filter import ObservationFilter
from runtime.policies.network_policy import NetworkPolicy


def build_network_graph(policy: NetworkPolicy) -> Graph:
    """Builds the graph of a policy that learned from a log.

    Raises:
        UserError: The policy samples actions, which cannot be exported, or it has an unknown layer.
    """
    shape = policy.observation_filter.mean.shape
    if policy.kind == "sampled":
        raise UserError(
            "BCQ for continuous actions: got a policy that chooses among sampled actions; expected one whose "
            "action is a function of the network. Train run=TD3+BC or IQL to export, or evaluate it as it is."
        )
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
    )


def build_bcq_graph(
    q_networks: Sequence[nn.Module],
    imitator: nn.Module | None,
    *,
    action_flexibility: float,
    observation_shape: tuple[int, ...],
    num_actions: int,
    observation_filter: ObservationFilter | None = None,
) -> Graph:
    """Builds the graph of a greedy policy: the action with the highest Q value among those that the data supports.

    Args:
        q_networks: Layers of each Q function, (B, O) to (B, A); their values are averaged.
        imitator: Layers of the behavior policy's logits, (B, O) to (B, A); None allows every action.
        action_flexibility: An action is allowed if it is more than this times as likely as the likeliest, 0..1.
        observation_shape: Shape of one observation.
        num_actions: Number A of actions.
        observation_filter: Applied first, or None.

    Returns:
        A graph whose one output `action_probabilities` (B, A) is 1 for the chosen action, or shared equally in a tie.

    Raises:
        UserError: A layer is not known.
    """
    graph = Graph(observation_shape)
    x = OBSERVATIONS if observation_filter is None else add_filter(graph, OBSERVATIONS, observation_filter)
    values = [add_layers(graph, network, x, where=f"q_networks.{n}") for n, network in enumerate(q_networks)]
    value = values[0]
    for other in values[1:]:
        value = graph.add("add", value, other)
    value = graph.add("divide", value, graph.constant(len(values)))
    # Shifts all scores above 0, so that a masked action, whose score is 0, is below every allowed one.
    least = graph.add("max", graph.add("subtract", graph.constant(0.0), value))
    score = graph.add("add", graph.add("add", value, least), graph.constant(1e-5))
    if imitator is not None:
        score = graph.add("multiply", score, _allowed(graph, imitator, x, action_flexibility))
    loses = graph.add("cast", graph.add("greater", graph.add("max", score), score), dtype=np.float32)
    chosen = graph.add("subtract", graph.constant(1.0), loses)
    count = graph.add("reshape", graph.add("sum", chosen), shape=(-1, 1))
    graph.name_output(PROBABILITIES, graph.add("divide", chosen, count), np.float32, (num_actions,))
    return graph


def _allowed(graph: Graph, imitator: nn.Module, x: str, action_flexibility: float) -> str:
    """1 for each action that the behavior policy takes often enough."""
    logits = add_layers(graph, imitator, x, where="imitator")
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
    scaled = graph.add("multiply", unit, graph.constant((high - low) / 2))
    actions = graph.add("add", scaled, graph.constant((high + low) / 2))
    graph.name_output("actions", add_clip(graph, actions, low, high), np.float32, low.shape)
    return graph
