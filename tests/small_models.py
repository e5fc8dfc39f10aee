"""Writes model directories of linear policies, whose answers are known, without training or exporting anything."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runtime.artifacts.exports import ONNX
from runtime.export.bcq_graph import build_bcq_graph
from runtime.export.exporter import describe_signatures
from runtime.export.onnx_file import write_onnx
from runtime.files import write_json
from runtime.policies.filter import ObservationFilter


def write_linear_model(folder: Path, weights: Sequence[Sequence[float]], **facts: Any) -> Path:
    """Writes a policy that takes the action whose row of `weights` (A, O) has the largest product with the state.

    Args:
        folder: Model directory to create.
        weights: (A, O) weights; an action's value without a constant.
        facts: Further entries of the manifest.
    """
    actions, inputs = np.shape(weights)
    q_values, imitator = (nn.Linear(inputs, actions) for _ in range(2))
    with torch.no_grad():
        for layer in (q_values, imitator):
            layer.weight.zero_()
            layer.bias.zero_()
        q_values.weight.copy_(torch.tensor(weights))
    graph = build_bcq_graph(
        [q_values],
        imitator,
        action_flexibility=0.0,
        observation_shape=(inputs,),
        num_actions=actions,
        observation_filter=ObservationFilter(np.zeros(inputs), np.ones(inputs), 10.0),
    )
    content = write_onnx(graph)
    folder.mkdir(parents=True)
    (folder / ONNX).write_bytes(content)
    entry = {"format": "onnx", "file": ONNX, "sha256": hashlib.sha256(content).hexdigest()}
    write_json(
        folder / "manifest.json", {"exports": [entry], "signatures": describe_signatures(graph), "env": None, **facts}
    )
    return folder
