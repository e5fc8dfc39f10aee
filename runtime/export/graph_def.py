"""Runs TensorFlow's frozen graphs with NumPy, as an independent check of the exported files.

It shares no code with the writers. TensorFlow itself, which the image does not carry, reads the files in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, 10: np.bool_}
_LISTS = {1: "float_val", 2: "double_val", 3: "int_val", 9: "int64_val", 10: "bool_val"}


class FrozenGraph:
    """A graph of constants and operations.

    Args:
        nodes: The nodes of a GraphDef.
    """

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._constants = {
            name: read_constant(node.attr["value"].tensor) for name, node in self._nodes.items() if node.op == "Const"
        }

    def run(self, outputs: Iterable[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Computes nodes, and of the graph no more than they depend on.

        Args:
            outputs: Names of the nodes.
            feeds: A value for each placeholder that they depend on.
        """
        tensors = self._constants | dict(feeds)
        with np.errstate(over="ignore"):  # exp of a large negative number is 0 in every framework
            for output in outputs:
                self._compute(output, tensors)
        return [tensors[output] for output in outputs]

    def _compute(self, name: str, tensors: dict[str, NDArray[Any]]) -> None:
        """Adds a node's tensor, and first those that it is computed from."""
        if name in tensors:
            return
        node = self._nodes[name]
        inputs = [_node(tensor) for tensor in node.input]
        for tensor in inputs:
            self._compute(tensor, tensors)
        tensors[name] = OPERATIONS[node.op]([tensors[tensor] for tensor in inputs], node.attr)


class SavedModelReader:
    """A SavedModel that was read once, and computes the outputs of its signatures.

    Args:
        path: `saved_model.pb`.
    """

    def __init__(self, path: Path) -> None:
        meta = _read(path.read_bytes())
        self._signatures = meta.signature_def
        self._graph = FrozenGraph(meta.graph_def.node)

    def zeros(self, signature: str) -> dict[str, NDArray[Any]]:
        """A zero of the right dtype for each input of a signature, as a client sends for inputs that are not read."""
        inputs = self._signatures[signature].inputs
        return {name: np.zeros((), _DTYPES[info.dtype]) for name, info in inputs.items()}

    def run(self, signature: str, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes the outputs of a signature.

        Args:
            signature: Its name.
            feeds: A value for each of its inputs.
        """
        chosen = self._signatures[signature]
        assert set(feeds) == set(chosen.inputs), (sorted(feeds), sorted(chosen.inputs))
        outputs = {name: _node(info.name) for name, info in chosen.outputs.items()}
        fed = {_node(chosen.inputs[name].name): value for name, value in feeds.items()}
        return dict(zip(outputs, self._graph.run(list(outputs.values()), fed), strict=True))


def _read(data: bytes) -> MetaGraphDef:
    """Reads the only meta graph: the message's second field, after the schema version."""
    assert data[:3] == b"\x08\x01\x12"
    position = 3
    size = 0
    shift = 0
    while True:
        byte = data[position]
        size |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    assert position + size == len(data)
    return MetaGraphDef.FromString(data[position:])


def _node(tensor: str) -> str:
    return tensor.partition(":")[0]


def read_constant(tensor: Any) -> NDArray[Any]:
    """Returns a constant's value: from its bytes, or from a list of numbers of which the last is repeated.

    Raises:
        ValueError: Its type is not known here, or its values do not fit its shape.
    """
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"a constant of TensorFlow's type {tensor.dtype}")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    dtype = _DTYPES[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values: NDArray[Any] = np.array(getattr(tensor, _LISTS[tensor.dtype]), dtype)
    if not len(values) or len(values) > math.prod(shape):
        return np.zeros(shape, dtype) if not len(values) else values.reshape(shape)
    return np.append(values, np.full(math.prod(shape) - len(values), values[-1], dtype)).reshape(shape)


def _reduce(function: Callable[..., Any]) -> Callable[[list[Any], Any], Any]:
    return lambda x, attr: function(x[0], axis=tuple(x[1].tolist()), keepdims=attr["keep_dims"].b)


def _slice(x: list[Any], _: Any) -> Any:
    begin, size = x[1].tolist(), x[2].tolist()
    return x[0][tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))]


