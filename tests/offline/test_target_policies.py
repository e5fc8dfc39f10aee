"""Policies from files of other programs act as those programs' own code does."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import UserError
from runtime.offline.data.transitions import TERMINAL, Transitions
from runtime.offline.target_policies import EvaluatedPolicy, check_spaces, load_target
from runtime.policies.filter import ObservationFilter
from runtime.policies.network_policy import FILE, NetworkPolicy

STATES = 5 * np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def write_onnx(
    path: Path, output: str, weights: NDArray[Any], *, bias: Any = None, input_name: str = "x", batch: Any = "B"
) -> Path:
    """Writes a linear layer, after which `argmax` takes the largest number's place; returns the path."""
    size = weights.shape[1]
    bias = np.zeros(size) if bias is None else np.asarray(bias)
    tensors = [numpy_helper.from_array(one.astype(np.float32), name) for one, name in ((weights, "w"), (bias, "b"))]
    nodes = [helper.make_node("MatMul", [input_name, "w"], ["m"]), helper.make_node("Add", ["m", "b"], [output])]
    kind, shape = TensorProto.FLOAT, [batch, size]
    if output == "argmax":
        nodes[1] = helper.make_node("Add", ["m", "b"], ["s"])
        nodes.append(helper.make_node("ArgMax", ["s"], [output], axis=1, keepdims=0))
        kind, shape = TensorProto.INT64, [batch]
    inputs = [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [batch, len(weights)])]
    outputs = [helper.make_tensor_value_info(output, kind, shape)]
    graph = helper.make_graph(nodes, "policy", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def probabilities(policy: Any, *, count: int = 2, temperature: float | None = None) -> NDArray[np.float32]:
    return EvaluatedPolicy(load_target(policy), count, temperature=temperature, epsilon=0.0).probabilities(STATES)


@pytest.mark.parametrize("batch", ["B", 1, 7])
@pytest.mark.parametrize("output", ["behaviour_logits", "q_values"])
def test_an_onnx_file_is_greedy_by_its_values_or_samples_at_a_temperature(
    output: str, batch: Any, tmp_path: Path
) -> None:
    weights = np.random.default_rng(1).normal(size=(4, 3))
    path = write_onnx(tmp_path / "policy.onnx", output, weights, batch=batch)
    scores = STATES @ weights
    greedy = probabilities(path, count=3)
    np.testing.assert_array_equal(greedy, np.eye(3)[scores.argmax(axis=1)])
    soft = np.exp(scores / 0.5)
    sampled = probabilities(path, count=3, temperature=0.5)
    np.testing.assert_allclose(sampled, soft / soft.sum(axis=1, keepdims=True), rtol=1e-4)


def test_an_onnx_file_of_chosen_actions_is_a_policy_too(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=(4, 3))
    path = write_onnx(tmp_path / "policy.onnx", "argmax", weights)
    np.testing.assert_array_equal(probabilities(path, count=3), np.eye(3)[(STATES @ weights).argmax(axis=1)])
    with pytest.raises(UserError, match=r"the action .* expected one whole number from 0 to 1"):
        probabilities(path)
    with pytest.raises(UserError, match=r"temperature: got 0.5 .* answers the chosen action alone"):
        check_spaces(load_target(path), make_log(4, 3), temperature=0.5, epsilon=0.0)


def test_logits_without_a_name_are_not_taken_for_probabilities(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "policy.onnx", "y", np.ones((4, 2)))
    with pytest.raises(UserError, match="sum to 1; a network's logits or values have the output name behaviour_logits"):
        probabilities(path)


@pytest.mark.parametrize("name", ["DQN", "DiscreteBCQ", "DiscreteCQL"])
def test_a_d3rlpy_file_takes_the_actions_that_d3rlpy_predicts(name: str, tmp_path: Path) -> None:
    import d3rlpy

    import runtime.offline.bcq  # noqa: F401, which imports d3rlpy in silence

    scaler = d3rlpy.preprocessing.StandardObservationScaler(mean=np.ones(4), std=np.full(4, 2.0))
    algorithm = getattr(d3rlpy.algos, f"{name}Config")(observation_scaler=scaler).create(device=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        algorithm.create_impl((4,), 3)
    algorithm.save(str(tmp_path / "policy.d3"))
    expected = algorithm.predict(STATES)
    assert len(set(expected.tolist())) > 1
    np.testing.assert_array_equal(probabilities(tmp_path / "policy.d3", count=3), np.eye(3)[expected])


def test_a_continuous_d3rlpy_file_acts_in_the_environments_units(tmp_path: Path) -> None:
    import d3rlpy

    import runtime.offline.bcq  # noqa: F401, which imports d3rlpy in silence

    scaler = d3rlpy.preprocessing.MinMaxActionScaler(minimum=np.array([-3.0]), maximum=np.array([5.0]))
    algorithm = d3rlpy.algos.IQLConfig(action_scaler=scaler).create(device=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        algorithm.create_impl((4,), 1)
    algorithm.save(str(tmp_path / "policy.d3"))
    loaded = load_target(tmp_path / "policy.d3")
    found = EvaluatedPolicy(loaded, 1, temperature=None, epsilon=0.0).actions(STATES)
    np.testing.assert_allclose(found, algorithm.predict(STATES))
    assert found.max() > 1  # beyond the network's own range
    with pytest.raises(UserError, match="with continuous actions; expected discrete ones, as the log's"):
        check_spaces(loaded, make_log(4, 2), temperature=None, epsilon=0.0)


def test_a_checkpoint_of_batch_rl_is_read_without_its_job(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 2)
    policy = NetworkPolicy(
        "greedy", {"q": [torch.nn.Sequential(layer)]}, ObservationFilter(np.zeros(4), np.ones(4), 10.0)
    )
    policy.save(tmp_path / FILE)
    np.testing.assert_array_equal(probabilities(tmp_path), policy.probabilities(STATES))


class _Payload:
    def __reduce__(self) -> Any:
        return print, ("it ran",)


def test_files_of_something_else_are_refused_and_run_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "broken.d3").write_bytes(b"not a pickle")
    (tmp_path / "evil.d3").write_bytes(pickle.dumps({"torch": _Payload(), "config": "{}", "version": "2.8.0"}))
    (tmp_path / "broken.tar.gz").write_bytes(b"not an archive")
    (tmp_path / "policy.txt").write_text("a policy")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "broken.onnx": "which cannot be read .*; expected an ONNX file",
        "broken.d3": "which cannot be read .*; expected what d3rlpy 2's `algorithm.save` wrote",
        "evil.d3": "it calls builtins.print",
        "broken.tar.gz": "which cannot be unpacked",
        "policy.txt": "expected a model directory, a results folder, a model.tar.gz, an .onnx file",
        "empty": "which holds no policy",
    }.items():
        with pytest.raises(UserError, match=message):
            load_target(tmp_path / name)
    assert "it ran" not in capsys.readouterr().out


def make_log(width: int, actions: int) -> Transitions:
    return Transitions(
        np.zeros((2, width), np.float32),
        np.arange(2),
        np.zeros(2, np.float32),
        np.full(2, TERMINAL),
        np.arange(2),
        None,
        actions,
    )


def test_all_differences_of_spaces_are_listed(tmp_path: Path) -> None:
    loaded = load_target(write_onnx(tmp_path / "policy.onnx", "q_values", np.ones((4, 3))))
    with pytest.raises(UserError, match=r"(?s)2 problems with the policy and the log.*shape \(4,\).*5.*with 3 actions"):
        check_spaces(loaded, make_log(5, 2), temperature=None, epsilon=0.0)
