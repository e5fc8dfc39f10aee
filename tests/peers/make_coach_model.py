"""Writes a car's model as Coach and TensorFlow freeze it, with the outputs that TensorFlow computes for pictures.

Arguments: folders with `in.npz`: `pictures` (B, 120, 160, 1) and `actions`, their number. Each gets `model.pb` and
`out.npy`. The network is DEEP_CONVOLUTIONAL_NETWORK, whose embedder ends in a dense layer that acts on each pixel.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

tf.compat.v1.disable_eager_execution()
v1 = tf.compat.v1
X = "main_level/agent/main/online"
SENSOR = "FRONT_FACING_CAMERA"


def variable(name: str, *shape: int) -> tf.Tensor:
    spread = 1.5 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.1
    return v1.get_variable(name, shape, initializer=v1.random_normal_initializer(stddev=spread, seed=len(name)))


def relu(x: tf.Tensor, number: int) -> tf.Tensor:
    return tf.nn.relu(x, name=f"BatchnormActivationDropout_{number}_activation")


def dense(x: tf.Tensor, name: str, units: int) -> tf.Tensor:
    """What TensorFlow's dense layers do: a product with a matrix, over the last axis of pictures by tensordot."""
    with v1.variable_scope(name):
        kernel = variable("kernel", int(x.shape[-1]), units)
        product = tf.matmul(x, kernel) if len(x.shape) == 2 else tf.tensordot(x, kernel, [[3], [0]])
        return tf.nn.bias_add(product, variable("bias", units))


def build(actions: int) -> None:
    with v1.variable_scope(f"{X}/network_0/{SENSOR}"):
        x = v1.placeholder(tf.float32, [None, 120, 160, 1], name=SENSOR)
    with v1.variable_scope(f"{X}/network_1"):
        with v1.variable_scope(SENSOR):
            x = tf.subtract(tf.divide(x, 255.0, name="truediv"), 0.0)
            for number, (filters, size, stride) in enumerate([(32, 5, 2), (32, 3, 1), (64, 3, 2), (64, 3, 1)]):
                with v1.variable_scope(f"Conv2d_{2 * number}"):
                    kernel = variable("kernel", size, size, int(x.shape[-1]), filters)
                    x = tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "VALID"), variable("bias", filters))
                x = relu(x, 2 * number + 1)
            x = relu(dense(x, "Dense_8", 64), 9)
            x = tf.reshape(x, [tf.shape(x)[0], int(np.prod(x.shape[1:]))])
        with v1.variable_scope("middleware_fc_embedder"):
            x = relu(dense(x, "Dense_0", 512), 1)
        rescaler = variable("gradients_from_head_0-0_rescalers")
        x = (1 - rescaler) * tf.stop_gradient(x) + rescaler * x
        with v1.variable_scope("ppo_head_0"):
            tf.nn.softmax(dense(x, "policy_fc", actions), name="policy")


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        given = np.load(folder / "in.npz")
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            build(int(given["actions"]))
            session.run(v1.global_variables_initializer())
            output = f"{X}/network_1/ppo_head_0/policy"
            feeds = {f"{X}/network_0/{SENSOR}/{SENSOR}:0": given["pictures"].astype(np.float32)}
            np.save(folder / "out.npy", session.run(f"{output}:0", feeds))
            frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [output])
            (folder / "model.pb").write_bytes(frozen.SerializeToString())


main()
