"""Exports: every kind of policy that trains here, each format loaded by its own runtime."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

from runtime.artifacts.exports import OBSERVATIONS
from runtime.artifacts.manifest import only_writer, read_manifest
from runtime.artifacts.policy_file import read_policy
from runtime.errors import JobError, UserError
from runtime.export.exporter import Subject, export, export_model
from runtime.export.filters import add_filter
from runtime.export.graph import Graph
from runtime.export.graph_def import SavedModelReader
from runtime.export.onnx_file import write_onnx
from runtime.export.parity import TOLERANCE, make_observations, measure
from runtime.export.policy_graph import build_graph
from runtime.export.saved_model import write_saved_model
from runtime.policies.filter import ObservationFilter
from runtime.policies.policy import Policy
from runtime.policies.rllib_filter import leave_mask
from runtime.policies.spaces import MaskedBox, describe_space, read_box, read_space
from tests.conftest import BIN, ROOT, TINY, clean_environment, run_peer, run_smrl

OPS = json.loads((ROOT / "tests" / "tf_2_1_ops.json").read_text())
PLANE = spaces.Box(-np.inf, np.inf, (5,), np.float32)
PICTURE = spaces.Box(0, 255, (42, 42, 2), np.float32)
REACH = spaces.Box(np.array([-1, -2, 0], np.float32), np.array([1, 2, 5], np.float32))
FREE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
CONVOLUTIONS = [[8, 8, 4], [16, 4, 2, "valid"]]

# Observation space, action space, network, how actions reach the environment.
POLICIES: dict[str, tuple[spaces.Box, gymnasium.Space[Any], dict[str, Any], dict[str, bool]]] = {
    "tanh, two networks": (PLANE, REACH, {"vf_share_layers": False}, {}),
    "relu, one network": (PLANE, REACH, {"fcnet_activation": "relu", "vf_share_layers": True}, {}),
    "silu and a head": (PLANE, REACH, {"fcnet_activation": "swish", "head_fcnet_hiddens": [16]}, {}),
    "layer norm": (PLANE, REACH, {"fcnet_use_layernorm": True}, {}),
    "free log std": (PLANE, REACH, {"free_log_std": True}, {}),
    "state-dependent noise": (PLANE, REACH, {"use_sde": True}, {}),
    "clipped, not scaled": (PLANE, REACH, {}, {"normalize_actions": False, "clip_actions": True}),
    "raw": (PLANE, REACH, {}, {"normalize_actions": False}),
    "unbounded actions": (PLANE, FREE, {}, {}),
    "unbounded, clipped": (PLANE, FREE, {}, {"normalize_actions": False, "clip_actions": True}),
    "no scaling needed": (PLANE, spaces.Box(-1, 1, (2,), np.float32), {}, {}),
    "double actions": (PLANE, spaces.Box(-0.1, 0.7, (2,), np.float64), {}, {}),
    "discrete": (PLANE, spaces.Discrete(4), {}, {}),
    "multi-discrete": (PLANE, spaces.MultiDiscrete([2, 3, 4]), {}, {}),
    "masked": (MaskedBox(PLANE, 4), spaces.Discrete(4), {"vf_share_layers": False}, {}),
    "masked choices": (MaskedBox(PLANE, 9), spaces.MultiDiscrete([2, 3, 4]), {"vf_share_layers": True}, {}),
    "pictures": (PICTURE, spaces.Discrete(5), {"conv_filters": CONVOLUTIONS}, {}),
    "pictures, shared": (PICTURE, REACH, {"conv_filters": CONVOLUTIONS, "vf_share_layers": True}, {}),
}


def make_policy(name: str, *, filtered: bool = True) -> tuple[Policy, spaces.Box]:
    """A policy with random weights, some of them large, as training leaves them."""
    from runtime.policies.ppo_module import PPOModule
    from runtime.ppo.rllib_config import model_config

    observations, actions, network, options = POLICIES[name]
    torch.manual_seed(sum(map(ord, name)))
    module = PPOModule(
        observation_space=observations,
        action_space=actions,
        model_config=model_config({"fcnet_hiddens": [32, 32], "fcnet_activation": "tanh", **network}),
        catalog_class=PPOCatalog,
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5).add_(0.05 * torch.randn_like(parameter))
    rng = np.random.default_rng(1)
    mean = leave_mask(rng.normal(size=observations.shape), observations, 0.0)
    std = leave_mask(rng.uniform(0.1, 3, observations.shape), observations, 1.0)
    seen = ObservationFilter(mean, std, 10.0) if filtered else None
    return Policy(module, actions, observation_filter=seen, **options), observations


@pytest.mark.parametrize("name", POLICIES)
def test_every_format_is_the_policy(name: str, tmp_path: Path) -> None:
    policy, space = make_policy(name)
    for entry in export(Subject.of_policy(policy, space), tmp_path):
        assert max(entry["parity"]["largest_difference"].values()) <= TOLERANCE
        assert entry["sha256"] == hashlib.sha256((tmp_path / entry["file"]).read_bytes()).hexdigest()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["policy.onnx", "policy.pt2", "saved_model.pb"]


def test_a_policy_without_a_filter_takes_observations_as_they_are(tmp_path: Path) -> None:
    policy, space = make_policy("discrete", filtered=False)
    export(Subject.of_policy(policy, space), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    observation = np.array([[0.1, -2.0, 3.0, 0.5, 1.0]], np.float32)
    (actions,) = session.run(["actions"], {OBSERVATIONS: observation})
    assert actions[0] == policy.act(observation[0])


def test_tensorflow_serves_every_saved_model(tmp_path: Path) -> None:
    """Real TensorFlow loads them, takes the notebook's five inputs, and agrees."""
    trained = {}
    for number, name in enumerate(POLICIES):
        policy, space = make_policy(name)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(write_saved_model(build_graph(policy, space.shape)))
        subject = Subject.of_policy(policy, space)
        np.savez(folder / "in.npz", allow_pickle=False, **subject.inputs)
        trained[folder] = (name, subject)
    said = run_peer("run_saved_models.py", *trained)
    for folder, (name, subject) in trained.items():
        with np.load(folder / "out.npz") as found:
            outputs = dict(found)
        differences = measure(
            subject.trained, subject.exact, outputs, scale=subject.scale, action_space=subject.action_space
        )
        assert max(differences.values()) <= TOLERANCE, (name, differences, said)
        np.testing.assert_array_equal(outputs["actions_0"], outputs["actions"])
        np.testing.assert_array_equal(outputs["observations_only/actions"], outputs["actions"])


