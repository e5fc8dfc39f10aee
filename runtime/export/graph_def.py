"""Runs a SavedModel of frozen constants with NumPy, as an independent check of the exported file.

It shares no code with the writer. TensorFlow itself, which the image does not carry, reads the same files in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, 10: np.bool_}


def run_saved_model(path: Path, signature: str, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Computes the outputs of a signature.

    Args:
        path: `saved_model.pb`.
        signature: Name of the signature.
        feeds: A value for each of its inputs.
    """
    meta = _read(path.read_bytes())
    chosen = meta.signature_def[signature]
    assert set(feeds) == set(chosen.inputs), (sorted(feeds), sorted(chosen.inputs))
    tensors: dict[str, NDArray[Any]] = {_node(chosen.inputs[name].name): value for name, value in feeds.items()}
    for node in meta.graph_def.node:
        if node.op == "Const":
            tensors[node.name] = _constant(node.attr["value"].tensor)
        elif node.op != "Placeholder":
            with np.errstate(over="ignore"):  # exp of a large negative number is 0 in every framework
                tensors[node.name] = _OPERATIONS[node.op]([tensors[_node(name)] for name in node.input], node.attr)
    return {name: tensors[_node(info.name)] for name, info in chosen.outputs.items()}


def _read(data: bytes) -> MetaGraphDef:
    """The one meta graph: the message's second field, after the schema version."""
    assert data[:3] == b"\x08\x01\x12"
    position, size, shift = 3, 0, 0
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


def _constant(tensor: Any) -> NDArray[Any]:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    return np.frombuffer(tensor.tensor_content, _DTYPES[tensor.dtype]).reshape(shape)


def _reduce(function: Callable[..., Any]) -> Callable[[list[Any], Any], Any]:
    return lambda x, attr: function(x[0], axis=tuple(x[1].tolist()), keepdims=attr["keep_dims"].b)


def _slice(x: list[Any], _: Any) -> Any:
    begin, size = x[1].tolist(), x[2].tolist()
    return x[0][tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))]


def _convolve(x: list[Any], attr: Any) -> Any:
    assert attr["padding"].s == b"VALID"
    image, kernel = x
    _, down, across, _ = attr["strides"].list.i
    windows = sliding_window_view(image, kernel.shape[:2], axis=(1, 2))[:, ::down, ::across]
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel, optimize=True)


def _sigmoid(x: Any) -> Any:
    return (0.5 * (np.tanh(0.5 * x) + 1)).astype(x.dtype)


_OPERATIONS: dict[str, Callable[[list[Any], Any], Any]] = {
    "MatMul": lambda x, _: x[0] @ x[1],
    "Add": lambda x, _: x[0] + x[1],
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


def zeros_for(path: Path, signature: str) -> dict[str, NDArray[Any]]:
    """A zero of the right dtype for each input of a signature, as a client sends for inputs that are not read."""
    inputs = _read(path.read_bytes()).signature_def[signature].inputs
    return {name: np.zeros((), _DTYPES[info.dtype]) for name, info in inputs.items()}
