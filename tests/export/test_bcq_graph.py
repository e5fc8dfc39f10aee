"""BCQ's policy, trained by d3rlpy, exported, and served the way the batch notebook's transform job asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from runtime.artifacts.exports import PROBABILITIES
from runtime.export.bcq_graph import build_bcq_graph
from runtime.export.exporter import Subject, describe_signatures, export
from runtime.export.parity import make_observations
from runtime.files import write_json
from runtime.policies.filter import ObservationFilter
from runtime.serving.decoding import lines_call
from runtime.serving.encoding import prediction_lines
from runtime.serving.served_policy import load_policy
from tests.conftest import run_peer

SPACE = spaces.Box(np.array([-4.8, -9.0, -0.42, -9.0], np.float32), np.array([4.8, 9.0, 0.42, 9.0], np.float32))


@pytest.fixture(scope="module")
def trained() -> Any:
    """d3rlpy's own DiscreteBCQ after a few updates on random transitions, layers and all that it offers."""
    import d3rlpy

    d3rlpy.seed(3)
    rng = np.random.default_rng(3)
    episodes = d3rlpy.dataset.MDPDataset(
        observations=rng.normal(size=(400, 4)).astype(np.float32),
        actions=rng.integers(2, size=(400, 1)),
        rewards=rng.normal(size=(400, 1)).astype(np.float32),
        terminals=(np.arange(400) % 20 == 19).astype(np.float32),
        action_space=d3rlpy.ActionSpace.DISCRETE,
    )
    encoder = d3rlpy.models.VectorEncoderFactory([32, 32], use_batch_norm=True, use_layer_norm=True, dropout_rate=0.1)
    algorithm = d3rlpy.algos.DiscreteBCQConfig(
        n_critics=2, encoder_factory=encoder, action_flexibility=0.6, learning_rate=1e-3
    ).create()
    algorithm.fit(
        episodes,
        n_steps=50,
        n_steps_per_epoch=50,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
        save_interval=10,
    )
    return algorithm


def layers(module: Any) -> nn.Module:
    return nn.Sequential(module._encoder._layers, module._fc)


def make_subject(algorithm: Any) -> Subject:
    modules = algorithm.impl.modules
    graph = build_bcq_graph(
        [layers(q) for q in modules.q_funcs],
        layers(modules.imitator),
        action_flexibility=algorithm.config.action_flexibility,
        observation_shape=(4,),
        num_actions=2,
    )
    rows = make_observations(SPACE, None)
    chosen = np.eye(2, dtype=np.float32)[algorithm.predict(rows)]
    return Subject(graph, rows, {PROBABILITIES: chosen}, {PROBABILITIES: chosen}, np.ones(len(rows)), None)


def test_bcq_is_exported_with_one_input_and_one_output(trained: Any, tmp_path: Path) -> None:
    subject = make_subject(trained)
    assert set(subject.trained[PROBABILITIES].argmax(axis=1)) == {0, 1}  # else there is little to compare
    for entry in export(subject, tmp_path):
        assert entry["parity"]["largest_difference"] == {PROBABILITIES: 0.0}
        assert list(entry["inputs"]) == ["observations"]
        assert entry["outputs"] == {PROBABILITIES: {"dtype": "float32", "shape": [-1, 2]}}
    np.savez(tmp_path / "1" / "in.npz", observations=subject.observations)
    run_peer("run_saved_models.py", tmp_path / "1")
    with np.load(tmp_path / "1" / "out.npz") as found:
        np.testing.assert_array_equal(found[PROBABILITIES], subject.trained[PROBABILITIES])


def test_the_batch_notebooks_lines_are_answered_with_probabilities(trained: Any, tmp_path: Path) -> None:
    """`line["SageMakerOutput"]["predictions"][0]` is a probability for each action; see the batch RL notebook."""
    subject = make_subject(trained)
    entries = export(subject, tmp_path)
    write_json(tmp_path / "manifest.json", {"exports": entries, "signatures": describe_signatures(subject.graph)})
    policy = load_policy(tmp_path)
    rows = subject.observations[:7]
    call = lines_call([json.dumps(row).encode() for row in rows.tolist()], policy)
    answers = [
        json.loads(line)["predictions"][0] for line in prediction_lines(policy.run(call.observations, call.outputs))
    ]
    np.testing.assert_array_equal(answers, subject.trained[PROBABILITIES][:7])


def test_actions_that_the_data_lacks_are_not_chosen_and_equals_share() -> None:
    """Q prefers action 2, which the data's policy takes in a hundredth of the cases; 0 and 1 have equal values."""

    def constant(*numbers: float) -> nn.Module:
        layer = nn.Linear(1, len(numbers))
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(numbers))
        return layer

    def probabilities(q: nn.Module, flexibility: float) -> Any:
        import onnxruntime

        from runtime.export.onnx_file import write_onnx

        imitator = constant(*np.log([0.59, 0.4, 0.01]))
        graph = build_bcq_graph(
            [q],
            imitator,
            action_flexibility=flexibility,
            observation_shape=(1,),
            num_actions=3,
            observation_filter=ObservationFilter(np.zeros(1), np.ones(1), 10.0),
        )
        session = onnxruntime.InferenceSession(write_onnx(graph))
        return session.run(None, {"observations": np.zeros((1, 1), np.float32)})[0][0].tolist()

    assert probabilities(constant(1, 2, 9), 0.3) == [0, 1, 0]
    assert probabilities(constant(1, 2, 9), 0.9) == [1, 0, 0]
    assert probabilities(constant(1, 2, 9), 0.0) == [0, 0, 1]
    assert probabilities(constant(2, 2, 1), 0.3) == [0.5, 0.5, 0]
