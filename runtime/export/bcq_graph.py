"""A discrete batch-constrained policy as a graph: one input, and one output, the probability of each action.

Source: Fujimoto et al. 2019, Benchmarking Batch Deep Reinforcement Learning Algorithms, arXiv 1910.01708; in the
form that d3rlpy's DiscreteBCQ acts by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import nn

from runtime.export.graph import OBSERVATIONS, Graph
from runtime.export.layers import add_layers
from runtime.export.policy_graph import add_filter
from runtime.policy import ObservationFilter

PROBABILITIES = "action_probabilities"


def build_bcq_graph(
    q_networks: Sequence[nn.Module],
    imitator: nn.Module,
    *,
    action_flexibility: float,
    observation_shape: tuple[int, ...],
    num_actions: int,
    observation_filter: ObservationFilter | None = None,
) -> Graph:
    """The graph of a greedy policy: of the actions that the data's policy takes often enough, the one worth most.

    Args:
        q_networks: Layers of each Q function, (B, O) to (B, A); their mean counts.
        imitator: Layers of the behaviour policy's logits, (B, O) to (B, A).
        action_flexibility: An action is allowed if it is more than this times as likely as the likeliest, 0..1.
        observation_shape: Of one observation.
        num_actions: A.
        observation_filter: Applied first, or None.

    Returns:
        A graph whose one output `action_probabilities` (B, A) is 1 for the chosen action; equally good ones share.

    Raises:
        UserError: A layer is not known.
    """
    graph = Graph(observation_shape)
    x = OBSERVATIONS if observation_filter is None else add_filter(graph, OBSERVATIONS, observation_filter)
    logits = add_layers(graph, imitator, x, where="imitator")
    # log p - max log p is the same of logits: the softmax's constant cancels.
    below = graph.add("subtract", logits, graph.add("max", logits))
    limit = math.log(action_flexibility) if action_flexibility > 0 else -math.inf
    allowed = graph.add("cast", graph.add("greater", below, graph.constant(limit)), dtype=np.float32)
    values = [add_layers(graph, network, x, where=f"q_networks.{n}") for n, network in enumerate(q_networks)]
    value = values[0]
    for other in values[1:]:
        value = graph.add("add", value, other)
    value = graph.add("divide", value, graph.constant(len(values)))
    # Above 0 for every action, so that those which are not allowed are worth less than any that is.
    least = graph.add("max", graph.add("subtract", graph.constant(0.0), value))
    worth = graph.add("add", graph.add("add", value, least), graph.constant(1e-5))
    worth = graph.add("multiply", worth, allowed)
    loses = graph.add("cast", graph.add("greater", graph.add("max", worth), worth), dtype=np.float32)
    chosen = graph.add("subtract", graph.constant(1.0), loses)
    count = graph.add("reshape", graph.add("sum", chosen), shape=(-1, 1))
    graph.name_output(PROBABILITIES, graph.add("divide", chosen, count), np.float32, (num_actions,))
    return graph
