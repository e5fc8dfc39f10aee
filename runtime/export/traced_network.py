"""A network of the user's own as graph operations, from torch.export's trace of its forward pass for inference."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn

from runtime.artifacts.exports import OBSERVATIONS
from runtime.errors import UserError, describe_root
from runtime.export.graph import Graph
from runtime.export.layers import add_layer_norm, add_linear, to_numpy

# Of a node: a tensor of the graph by its name, or a value that no observation changes.
_Value = Any
_LARGEST = float(np.finfo(np.float32).max)


class _Network(nn.Module):
    """Returns the action distribution's inputs and the values of rows of observations."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Computes both for (B, …) filtered observations."""
        batch = {Columns.OBS: observations}
        outputs = self.network._forward_inference(dict(batch))
        return outputs[Columns.ACTION_DIST_INPUTS], self.network.compute_values(dict(batch))


def add_network(graph: Graph, network: Any, x: str, shape: tuple[int, ...]) -> tuple[str, int, str]:
    """Adds a network of PPO to the graph.

    Args:
        graph: The graph.
        network: RLModule with a value function.
        x: Tensor of (B, …) filtered observations.
        shape: Shape of one of them.

    Returns:
        The action distribution's inputs (B, L), L, and the values (B,).

    Raises:
        UserError: It is recurrent, torch.export cannot trace it, or it computes what the graph has no operation for.
    """
    kind = type(network).__name__
    if network.is_stateful():
        raise UserError(f"export: got {kind}, a recurrent network; expected one without a state, which is not served.")
    if len(shape) != 1:
        raise UserError(
            f"export: got {kind} for observations of the shape {shape}; expected rows of numbers. A network of one's "
            "own for images is evaluated from its checkpoint."
        )
    program = _trace(network, shape)
    values = dict[str, _Value]()
    stored = {**program.state_dict, **program.constants}
    for spec in program.graph_signature.input_specs:
        values[spec.arg.name] = x if spec.target is None else stored[spec.target].detach().cpu()
    unknown = sorted({_name(node) for node in program.graph.nodes if node.op == "call_function" and not _knows(node)})
    if unknown:
        raise UserError(
            f"export: got {kind}, which computes {', '.join(unknown)}; expected linear layers, LayerNorm, tanh, ReLU, "
            "sigmoid, SiLU, arithmetic, clamp, cat, and slices of columns, which all formats have. No file is written; "
            "the policy is evaluated from its checkpoint."
        )
    outputs: Any = ()
    for node in program.graph.nodes:
        if node.op == "call_function":
            values[node.name] = _add(graph, node, values)
        elif node.op == "output":
            outputs = node.args[0]
    logits, state_values = (_tensor(graph, values[node.name]) for node in outputs)
    return logits, int(outputs[0].meta["val"].shape[-1]), state_values


