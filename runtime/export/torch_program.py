"""Writes a graph as a torch.export program (.pt2), which `torch.export.load` reads without this package."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.artifacts.exports import ACTION_MASK, OBSERVATIONS
from runtime.export.graph import Graph

_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "matmul": torch.matmul,
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "clip": torch.clamp,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "greater": torch.gt,
    "argmax": lambda x: torch.argmax(x, -1),
    "cast": lambda x, dtype: x.to(torch.from_numpy(np.empty(0, dtype)).dtype),
    "reshape": lambda x, shape: x.reshape(shape),
    "concat": lambda *x: torch.cat(x, -1),
    "columns": lambda x, start, count: x[:, start : start + count],
    "sum": lambda x: x.sum(-1),
    "mean": lambda x: x.mean(-1, keepdim=True),
    "max": lambda x: x.amax(-1, keepdim=True),
    "pad": lambda x, top, bottom, left, right: functional.pad(x, (0, 0, left, right, top, bottom)),
    "convolve": lambda x, kernel, strides: functional.conv2d(
        x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), stride=strides
    ).permute(0, 2, 3, 1),
}


class _Program(nn.Module):
    """Runs a graph's operations one by one; torch.export records them."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        for name, value in graph.constants.items():
            self.register_buffer(name, torch.from_numpy(value.copy()))

    def forward(self, observations: Tensor, action_mask: Tensor | None = None) -> dict[str, Tensor]:
        """Every output by name, for observations (B, …) and, where the graph takes them, masks (B, M)."""
        tensors = {OBSERVATIONS: observations, **dict(self.named_buffers())}
        if action_mask is not None:
            tensors[ACTION_MASK] = action_mask
        for operation in self.graph.operations:
            inputs = [tensors[name] for name in operation.inputs]
            tensors[operation.output] = _OPERATIONS[operation.kind](*inputs, **operation.attributes)
        return {name: tensors[tensor] for name, tensor in self.graph.outputs.items()}


def write_torch(graph: Graph) -> bytes:
    """Returns the bytes of a .pt2 file; its module takes the graph's inputs and returns a dict of every output."""
    examples = {
        name: torch.zeros(2, *(size for size in tensor.shape if size is not None))
        for name, tensor in graph.inputs.items()
    }
    batch: Any = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in examples}
    program = torch.export.export(_Program(graph).eval(), tuple(examples.values()), dynamic_shapes=shapes)
    written = io.BytesIO()
    torch.export.save(program, written)
    return written.getvalue()