@pytest.mark.system
def test_saved_model_cli_shows_the_signatures_of_rllib_0_8(tmp_path: Path) -> None:
    policy, space = make_policy("tanh, two networks")
    export(Subject.of_policy(policy, space), tmp_path)
    shown = run_peer("-m", "tensorflow.python.tools.saved_model_cli", "show", "--dir", tmp_path / "1", "--all")
    described = " ".join(shown.split())
    for tensor in (
        "inputs['observations'] tensor_info: dtype: DT_FLOAT shape: (-1, 5)",
        "inputs['prev_action'] tensor_info: dtype: DT_FLOAT shape: unknown_rank",
        "inputs['is_training'] tensor_info: dtype: DT_BOOL shape: unknown_rank",
        "inputs['prev_reward'] tensor_info: dtype: DT_FLOAT shape: unknown_rank",
        "inputs['seq_lens'] tensor_info: dtype: DT_INT32 shape: unknown_rank",
        "outputs['actions'] tensor_info: dtype: DT_FLOAT shape: (-1, 3)",
        "outputs['actions_0'] tensor_info: dtype: DT_FLOAT shape: (-1, 3)",
        "outputs['action_prob'] tensor_info: dtype: DT_FLOAT shape: (-1)",
        "outputs['action_logp'] tensor_info: dtype: DT_FLOAT shape: (-1)",
        "outputs['behaviour_logits'] tensor_info: dtype: DT_FLOAT shape: (-1, 6)",
        "outputs['vf_preds'] tensor_info: dtype: DT_FLOAT shape: (-1)",
        "signature_def['observations_only']:",
        "Method name is: tensorflow/serving/predict",
    ):
        assert tensor in described, shown


@pytest.mark.parametrize("name", POLICIES)
def test_the_saved_model_holds_only_what_tensorflow_2_1_knows(name: str) -> None:
    """Every op, attribute, dtype and number of inputs against the op definitions of TF 2.1.0 (tf_2_1_ops.json)."""
    policy, space = make_policy(name)
    written = write_saved_model(build_graph(policy, space.shape))
    length = next(n for n in range(4, 10) if written[n - 1] < 0x80)  # of the header, whose last number is a varint
    nodes = MetaGraphDef.FromString(written[length:]).graph_def.node
    assert len(nodes) > 20
    for node in nodes:
        definition = OPS[node.op]
        assert set(node.attr) <= set(definition["attributes"]), node.op
        for attribute, rule in definition["attributes"].items():
            assert attribute in node.attr or rule["has_default"], (node.op, attribute)
            if rule["type"] == "type" and rule.get("allowed") and attribute in node.attr:
                assert DTYPES[node.attr[attribute].type] in rule["allowed"], (node.op, attribute)
        least = len(definition["inputs"]) + (node.attr["N"].i - 1 if node.op == "ConcatV2" else 0)
        assert len(node.input) == least, node.op