def _trace(network: Any, shape: tuple[int, ...]) -> Any:
    example = torch.zeros(2, *shape)
    batch: Any = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            return torch.export.export(_Network(network).eval(), (example,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export raises many types of errors
        raise UserError(
            f"export: got {type(network).__name__}, which torch.export cannot trace "
            f"({describe_root(error).splitlines()[0]}); expected a forward pass for inference without Python that "
            "depends on values. No file is written; the policy is evaluated from its checkpoint."
        ) from None


def _name(node: Any) -> str:
    """Names an operation without its overload, as `aten.linear`."""
    return str(node.target).rpartition(".")[0] if str(node.target).startswith("aten.") else str(node.target)


def _knows(node: Any) -> bool:
    return _name(node) in _OPERATIONS or node.target is operator.getitem


def _add(graph: Graph, node: Any, values: dict[str, _Value]) -> _Value:
    """Adds one operation; what no observation changes is computed here."""
    arguments = torch.fx.node.map_arg(node.args, lambda one: values[one.name])
    named = torch.fx.node.map_arg(node.kwargs, lambda one: values[one.name])
    if not any(isinstance(values[one.name], str) for one in node.all_input_nodes):
        with torch.no_grad():
            return node.target(*arguments, **named)
    return _OPERATIONS[_name(node)](graph, node, *arguments, **named)


def _tensor(graph: Graph, value: _Value) -> str:
    """Returns the name of a tensor, which a value that no observation changes becomes first."""
    if isinstance(value, str):
        return value
    return graph.constant(to_numpy(value) if isinstance(value, Tensor) else value)


def _elementwise(kind: str) -> Callable[..., str]:
    def add(graph: Graph, node: Any, *arguments: Any, alpha: float = 1.0, rounding_mode: str | None = None) -> str:
        if rounding_mode is not None:
            raise UserError("export: got a division that rounds in the network; expected one that does not.")
        tensors = [_tensor(graph, one) for one in arguments]
        if alpha != 1:
            tensors[1] = graph.add("multiply", tensors[1], graph.constant(alpha))
        return graph.add(kind, *tensors)

    return add


def _unchanged(graph: Graph, node: Any, x: str, *_: Any, **__: Any) -> str:
    if node.meta["val"].dtype not in (torch.float32, torch.float64):
        raise UserError(f"export: got a tensor of {node.meta['val'].dtype} in the network; expected one of float32.")
    return x


def _no_tensor(graph: Graph, node: Any, *_: Any, **__: Any) -> str:
    """Stands for an assertion, or for the batch's size, which the graph's operations find themselves."""
    return ""


def _select(graph: Graph, node: Any, x: str, dim: int, index: int) -> str:
    shape = node.args[0].meta["val"].shape
    if dim not in (1, -1) or len(shape) != 2:
        raise UserError("export: got an index in the network; expected one of the columns of a (B, N) tensor.")
    column = graph.add("columns", x, start=index % int(shape[1]), count=1)
    return graph.add("reshape", column, shape=(-1,))


def _linear(graph: Graph, node: Any, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
    return add_linear(graph, x, to_numpy(weight), to_numpy(bias))


def _silu(graph: Graph, node: Any, x: str) -> str:
    return graph.add("multiply", x, graph.add("sigmoid", x))


def _negative(graph: Graph, node: Any, x: str) -> str:
    return graph.add("subtract", graph.constant(0.0), x)


def _clamp(graph: Graph, node: Any, x: str, low: Any = None, high: Any = None) -> str:
    if low is not None:
        x = graph.add("maximum", x, _tensor(graph, low))
    return x if high is None else graph.add("minimum", x, _tensor(graph, high))


def _reshape(graph: Graph, node: Any, x: str, *_: Any) -> str:
    first, *rest = node.meta["val"].shape
    if isinstance(first, int) or not all(isinstance(size, int) for size in rest):
        raise UserError("export: got a reshape across the batch axis in the network; expected the batch axis first.")
    return graph.add("reshape", x, shape=(-1, *rest))


def _concat(graph: Graph, node: Any, tensors: list[_Value], dim: int = 0) -> str:
    if dim not in (-1, node.meta["val"].ndim - 1):
        raise UserError(f"export: got torch.cat along axis {dim} in the network; expected the last axis.")
    return graph.add("concat", *(_tensor(graph, one) for one in tensors))


def _slice(graph: Graph, node: Any, x: str, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> str:
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape
    if before == after:
        return x
    if dim not in (1, -1) or len(before) != 2 or step != 1:
        raise UserError("export: got a slice in the network; expected one of the columns of a (B, N) tensor.")
    width = int(before[1])
    first = min(start + width if start < 0 else start, width) if start else 0
    return graph.add("columns", x, start=first, count=int(after[1]))


def _parts(graph: Graph, node: Any, x: str, *_: Any) -> list[str]:
    """Adds torch.split or torch.chunk of the columns of a (B, N) tensor."""
    parts = [part.shape for part in node.meta["val"]]
    if any(len(shape) != 2 or not isinstance(shape[1], int) for shape in parts):
        raise UserError("export: got a split in the network; expected one of the columns of a (B, N) tensor.")
    starts = np.cumsum([0, *(shape[1] for shape in parts)]).tolist()
    return [graph.add("columns", x, start=starts[i], count=shape[1]) for i, shape in enumerate(parts)]


def _expand(graph: Graph, node: Any, value: _Value, *_: Any, **__: Any) -> str:
    """Repeats a row for each observation, as a log standard deviation is.

    The zeros (B, 1) that it is added to are whether an observation exceeds the largest number.
    """
    if isinstance(value, str) or len(node.meta["val"].shape) != 2:
        raise UserError("export: got an expanded tensor in the network; expected a parameter of one row.")
    first = graph.add("columns", OBSERVATIONS, start=0, count=1)
    zeros = graph.add("cast", graph.add("greater", first, graph.constant(_LARGEST)), dtype=np.float32)
    return graph.add("add", zeros, _tensor(graph, value))


def _layer_norm(
    graph: Graph, node: Any, x: str, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> str:
    if len(shape) != 1:
        raise UserError("export: got a LayerNorm over several axes in the network; expected one over the last.")
    return add_layer_norm(graph, x, to_numpy(weight), to_numpy(bias), eps)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}": _elementwise(name) for name in ("tanh", "relu", "sigmoid", "exp", "log", "sqrt")},
    **{f"aten.{name}": _elementwise(name) for name in ("add", "minimum", "maximum")},
    **{f"aten.{short}": _elementwise(kind) for short, kind in (("sub", "subtract"), ("mul", "multiply"))},
    "aten.div": _elementwise("divide"),
    "aten.neg": _negative,
    "aten.silu": _silu,
    "aten.linear": _linear,
    "aten.layer_norm": _layer_norm,
    "aten.clamp": _clamp,
    "aten.cat": _concat,
    "aten.slice": _slice,
    "aten.select": _select,
    **{f"aten.{name}": _no_tensor for name in ("_assert_tensor_metadata", "sym_size")},
    **{f"aten.{name}": _parts for name in ("split", "split_with_sizes", "chunk")},
    **{f"aten.{name}": _expand for name in ("expand", "expand_as")},
    **{f"aten.{name}": _reshape for name in ("view", "reshape", "flatten", "squeeze", "unsqueeze")},
    **{f"aten.{name}": _unchanged for name in ("to", "_to_copy", "clone", "contiguous", "detach", "dropout", "alias")},
}
