"""A policy as a framework-neutral graph: named constants and a list of operations, in the order they run.

The operations are those that TensorFlow 2.1, ONNX opset 17 and torch all have, so that each writer is a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.artifacts.exports import ACTION_MASK, OBSERVATIONS

# Operations and their attributes. Constants are inputs like any other tensor; axes and shapes are attributes.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "matmul": (),
    "add": (),
    "subtract": (),
    "multiply": (),
    "divide": (),
    "minimum": (),
    "maximum": (),
    "clip": (),  # of a tensor, to two scalars
    "tanh": (),
    "relu": (),
    "sigmoid": (),
    "exp": (),
    "log": (),
    "sqrt": (),
    "greater": (),
    "argmax": (),  # of the last axis, int64
    "cast": ("dtype",),
    "reshape": ("shape",),  # -1 stands for the batch
    "concat": (),  # along the last axis
    "columns": ("start", "count"),  # of the last axis of (B, N)
    "sum": (),  # of the last axis, which goes away
    "mean": (),  # of the last axis, which stays as 1
    "max": (),
    "pad": ("top", "bottom", "left", "right"),  # (B, H, W, C) with zeros
    "convolve": ("strides",),  # (B, H, W, C) with a kernel (H, W, C, D), without padding
}


@dataclass(frozen=True)
class Operation:
    """One step: `output = kind(*inputs, **attributes)`, tensors by name."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """Type of an input or output: dtype, and shape with None for the batch axis."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns the type as JSON for the manifest, where the batch axis is -1."""
        return {"dtype": str(self.dtype), "shape": [-1 if size is None else size for size in self.shape]}


class Graph:
    """A graph that is built one operation at a time; each method returns the name of its result.

    Args:
        observation_shape: (O,) or (H, W, C) shape of one observation; the input `observations` is a float32 batch of
            them.
        mask_size: M of the second input, `action_mask`, (B, M) float32; 0 for a graph without it.
    """

    def __init__(self, observation_shape: Sequence[int], *, mask_size: int = 0) -> None:
        self.inputs = {OBSERVATIONS: Tensor(np.dtype(np.float32), (None, *observation_shape))}
        if mask_size:
            self.inputs[ACTION_MASK] = Tensor(np.dtype(np.float32), (None, mask_size))
        self.constants: dict[str, NDArray[Any]] = {}
        self.operations: list[Operation] = []
        self.outputs: dict[str, str] = {}
        self.output_types: dict[str, Tensor] = {}

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Adds a constant tensor."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.array(value, dtype, order="C")  # a copy, as the policy may continue to train
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation on existing tensors."""
        assert tuple(sorted(attributes)) == tuple(sorted(OPERATIONS[kind])), (kind, attributes)
        output = f"{kind}_{len(self.operations)}"
        self.operations.append(Operation(kind, inputs, output, attributes))
        return output

    def name_output(self, name: str, tensor: str, dtype: Any, shape: Sequence[int] = ()) -> None:
        """Makes a tensor (B, *shape) an output."""
        self.outputs[name] = tensor
        self.output_types[name] = Tensor(np.dtype(dtype), (None, *shape))

    @property
    def main_output(self) -> str:
        """The output for clients that ask for one output: a PPO policy's actions, or the only output."""
        return "actions" if "actions" in self.outputs else next(iter(self.outputs))