DTYPES = {1: "DT_FLOAT", 2: "DT_DOUBLE", 3: "DT_INT32", 9: "DT_INT64", 10: "DT_BOOL"}


def test_our_reader_computes_what_onnxruntime_computes(tmp_path: Path) -> None:
    policy, space = make_policy("pictures, shared")
    graph = build_graph(policy, space.shape)
    (tmp_path / "saved_model.pb").write_bytes(write_saved_model(graph))
    session = onnxruntime.InferenceSession(write_onnx(graph))
    observations = make_observations(space, None)[:8]
    model = SavedModelReader(tmp_path / "saved_model.pb")
    ours = model.run("serving_default", model.zeros("serving_default") | {OBSERVATIONS: observations})
    for name, theirs in zip(graph.outputs, session.run(list(graph.outputs), {OBSERVATIONS: observations}), strict=True):
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-5, atol=1e-5)


def test_normalization_keeps_the_digits_of_a_large_mean() -> None:
    """A mean of 123,456.7 with a deviation of 0.01: in float32 the difference would be off by half a deviation."""
    graph = Graph((1,))
    seen = ObservationFilter(np.array([123456.7]), np.array([0.01]), 10.0)
    graph.name_output("x", add_filter(graph, OBSERVATIONS, seen), np.float32, (1,))
    observation = np.array([[123456.703125]], np.float32)  # a float32 exactly
    (found,) = onnxruntime.InferenceSession(write_onnx(graph)).run(None, {OBSERVATIONS: observation})
    np.testing.assert_allclose(found, [[0.3125]], rtol=1e-4)


