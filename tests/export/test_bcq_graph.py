"""BCQ's policy, trained by d3rlpy, exported, and served the way the batch notebook's transform job asks for it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from runtime.artifacts.exports import PROBABILITIES
from runtime.export.bcq_graph import build_bcq_graph, build_network_graph
from runtime.export.exporter import Subject, describe_signatures, export
from runtime.export.parity import make_observations
from runtime.files import write_json
from runtime.policies.filter import ObservationFilter
from runtime.policies.network_policy import NetworkPolicy
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


def make_layers(seed: int, *sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    torch.manual_seed(seed)
    found: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        found += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*found[:-1])


def make_sampled_policy(q_network: nn.Sequential) -> NetworkPolicy:
    """BCQ's policy for two continuous actions, with wide proposals, so that some are clipped."""
    decoder = make_layers(0, 4 + 4, 32, 2)
    with torch.no_grad():
        decoder[-1].weight.mul_(8)  # type: ignore[operator]
    return NetworkPolicy(
        "sampled",
        {"q": [q_network], "decoder": [decoder], "residual": [make_layers(1, 4 + 2, 32, 2)]},
        ObservationFilter(np.zeros(4), np.ones(4), 10.0),
        low=np.array([-1, 2], np.float32),
        high=np.array([1, 7], np.float32),
    )


def test_bcq_for_continuous_actions_is_exported_in_every_format(tmp_path: Path) -> None:
    policy = make_sampled_policy(make_layers(2, 4 + 2, 32, 32, 1))
    subject = Subject.of_network_policy(policy, SPACE)
    assert subject.count > 100
    assert subject.trained["actions"].std(axis=0).min() > 0.1  # else there is little to compare
    for entry in export(subject, tmp_path):
        assert entry["parity"]["largest_difference"]["actions"] < 1e-5
        assert entry["outputs"] == {"actions": {"dtype": "float32", "shape": [-1, 2]}}
    np.savez(tmp_path / "1" / "in.npz", observations=subject.observations)
    run_peer("run_saved_models.py", tmp_path / "1")
    with np.load(tmp_path / "1" / "out.npz") as found:
        np.testing.assert_allclose(found["actions"], subject.trained["actions"], atol=1e-5)


def test_of_equally_valuable_proposals_the_first_is_taken() -> None:
    import onnxruntime

    from runtime.export.onnx_file import write_onnx

    last = nn.Linear(4 + 2, 1)
    with torch.no_grad():
        last.weight.zero_()
    indifferent = nn.Sequential(last)
    policy = make_sampled_policy(indifferent)
    rows = make_observations(SPACE, None)
    session = onnxruntime.InferenceSession(write_onnx(build_network_graph(policy)))
    (found,) = session.run(None, {"observations": rows})
    np.testing.assert_allclose(found, policy.actions(rows), atol=1e-4)
    margins = policy.margins(rows)
    assert set(margins.tolist()) == {0, np.inf}  # infinite where all proposals are clipped to the same action
