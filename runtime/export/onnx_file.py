"""Writes a graph as an ONNX model of opset 17, which runtimes of 2022 and later read.

Source: the ONNX operator specification; the model is checked by onnx's own checker, shapes included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from runtime.export.graph import Graph, Operation, Tensor

_OPSET = 17
_IR_VERSION = 8

_SIMPLE = {
    "matmul": "MatMul",
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "minimum": "Min",
    "maximum": "Max",
    "clip": "Clip",
    "tanh": "Tanh",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "greater": "Greater",
}


def write_onnx(graph: Graph) -> bytes:
    """Returns the bytes of an ONNX model that takes the graph's inputs and returns every output."""
    nodes: list[Any] = []
    constants = [numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    for operation in graph.operations:
        nodes.extend(_nodes(operation, constants))
    renamed = {tensor: name for name, tensor in graph.outputs.items()}
    for node in nodes:  # a tensor that is an output carries the output's name
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    body = helper.make_graph(
        nodes,
        "policy",
        [_describe(name, tensor) for name, tensor in graph.inputs.items()],
        [_describe(name, tensor) for name, tensor in graph.output_types.items()],
        constants,
    )
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="smrl"
    )
    onnx.checker.check_model(model, full_check=True)
    written: bytes = model.SerializeToString()
    return written


def _describe(name: str, tensor: Tensor) -> Any:
    shape = ["batch" if size is None else int(size) for size in tensor.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), shape)


def _nodes(operation: Operation, constants: list[Any]) -> list[Any]:
    """Returns the ONNX nodes of one operation; axes and shapes join the constants."""

    def constant(value: Any) -> str:
        name = f"{operation.output}_argument_{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(value, np.int64), name))
        return name

    inputs = list(operation.inputs)
    output = operation.output
    if operation.kind in _SIMPLE:
        return [helper.make_node(_SIMPLE[operation.kind], inputs, [output])]
    return _FORMS[operation.kind](inputs, output, operation.attributes, constant)


_Constant = Callable[[Any], str]
_Form = Callable[[list[str], str, dict[str, Any], _Constant], list[Any]]


def _argmax(x: list[str], out: str, _: dict[str, Any], __: _Constant) -> list[Any]:
    return [helper.make_node("ArgMax", x, [out], axis=-1, keepdims=0)]


def _cast(x: list[str], out: str, a: dict[str, Any], _: _Constant) -> list[Any]:
    return [helper.make_node("Cast", x, [out], to=helper.np_dtype_to_tensor_dtype(np.dtype(a["dtype"])))]


def _reshape(x: list[str], out: str, a: dict[str, Any], constant: _Constant) -> list[Any]:
    return [helper.make_node("Reshape", [*x, constant(a["shape"])], [out])]


def _columns(x: list[str], out: str, a: dict[str, Any], constant: _Constant) -> list[Any]:
    ends = constant([a["start"]]), constant([a["start"] + a["count"]])
    return [helper.make_node("Slice", [*x, *ends, constant([-1])], [out])]


def _pad(x: list[str], out: str, a: dict[str, Any], constant: _Constant) -> list[Any]:
    return [helper.make_node("Pad", [*x, constant([0, a["top"], a["left"], 0, 0, a["bottom"], a["right"], 0])], [out])]


def _convolve(x: list[str], out: str, a: dict[str, Any], _: _Constant) -> list[Any]:
    """Adds a convolution of (B, C, H, W) with (D, C, H, W); runtimes fold the kernel's transposition at load."""
    image, kernel, done = f"{out}_image", f"{out}_kernel", f"{out}_done"
    return [
        helper.make_node("Transpose", [x[0]], [image], perm=[0, 3, 1, 2]),
        helper.make_node("Transpose", [x[1]], [kernel], perm=[3, 2, 0, 1]),
        helper.make_node("Conv", [image, kernel], [done], strides=list(a["strides"])),
        helper.make_node("Transpose", [done], [out], perm=[0, 2, 3, 1]),
    ]


_FORMS: dict[str, _Form] = {
    "argmax": _argmax,
    "cast": _cast,
    "reshape": _reshape,
    "concat": lambda x, out, _, __: [helper.make_node("Concat", x, [out], axis=-1)],
    "columns": _columns,
    "sum": lambda x, out, _, constant: [helper.make_node("ReduceSum", [*x, constant([-1])], [out], keepdims=0)],
    "mean": lambda x, out, _, __: [helper.make_node("ReduceMean", x, [out], axes=[-1], keepdims=1)],
    "max": lambda x, out, _, __: [helper.make_node("ReduceMax", x, [out], axes=[-1], keepdims=1)],
    "pad": _pad,
    "convolve": _convolve,
}
