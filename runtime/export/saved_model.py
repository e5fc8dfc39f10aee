"""Writes a graph as a TensorFlow SavedModel without TensorFlow: frozen constants, operations that TF 2.1 has.

TF Serving 2.1.0, which the notebooks deploy to, refuses what today's TensorFlow saves: its operations carry attributes
that 2.1 does not know. Constants and the operations below load in both.

Source: tensorflow/core/protobuf/saved_model.proto and meta_graph.proto; op definitions of TF 2.1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

from runtime.artifacts.exports import ALIASES, DEFAULT_SIGNATURE, OBSERVATIONS_ONLY
from runtime.export.graph import Graph, Operation, Tensor

_TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10}
PRODUCER = 134  # a GraphDef version older than TF 2.1.0, whose own is 175: every reader since accepts it
_METHOD = "tensorflow/serving/predict"

# Inputs that RLlib 0.8.2 had and clients still send: TF Serving refuses a request that lacks one. No value of theirs
# reaches the policy. None: any shape.
OLD_INPUTS = {
    "prev_action": Tensor(np.dtype(np.float32), ()),
    "is_training": Tensor(np.dtype(np.bool_), ()),
    "prev_reward": Tensor(np.dtype(np.float32), ()),
    "seq_lens": Tensor(np.dtype(np.int32), ()),
}


@dataclass(frozen=True)
class _Form:
    """TensorFlow's form of an operation: op name, constants after the inputs, attributes, dtype of the result."""

    op: str
    constants: tuple[Any, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    result: str | None = None


_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
_SIMPLE = {
    "matmul": "MatMul",
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "RealDiv",
    "minimum": "Minimum",
    "maximum": "Maximum",
    "clip": "ClipByValue",
    "tanh": "Tanh",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
}
_KEPT = {"keep_dims": True, "Tidx": _INT32}
_FORMS: dict[str, Callable[[dict[str, Any]], _Form]] = {
    "greater": lambda _: _Form("Greater", result="bool"),
    "sum": lambda _: _Form("Sum", ([-1],), {"keep_dims": False, "Tidx": _INT32}),
    "mean": lambda _: _Form("Mean", ([-1],), _KEPT),
    "max": lambda _: _Form("Max", ([-1],), _KEPT),
    "argmax": lambda _: _Form("ArgMax", (-1,), {"Tidx": _INT32, "output_type": _INT64}, "int64"),
    "cast": lambda a: _Form("Cast", (), {"DstT": np.dtype(a["dtype"])}, np.dtype(a["dtype"]).name),
    "reshape": lambda a: _Form("Reshape", (a["shape"],), {"Tshape": _INT32}),
    "concat": lambda _: _Form("ConcatV2", (-1,), {"Tidx": _INT32}),
    "columns": lambda a: _Form("Slice", ([0, a["start"]], [-1, a["count"]]), {"Index": _INT32}),
    "pad": lambda a: _Form(
        "Pad", ([[0, 0], [a["top"], a["bottom"]], [a["left"], a["right"]], [0, 0]],), {"Tpaddings": _INT32}
    ),
    "convolve": lambda a: _Form("Conv2D", (), {"strides": [1, *a["strides"], 1], "padding": b"VALID"}),
} | {kind: (lambda _, op=op: _Form(op)) for kind, op in _SIMPLE.items()}


def write_saved_model(graph: Graph) -> bytes:
    """Returns the bytes of `saved_model.pb`.

    `serving_default` takes the observations and, for a PPO policy, what RLlib 0.8.2 took beside them; it returns every
    output, `actions` under the later name `actions_0` too. `observations_only` returns
    the main output alone.
    """
    meta = MetaGraphDef()
    meta.meta_info_def.tags.append("serve")
    meta.meta_info_def.tensorflow_version = "2.1.0"
    meta.graph_def.CopyFrom(_graph_def(graph))
    for name, (inputs, outputs) in signatures(graph).items():
        tensors = {output: _tensor_name(graph, output) for output in outputs}
        meta.signature_def[name].CopyFrom(_signature(inputs, outputs, tensors))
    body: bytes = meta.SerializeToString()
    return b"\x08\x01\x12" + _varint(len(body)) + body  # SavedModel: schema version 1, one meta graph


def signatures(graph: Graph) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Inputs and outputs of each signature, by name.

    A graph with one output, as of a BCQ policy, has one input: what reads it takes the bare list. The action mask is an
    input of both.
    """
    observations = dict(graph.inputs)
    outputs = dict(graph.output_types)
    main = {graph.main_output: outputs[graph.main_output]}
    if len(outputs) == 1:
        return {DEFAULT_SIGNATURE: (observations, main), OBSERVATIONS_ONLY: (observations, main)}
    inputs = observations | OLD_INPUTS
    if outputs["actions"].dtype == np.int64:
        inputs["prev_action"] = Tensor(np.dtype(np.int64), ())
    outputs |= {alias: outputs[name] for alias, name in ALIASES.items()}
    return {DEFAULT_SIGNATURE: (inputs, outputs), OBSERVATIONS_ONLY: (observations, main)}


def _tensor_name(graph: Graph, output: str) -> str:
    return graph.outputs[ALIASES.get(output, output)]


def _signature(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], tensors: Mapping[str, str]) -> SignatureDef:
    signature = SignatureDef(method_name=_METHOD)
    for name, tensor in inputs.items():
        _describe(signature.inputs[name], f"{name}:0", tensor)
    for name, tensor in outputs.items():
        _describe(signature.outputs[name], f"{tensors[name]}:0", tensor)
    return signature


def _describe(info: Any, name: str, tensor: Tensor) -> None:
    info.name = name
    info.dtype = _TYPES[tensor.dtype.name]
    info.tensor_shape.CopyFrom(_shape(tensor.shape))


def _shape(shape: Iterable[int | None]) -> TensorShapeProto:
    sizes = [-1 if size is None else int(size) for size in shape]
    if not sizes:  # of an input that nothing reads
        return TensorShapeProto(unknown_rank=True)
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _graph_def(graph: Graph) -> GraphDef:
    nodes = GraphDef()
    nodes.versions.producer = PRODUCER
    for name, tensor in signatures(graph)[DEFAULT_SIGNATURE][0].items():
        node = nodes.node.add(name=name, op="Placeholder")
        node.attr["dtype"].type = _TYPES[tensor.dtype.name]
        node.attr["shape"].shape.CopyFrom(_shape(tensor.shape))
    dtypes = {name: tensor.dtype.name for name, tensor in graph.inputs.items()}
    for name, value in graph.constants.items():
        add_constant(nodes, name, value)
        dtypes[name] = value.dtype.name
    for operation in graph.operations:
        dtypes[operation.output] = _add_operation(nodes, operation, dtypes[operation.inputs[0]])
    return nodes


def add_constant(nodes: GraphDef, name: str, value: NDArray[Any]) -> str:
    """Adds a constant to a graph; returns its name."""
    node = nodes.node.add(name=name, op="Const")
    number = _TYPES[value.dtype.name]
    node.attr["dtype"].type = number
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in value.shape])
    node.attr["value"].tensor.CopyFrom(TensorProto(dtype=number, tensor_shape=shape, tensor_content=value.tobytes()))
    return name


def _add_operation(nodes: GraphDef, operation: Operation, dtype: str) -> str:
    """Adds one operation, its axes and shapes as constants before it; returns the dtype of its result."""
    form = _FORMS[operation.kind](operation.attributes)
    inputs = list(operation.inputs)
    for value in form.constants:
        inputs.append(add_constant(nodes, f"{operation.output}/{len(inputs)}", np.asarray(value, np.int32)))
    node = nodes.node.add(name=operation.output, op=form.op, input=inputs)
    node.attr["SrcT" if form.op == "Cast" else "T"].type = _TYPES[dtype]
    if form.op == "ConcatV2":
        node.attr["N"].i = len(operation.inputs)
    for name, value in form.attributes.items():
        _set_attribute(node.attr[name], value)
    return form.result or dtype


def _set_attribute(attribute: Any, value: Any) -> None:
    if isinstance(value, np.dtype):
        attribute.type = _TYPES[value.name]
    elif isinstance(value, bool):
        attribute.b = value
    elif isinstance(value, bytes):
        attribute.s = value
    else:
        attribute.list.i.extend(value)


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])
