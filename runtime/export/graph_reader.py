"""Reads other people's frozen graphs: the layers on the way from the inputs to an output, with their weights.

The graph is data; reading it runs nothing of it, and needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorboard.compat.proto.graph_pb2 import GraphDef

from runtime.export.graph_def import read_constant

# Operations that pass a constant on as it is, or in another shape.
_PASSING = frozenset({"Identity", "Reshape", "Transpose", "StopGradient"})
_WEIGHING = frozenset({"Conv2D", "MatMul"})
_VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp", "ReadVariableOp"})
_MOST_NODES = 100_000


class GraphError(ValueError):
    """A file is no frozen graph; the message says what was found, and what was expected."""


@dataclass(frozen=True)
class Layer:
    """A layer of a graph.

    Attributes:
        name: Name of its convolution or product.
        kernel: (H, W, C, D) of a convolution, (in, out) of a dense layer.
        bias: (D,) or (out,).
        stride: Of a convolution, in rows and columns alike; 1 for a dense layer.
        inputs: Names of the placeholders that it depends on.
    """

    name: str
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int
    inputs: frozenset[str]


class GraphReader:
    """A frozen graph.

    Args:
        content: Bytes of the file.

    Attributes:
        nodes: Its nodes by name.

    Raises:
        GraphError: The bytes are no GraphDef.
    """

    def __init__(self, content: bytes) -> None:
        try:
            graph = GraphDef.FromString(content)
        except DecodeError:
            raise GraphError(
                f"got {len(content):,} bytes that are no GraphDef, or not all of one; expected a whole frozen graph"
            ) from None
        if not graph.node or len(graph.node) > _MOST_NODES:
            raise GraphError(f"got {len(graph.node):,} nodes; expected a frozen graph of 1 to {_MOST_NODES:,}")
        self.nodes: Mapping[str, Any] = {node.name: node for node in graph.node}

    def sinks(self) -> list[str]:
        """Returns the names of the nodes that no other one reads."""
        read = {_source(one) for node in self.nodes.values() for one in node.input}
        return sorted(set(self.nodes) - read)

    def order(self, output: str) -> list[str]:
        """Returns an output and all that it is computed from, each after its inputs.

        Raises:
            GraphError: The graph is not frozen, an input is not in it, or depends on itself.
        """
        ordered: dict[str, None] = {}
        path: dict[str, None] = {}
        stack = [output]
        while stack:
            name = stack[-1]
            if name not in self.nodes:
                raise GraphError(f"got a graph without its node {name!r}; expected a whole one")
            path[name] = None
            waiting = [one for one in self._inputs(name) if one not in ordered]
            if any(one in path for one in waiting):
                raise GraphError(f"got a graph whose node {name!r} depends on itself; expected one layer after another")
            if not waiting:
                ordered[stack.pop()] = None
                path.pop(name)
            else:
                stack.append(waiting[0])
        if variables := sorted({self.nodes[name].op for name in ordered} & _VARIABLES):
            raise GraphError(f"got a graph with {', '.join(variables)}; expected a frozen one, with constant weights")
        return list(ordered)

    def _inputs(self, name: str) -> list[str]:
        return [_source(one) for one in self.nodes[name].input if not one.startswith("^")]

    def layers(self, output: str) -> list[Layer]:
        """Returns the convolutions and the dense layers that an output is computed by, in that order.

        Raises:
            GraphError: As for `order`, or a layer has no weights, or no bias.
        """
        order = self.order(output)
        needs: dict[str, frozenset[str]] = {}
        biases: dict[str, NDArray[np.float32]] = {}
        for name in order:
            node = self.nodes[name]
            inputs = self._inputs(name)
            own = {name} if node.op == "Placeholder" else set()
            needs[name] = frozenset(own).union(*(needs[one] for one in inputs))
            if node.op in ("BiasAdd", "Add", "AddV2") and len(inputs) == 2:
                self._note_bias(inputs, biases)
        found = []
        for name in order:
            node = self.nodes[name]
            if node.op not in _WEIGHING or not needs[name]:
                continue
            kernel = self._constant(_source(node.input[1]))
            if kernel is None or name not in biases or kernel.ndim != (4 if node.op == "Conv2D" else 2):
                raise GraphError(f"got the layer {name!r} without a constant kernel and bias; expected both")
            found.append(Layer(name, kernel, biases[name], _stride(node), needs[name]))
        return found

    def _note_bias(self, inputs: list[str], biases: dict[str, NDArray[np.float32]]) -> None:
        """Notes a constant that is added to a layer, also after a reshaping, as in Coach's layers of pixels."""
        bias = self._constant(inputs[1])
        layer = inputs[0]
        while self.nodes[layer].op in _PASSING:
            layer = _source(self.nodes[layer].input[0])
        if bias is not None and bias.ndim == 1 and self.nodes[layer].op in _WEIGHING:
            biases.setdefault(layer, bias)

    def _constant(self, name: str) -> NDArray[np.float32] | None:
        """Returns the constant that a node passes on, or None if it computes something."""
        node = self.nodes[name]
        while node.op in _PASSING:
            node = self.nodes[_source(node.input[0])]
        if node.op != "Const":
            return None
        value = read_constant(node.attr["value"].tensor)
        return np.asarray(value, np.float32) if value.dtype.kind == "f" else None


def _source(tensor: str) -> str:
    """Returns the node of a tensor's name, as `name:0`, or of a control input, as `^name`."""
    return tensor.removeprefix("^").partition(":")[0]


def _stride(node: Any) -> int:
    strides = list(node.attr["strides"].list.i) if node.op == "Conv2D" else [1, 1, 1, 1]
    if len(strides) != 4 or strides[1] != strides[2]:
        raise GraphError(f"got the layer {node.name!r} with the strides {strides}; expected one in rows and columns")
    return int(strides[1])