def _strided_slice(x: list[Any], attr: Any) -> Any:
    """A slice of a vector, as a batch's size is taken from a shape."""
    begin, end, step = (one.tolist() for one in x[1:4])
    assert len(begin) == 1
    first = None if attr["begin_mask"].i & 1 else begin[0]
    last = None if attr["end_mask"].i & 1 else end[0]
    return x[0][begin[0]] if attr["shrink_axis_mask"].i & 1 else x[0][first : last : step[0]]


def _convolve(x: list[Any], attr: Any) -> Any:
    assert attr["padding"].s == b"VALID"
    image, kernel = x
    _, down, across, _ = attr["strides"].list.i
    windows = sliding_window_view(image, kernel.shape[:2], axis=(1, 2))[:, ::down, ::across]
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)
    return rows @ kernel.reshape(-1, kernel.shape[3])


def _softmax(x: Any) -> Any:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _sigmoid(x: Any) -> Any:
    return (0.5 * (np.tanh(0.5 * x) + 1)).astype(x.dtype)


OPERATIONS: dict[str, Callable[[list[Any], Any], Any]] = {
    "MatMul": lambda x, _: x[0] @ x[1],
    "Identity": lambda x, _: x[0],
    "Softmax": lambda x, _: _softmax(x[0]),
    "BiasAdd": lambda x, _: x[0] + x[1],
    "Add": lambda x, _: x[0] + x[1],
    "AddV2": lambda x, _: x[0] + x[1],
    "StopGradient": lambda x, _: x[0],
    "Shape": lambda x, _: np.array(x[0].shape, np.int32),
    "StridedSlice": _strided_slice,
    "Pack": lambda x, attr: np.stack(x, axis=attr["axis"].i),
    "Transpose": lambda x, _: x[0].transpose(x[1].tolist()),
    "Prod": lambda x, attr: np.prod(x[0], axis=tuple(np.atleast_1d(x[1]).tolist()), keepdims=attr["keep_dims"].b),
    "GatherV2": lambda x, _: np.take(x[0], x[1], axis=int(x[2])),
    "Sub": lambda x, _: x[0] - x[1],
    "Mul": lambda x, _: x[0] * x[1],
    "RealDiv": lambda x, _: x[0] / x[1],
    "Minimum": lambda x, _: np.minimum(*x),
    "Maximum": lambda x, _: np.maximum(*x),
    "ClipByValue": lambda x, _: np.clip(x[0], x[1], x[2]),
    "Greater": lambda x, _: x[0] > x[1],
    "Tanh": lambda x, _: np.tanh(x[0]),
    "Relu": lambda x, _: np.maximum(x[0], 0),
    "Sigmoid": lambda x, _: _sigmoid(x[0]),
    "Exp": lambda x, _: np.exp(x[0]),
    "Log": lambda x, _: np.log(x[0]),
    "Sqrt": lambda x, _: np.sqrt(x[0]),
    "Sum": _reduce(np.sum),
    "Mean": _reduce(np.mean),
    "Max": _reduce(np.max),
    "ArgMax": lambda x, attr: np.argmax(x[0], axis=int(x[1])).astype(_DTYPES[attr["output_type"].type]),
    "Cast": lambda x, attr: x[0].astype(_DTYPES[attr["DstT"].type]),
    "Reshape": lambda x, _: x[0].reshape(x[1].tolist()),
    "ConcatV2": lambda x, _: np.concatenate(x[:-1], axis=int(x[-1])),
    "Slice": _slice,
    "Pad": lambda x, _: np.pad(x[0], x[1].tolist()),
    "Conv2D": _convolve,
}
