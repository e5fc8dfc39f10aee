"""Runs cars' models as cars do: reads FOLDER/model.pb and FOLDER/in.npz (pictures, scans), writes FOLDER/out.npz.

By TensorFlow, by TensorFlow Lite's converter and interpreter, and by OpenVINO's converter and runtime; a row at a time.
"""

import sys
from pathlib import Path

import numpy as np
import openvino
import tensorflow as tf

OUTPUTS = (
    "main_level/agent/main/online/network_1/ppo_head_0/policy",
    "main_level/agent/policy/online/network_0/sac_policy_head_0/policy",
)

for folder in map(Path, sys.argv[1:]):
    path = folder / "model.pb"
    described = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    read = {tensor.partition(":")[0] for node in described.node for tensor in node.input}
    (sink,) = (node.name for node in described.node if node.name not in read)
    assert sink in OUTPUTS, sink
    with np.load(folder / "in.npz") as arrays:
        rows = {name.replace("|", "/"): array for name, array in arrays.items()}
    count = len(next(iter(rows.values())))
    assert {node.name for node in described.node if node.op == "Placeholder"} == set(rows)

    with tf.Graph().as_default():
        tf.import_graph_def(described, name="")
        with tf.compat.v1.Session() as session:
            feeds = [{f"{name}:0": array[row : row + 1] for name, array in rows.items()} for row in range(count)]
            by_tensorflow = [session.run(f"{sink}:0", feed) for feed in feeds]

    shapes = {name: [1, *array.shape[1:]] for name, array in rows.items()}
    converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(str(path), list(rows), [sink], shapes)
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    inputs = {one["name"]: one["index"] for one in interpreter.get_input_details()}
    by_lite = []
    for row in range(count):
        for name, array in rows.items():
            interpreter.set_tensor(inputs[name], array[row : row + 1])
        interpreter.invoke()
        by_lite.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))

    converted = openvino.convert_model(str(path))
    assert all(not node.get_partial_shape().is_dynamic for node in converted.inputs)
    (names,) = (node.get_names() for node in converted.outputs)
    assert any(name.startswith(sink) for name in names), names
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    by_openvino = [
        compiled({f"{name}:0": array[row : row + 1] for name, array in rows.items()})[0] for row in range(count)
    ]
    found = {"tensorflow": by_tensorflow, "lite": by_lite, "openvino": by_openvino}
    np.savez(folder / "out.npz", **{name: np.concatenate(outputs) for name, outputs in found.items()})  # type: ignore[arg-type]