def test_a_format_that_disagrees_is_not_kept(tmp_path: Path) -> None:
    policy, space = make_policy("raw")
    subject = Subject.of_policy(policy, space)
    export(subject, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with torch.no_grad():  # the policy is no longer the one whose graph is written
        policy.module.pi.net.mlp[-1].bias.add_(1e-4)
    changed = Subject.of_policy(policy, space)
    with pytest.raises(JobError, match=r"(?s)policy\.onnx: actions differs by .*e-05.*policy\.pt2: actions differs"):
        export(replace(changed, graph=subject.graph), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_unknown_layer_is_refused_by_its_name(tmp_path: Path) -> None:
    policy, space = make_policy("tanh, two networks")
    policy.module.encoder.actor_encoder.net.mlp[1] = torch.nn.GELU()
    with pytest.raises(
        UserError, match=r"module GELU at encoder\.actor_encoder\.net\.mlp\.1; expected one of Linear, .*layers\.py"
    ):
        export(Subject.of_policy(policy, space), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "space",
    [
        *(PLANE, PICTURE, REACH, spaces.Box(-1, 1, (2,), np.float64)),
        spaces.Discrete(3, start=-1),
        spaces.Tuple([REACH, spaces.MultiDiscrete([2, 3])]),
        spaces.Dict([("second", PICTURE), ("first", REACH)]),  # in an order of its own, which flattening follows
    ],
)
def test_a_space_survives_the_manifest(space: gymnasium.Space[Any]) -> None:
    assert read_space(json.loads(json.dumps(describe_space(space)))) == space


def test_observations_hold_the_extremes() -> None:
    seen = ObservationFilter(np.full(5, 100.0), np.full(5, 2.0), 10.0)
    rows = make_observations(PLANE, seen)
    assert rows.shape == (256, 5)
    assert (rows.min(), rows.max()) == (-1e6, 1e6)
    assert np.abs(seen(rows)).max() == 10
    assert np.array_equal(rows, make_observations(PLANE, seen))
    pictures = make_observations(PICTURE, None)
    assert (pictures[3].max(), pictures[4].min()) == (0, 255)
    assert pictures.min() >= 0
    assert pictures.max() <= 255


def difference(expected: Any, found: Any, exact: Any = None, scale: Any = None) -> float:
    """Measures the difference of 64 rows of one output."""
    trained, exported = np.resize(expected, (64, 2)), np.resize(found, (64, 2))
    sizes = np.ones(64) if scale is None else np.resize(scale, 64)
    exacts = trained if exact is None else np.resize(exact, (64, 2))
    return measure({"x": trained}, {"x": exacts}, {"x": exported}, scale=sizes, action_space=None)["x"]


def test_differences_are_absolute_below_1_and_relative_above() -> None:
    assert difference([0.5, 100.0], [0.5, 100.0]) == 0
    assert difference([0.5, 100.0], [0.25, 100.0]) == 0.25
    assert difference([0.5, 100.0], [0.5, 75.0]) == 0.25
    assert difference([0.5, 100.0], [0.5, np.nan]) == np.inf


def test_the_policys_own_rounding_is_allowed_for_where_the_observation_is_as_large() -> None:
    """The policy loses 0.001 on observations of size 1000: so may a format there, and no more than 1e-6 at size 1."""
    expected = [[7.0, 7.0], [7.0, 7.0]]
    exact = [[7.0, 7.0], [7.001, 7.0]]
    sizes = [1.0, 1000.0]
    assert difference(expected, [[7, 7], [7.002, 7]], exact, sizes) < TOLERANCE
    assert difference(expected, [[7, 7], [7.006, 7]], exact, sizes) > TOLERANCE
    assert difference(expected, [[7.002, 7], [7, 7]], exact, sizes) > TOLERANCE
    assert difference(expected, [[7, 7], [7, 7.002]], exact, sizes) > TOLERANCE  # the other number is exact


def test_a_discrete_action_may_differ_where_the_policy_does_not_care() -> None:
    logits = np.resize(np.array([[1.0, 2.0], [3.0, 3.0]], np.float32), (64, 2))
    trained = {"actions": np.resize([1, 0], 64), "behaviour_logits": logits}

    def gap(actions: list[int]) -> float:
        found = {"actions": np.resize(actions, 64), "behaviour_logits": logits}
        both = measure(trained, trained, found, scale=np.ones(64), action_space=spaces.Discrete(2))
        return both["actions"]

    assert gap([1, 0]) == gap([1, 1]) == 0
    assert gap([0, 0]) == 0.5
    assert gap([2, 0]) == np.inf


@pytest.mark.parametrize("activation", ["relu", "swish", "linear"])
@pytest.mark.parametrize("space", [PLANE, spaces.Box(-3.4e38, 3.4e38, (5,), np.float32)], ids=["free", "huge"])
def test_rounding_at_large_observations_fails_no_right_export(activation: str, space: spaces.Box) -> None:
    """Networks without a filter sum up numbers of 1e6: their outputs have few digits left, in every runtime."""
    from runtime.policies.ppo_module import PPOModule
    from runtime.ppo.rllib_config import model_config

    for seed in range(8):
        torch.manual_seed(seed)
        module = PPOModule(
            observation_space=space,
            action_space=[REACH, spaces.Discrete(5)][seed % 2],
            model_config=model_config({"fcnet_hiddens": [256, 256], "fcnet_activation": activation}),
            catalog_class=PPOCatalog,
        )
        subject = Subject.of_policy(Policy(module, module.action_space, observation_filter=None), space)
        session = onnxruntime.InferenceSession(write_onnx(subject.graph))
        names = list(subject.graph.outputs)
        found = dict(zip(names, session.run(names, {OBSERVATIONS: subject.observations}), strict=True))
        differences = measure(
            subject.trained, subject.exact, found, scale=subject.scale, action_space=module.action_space
        )
        assert max(differences.values()) <= TOLERANCE, (seed, differences)


@pytest.mark.slow
@pytest.mark.ray
def test_training_ends_with_exports_and_export_takes_the_best(exported_results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported_results, tmp_path / "results") / "model"
    manifest = read_manifest(folder)
    assert [export["format"] for export in manifest["exports"]] == ["tensorflow-savedmodel", "onnx", "torch-export"]
    assert manifest["exported_checkpoint"] == "checkpoint"
    assert [p.name for p in folder.iterdir() if p.name.isdigit()] == ["1"]
    assert [str(p.relative_to(folder)) for p in folder.rglob("saved_model.pb")] == ["1/saved_model.pb"]
    # The checkpoint alone is loaded by a new process, and acts as the exported file does.
    policy = read_policy(folder / "checkpoint", settings=manifest)
    rows = make_observations(read_box(manifest["observation_space"]), policy.observation_filter, seed=9)
    (actions,) = onnxruntime.InferenceSession(folder / "policy.onnx").run(["actions"], {OBSERVATIONS: rows})
    np.testing.assert_allclose(actions, policy.outputs(rows)["actions"], atol=TOLERANCE)
    assert policy.observation_filter is not None
    np.testing.assert_array_equal(manifest["training_observations"]["mean"], policy.observation_filter.mean)
    np.testing.assert_array_equal(manifest["training_observations"]["std"], policy.observation_filter.std)
    done = run_smrl("export", "results", "checkpoint=best", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert [line.split()[0] for line in table] == ["file", *(e["file"] for e in manifest["exports"])]
    assert last == "exported best into results/model"
    again = read_manifest(folder)
    assert again["exported_checkpoint"] == "best"
    best = read_policy(folder / "best", settings=manifest)
    (actions,) = onnxruntime.InferenceSession(folder / "policy.onnx").run(["actions"], {OBSERVATIONS: rows})
    np.testing.assert_allclose(actions, best.outputs(rows)["actions"], atol=TOLERANCE)


def test_export_says_what_it_was_given(tmp_path: Path, exported_results: Path) -> None:
    done = run_smrl("export", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert f"model: got '{tmp_path}', which has no manifest.json; expected a model directory" in done.stderr
    done = run_smrl("export", str(exported_results), "chekpoint=best", cwd=tmp_path)
    expected = "expected checkpoint=… or trust_checkpoint=true. Did you mean 'checkpoint'?"
    assert f"chekpoint: got 'best' from the command line; {expected}" in done.stderr
    with pytest.raises(UserError, match=r"checkpoint: got 'worst', which .* does not hold"):
        export_model(exported_results / "model", checkpoint="worst")


@pytest.mark.slow
@pytest.mark.ray
def test_a_network_that_cannot_be_exported_does_not_fail_the_training(tmp_path: Path) -> None:
    settings = [f"{name}={value}" for name, value in TINY.items()]
    done = run_smrl(
        *("train", "--preset", "cartpole", "--out", "out", *settings),
        *("rl.training.stop.training_iteration=1", "rl.training.export=true"),
        *("rl.training.config.model.use_lstm=true", "rl.training.config.model.max_seq_len=8"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "the policy is not exported: export: got the module TorchStatefulActorCriticEncoder at encoder" in done.stderr
    )
    manifest = read_manifest(tmp_path / "out" / "model")
    assert manifest["exports"] == []
    assert "TorchStatefulActorCriticEncoder" in manifest["not_exported"]


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.ray
def test_a_kill_in_mid_export_leaves_one_model_for_tf_serving(exported_results: Path, tmp_path: Path) -> None:
    """TF Serving takes every saved_model.pb in a numeric folder for a model; SageMaker uploads what a kill leaves."""
    folder = shutil.copytree(exported_results / "model", tmp_path / "model")
    before = (folder / "manifest.json").read_text()
    command = [str(BIN / "smrl"), "export", str(folder), "checkpoint=best"]
    process = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".export.*.writing/policy.onnx")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert [str(path.relative_to(folder)) for path in folder.rglob("saved_model.pb")] == ["1/saved_model.pb"]
    assert (folder / "manifest.json").read_text() == before
    done = run_smrl("export", "model", "checkpoint=best", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_manifest(folder)["exported_checkpoint"] == "best"
    assert not list(folder.glob(".export*"))


def test_one_writer_at_a_time(exported_results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported_results / "model", tmp_path / "model")
    with only_writer(folder), pytest.raises(UserError, match="that another process is writing to"), only_writer(folder):
        pass
    with only_writer(folder):  # it goes with its holder
        pass


def test_a_writer_waits_for_the_fork_of_one_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from runtime.artifacts.manifest import only_writer\n"
        "with only_writer(Path(sys.argv[1])):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(1)\n"
        "        os._exit(0)\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        with only_writer(tmp_path):
            pass


def test_actions_that_do_not_start_at_0_are_refused() -> None:
    """RLlib's runner steps Discrete(3, start=5) with 0, 1 and 2; the policy would act in units it never learned."""
    from runtime.cluster.machines import Machines
    from runtime.jobs.catalog import PLAIN, resolve
    from runtime.ppo.rllib_config import fit_to_resources
    from runtime.settings.resolve import Source

    config = resolve([Source("test", {"rl.training.env": "CartPole-v1"})], extras={})
    refused: list[gymnasium.Space[Any]] = [spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 2], start=[0, 1])]
    for space in refused:
        with pytest.raises(UserError, match=r"expected one whose actions start at 0"):
            fit_to_resources(config, PLAIN, space, Machines(2))
