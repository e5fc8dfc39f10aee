"""Torch layers as graph operations. A new layer is one function in `_LAYERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.errors import UserError
from runtime.export.graph import Graph
from runtime.policies.pixels import ExactLinear, PixelScale


def add_layers(graph: Graph, layers: nn.Module, x: str, *, where: str) -> str:
    """Adds a layer, or layers one after the other, to the graph.

    Args:
        graph: The graph.
        layers: A layer or nn.Sequential.
        x: Input tensor; images are (B, H, W, C).
        where: Name of the module in the policy, for the error.

    Raises:
        UserError: A layer is not supported.
    """
    if isinstance(layers, nn.Sequential):
        for number, layer in enumerate(layers):  # not named_children(), which leaves out a layer's second use
            x = add_layers(graph, layer, x, where=f"{where}.{number}")
        return x
    add = _LAYERS.get(type(layers))
    if add is None:
        raise refuse(where, layers, "one of " + ", ".join(kind.__name__ for kind in _LAYERS))
    return add(graph, layers, x)


def refuse(where: str, module: nn.Module, expected: str) -> UserError:
    """Returns the error for a module that cannot be exported."""
    return UserError(
        f"export: got the module {type(module).__name__} at {where}; expected {expected}. Train with another network, "
        "or add the module to runtime/export/layers.py: one function from the module to graph operations."
    )


def add_linear(graph: Graph, x: str, weight: NDArray[Any], bias: NDArray[Any] | None) -> str:
    """`x @ weight.T + bias`, torch's own layout (out, in)."""
    x = graph.add("matmul", x, graph.constant(weight.T))
    return x if bias is None else graph.add("add", x, graph.constant(bias))


def add_layer_norm(graph: Graph, x: str, weight: NDArray[Any] | None, bias: NDArray[Any] | None, epsilon: float) -> str:
    """Layer norm over the last axis, scaled and shifted where there are a weight and a bias."""
    centered = graph.add("subtract", x, graph.add("mean", x))
    variance = graph.add("mean", graph.add("multiply", centered, centered))
    deviation = graph.add("sqrt", graph.add("add", variance, graph.constant(epsilon)))
    x = graph.add("divide", centered, deviation)
    if weight is not None:
        x = graph.add("multiply", x, graph.constant(weight))
    return x if bias is None else graph.add("add", x, graph.constant(bias))


def to_numpy(tensor: torch.Tensor | None) -> Any:
    """Converts a parameter to an array; None stays None."""
    return None if tensor is None else tensor.detach().cpu().numpy()


def _linear(graph: Graph, layer: Any, x: str) -> str:
    return add_linear(graph, x, to_numpy(layer.weight), to_numpy(layer.bias))


def _convolution(graph: Graph, layer: Any, x: str) -> str:
    plain = layer.groups == 1 and layer.dilation == (1, 1) and not isinstance(layer.padding, str)
    if not plain or layer.padding_mode != "zeros":
        raise refuse("a convolution", layer, "one without groups, dilation or named padding")
    rows, columns = layer.padding
    if rows or columns:
        x = graph.add("pad", x, top=rows, bottom=rows, left=columns, right=columns)
    kernel = to_numpy(layer.weight).transpose(2, 3, 1, 0)
    x = graph.add("convolve", x, graph.constant(kernel), strides=tuple(layer.stride))
    return x if layer.bias is None else graph.add("add", x, graph.constant(to_numpy(layer.bias)))


def _zero_padding(graph: Graph, layer: Any, x: str) -> str:
    left, right, top, bottom = layer.padding
    return graph.add("pad", x, top=top, bottom=bottom, left=left, right=right)


def _layer_norm(graph: Graph, layer: Any, x: str) -> str:
    if len(layer.normalized_shape) != 1:
        raise refuse("a layer norm", layer, "one over the last axis alone")
    return add_layer_norm(graph, x, to_numpy(layer.weight), to_numpy(layer.bias), layer.eps)


def _batch_norm(graph: Graph, layer: Any, x: str) -> str:
    """Batch norm in evaluation mode, with its running statistics."""
    if layer.running_mean is None:
        raise refuse("a batch norm", layer, "one that keeps running statistics")
    x = graph.add("subtract", x, graph.constant(to_numpy(layer.running_mean)))
    x = graph.add("divide", x, graph.constant(np.sqrt(to_numpy(layer.running_var) + layer.eps)))
    if layer.weight is None:
        return x
    x = graph.add("multiply", x, graph.constant(to_numpy(layer.weight)))
    return graph.add("add", x, graph.constant(to_numpy(layer.bias)))


def _silu(graph: Graph, _: Any, x: str) -> str:
    return graph.add("multiply", x, graph.add("sigmoid", x))


_LAYERS: dict[type[nn.Module], Callable[[Graph, Any, str], str]] = {
    nn.Linear: _linear,
    ExactLinear: _linear,
    nn.Conv2d: _convolution,
    nn.ZeroPad2d: _zero_padding,
    nn.LayerNorm: _layer_norm,
    nn.Tanh: lambda graph, _, x: graph.add("tanh", x),
    nn.ReLU: lambda graph, _, x: graph.add("relu", x),
    nn.SiLU: _silu,
    nn.Sigmoid: lambda graph, _, x: graph.add("sigmoid", x),
    nn.Identity: lambda graph, _, x: x,
    nn.Dropout: lambda graph, _, x: x,  # after training
    nn.BatchNorm1d: _batch_norm,
    PixelScale: lambda graph, layer, x: graph.add("multiply", x, graph.constant(layer.scale)),
}
