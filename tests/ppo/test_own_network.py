"""Networks of the user's own, trained by PPO."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from ray.rllib.core.columns import Columns

from runtime.artifacts.checkpoint import checkpoints_in
from runtime.artifacts.policy_file import read_policy
from runtime.errors import Problems, UserError
from runtime.export.exporter import Subject, export
from runtime.export.parity import TOLERANCE
from runtime.policies.own_module import load_module
from runtime.policies.policy import Policy
from runtime.policies.spaces import Spaces
from runtime.ppo.own_network import check_module, module_config, try_network
from runtime.ppo.settings import MODULE, PPONetworkSettings
from tests import toy_networks
from tests.conftest import ROOT, run_smrl

TINY = ("rl.training.config.train_batch_size=128", "rl.training.config.minibatch_size=64", "seed=1")
ROWS = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
CARTPOLE = Spaces(ROWS, gymnasium.spaces.Discrete(2))


@pytest.mark.ray
def test_an_own_network_is_trained_resumed_evaluated_filmed_and_exported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    own = ("model.module=tests.toy_networks:Residual", 'module_config={"width": 8}', "model.fcnet_activation=relu")
    train = ("train", "--env", "CartPole-v1", "--out", str(out), *own, *TINY)
    done = run_smrl(*train, "rl.training.stop.training_iteration=2", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    path = "smrl: sampling and learning by RLlib's own code: rl.training.config.model.module"
    assert (done.stdout + done.stderr).count(path) == 1
    assert (out / "videos" / "last.mp4").stat().st_size > 1000
    before = read_own(out)
    # What the user set, and what RLlib adds; nothing of the preset's network.
    given = {"max_seq_len": 20, "vf_share_layers": False, "fcnet_activation": "relu", "width": 8}
    assert before.module.model_config == given
    done = run_smrl("resume", str(out), "rl.training.stop.training_iteration=3", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    after = read_own(out)
    assert not np.array_equal(weight_of(before), weight_of(after))
    assert np.abs(weight_of(before) - weight_of(after)).max() < 0.1  # it was not drawn again
    done = run_smrl("evaluate", str(out), "evaluate_episodes=2", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Episode reward:") == 2
    exports = json.loads((out / "model" / "manifest.json").read_text())["exports"]
    assert [one["file"] for one in exports] == ["1/saved_model.pb", "policy.onnx", "policy.pt2"]
    assert max(value for one in exports for value in one["parity"]["largest_difference"].values()) <= TOLERANCE


@pytest.mark.parametrize("name", ["tests.nowhere:Mine", "tests.toy_networks:Plain", "os:system"])
def test_a_model_may_name_nothing_but_a_network_that_is_here(name: str) -> None:
    with pytest.raises(UserError, match=rf"network {name}: could not be found.*Run this where its module can be"):
        load_module(name)


def read_own(out: Path) -> Policy:
    settings = {"normalize_actions": True, "clip_actions": False}
    return read_policy(checkpoints_in(out / "checkpoints")[-1], settings=settings)


def weight_of(policy: Policy) -> Any:
    return policy.module.first.weight.detach().numpy()


def make_policy(kind: type[Any], space: gymnasium.Space[Any], **config: Any) -> Policy:
    network = kind(observation_space=ROWS, action_space=space, inference_only=False, model_config=config)
    return Policy(network.eval(), space, observation_filter=None)


def test_a_network_of_continuous_actions_is_exported_with_its_log_std(tmp_path: Path) -> None:
    policy = make_policy(toy_networks.Gaussian, gymnasium.spaces.Box(-2, 3, (2,)), fcnet_hiddens=[8])
    exports = export(Subject.of_policy(policy, ROWS), tmp_path)
    assert len(exports) == 3
    assert max(value for one in exports for value in one["parity"]["largest_difference"].values()) <= TOLERANCE


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (toy_networks.Erf, r"got Erf, which computes aten\.erf; expected linear layers.*No file is written"),
        (toy_networks.Rounding, "got a division that rounds in the network; expected one that does not"),
        (toy_networks.Recurrent, "got Recurrent, a recurrent network; expected one without a state"),
    ],
)
def test_a_network_that_the_formats_cannot_express_is_refused_in_one_line(kind: type[Any], message: str) -> None:
    policy = make_policy(kind, gymnasium.spaces.Discrete(2), width=8)
    with pytest.raises(UserError, match=message) as raised:
        Subject.of_policy(policy, ROWS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Residual", "expected module:Class"),
        ("tests.nowhere:Residual", "expected a module 'tests.nowhere' that can be imported"),
        ("tests.toy_networks:Gone", "expected a class 'Gone' in tests.toy_networks"),
        ("tests.toy_networks:Plain", r"expected a class of ray\.rllib.*no TorchRLModule and no ValueFunctionAPI"),
        ("tests.toy_networks:NoValues", r"expected a class of ray\.rllib.*TorchRLModule.*it is no ValueFunctionAPI"),
    ],
)
def test_a_name_of_no_network_is_refused(name: str, rule: str) -> None:
    problems = Problems()
    check_module({"run": "PPO", MODULE: name}, {MODULE: "the command line"}, problems)
    where = rf"rl\.training\.config\.model\.module: got '{name}' from the command line; "
    with pytest.raises(UserError, match=where + rule):
        problems.raise_if_any()


def test_an_exception_of_the_package_above_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text("import torch\nundefined.name\n")
    problems = Problems()
    check_module({"run": "PPO", MODULE: "broken_package.mine:Mine"}, {MODULE: "the command line"}, problems)
    with pytest.raises(UserError, match=r"__init__\.py:2: raised NameError: name 'undefined' is not defined"):
        problems.raise_if_any()


def test_an_exception_while_importing_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_network.py").write_text("import torch\nundefined.name\n")
    problems = Problems()
    check_module({"run": "PPO", MODULE: "broken_network:Mine"}, {MODULE: "the command line"}, problems)
    with pytest.raises(UserError, match=r"broken_network\.py:2: raised NameError: name 'undefined' is not defined"):
        problems.raise_if_any()


def test_all_bad_settings_are_named_before_training_starts(tmp_path: Path) -> None:
    wrong = ("model.module=tests.toy_networks:Gone", "lr=fast")
    done = run_smrl("train", "--env", "CartPole-v1", "--out", str(tmp_path / "out"), *wrong, cwd=ROOT)
    assert done.returncode == 2
    assert "2 problems with this job's settings" in done.stderr
    alone = run_smrl("train", "--env", "CartPole-v1", 'module_config={"width": 8}', cwd=ROOT)
    assert alone.returncode == 2
    assert "module_config: got {'width': 8} from the command line; expected rl.training.config.model.module" in (
        alone.stderr
    )
    assert not (tmp_path / "out").exists()


def settings_of(name: str, **config: Any) -> PPONetworkSettings:
    return PPONetworkSettings(module=f"tests.toy_networks:{name}", module_config=config)


def test_wrong_outputs_are_all_named_before_training() -> None:
    logits = r"Column\._forward_inference: got .* shape \(3, 3\) .*expected \(3, 2\)"
    with pytest.raises(UserError, match=logits) as raised:
        try_network(settings_of("Column", width=8), CARTPOLE)
    assert re.search(r"Column\.compute_values: got values of the shape \(3, 1\) .*squeeze\(-1\)", str(raised.value))


def test_an_exception_of_the_network_names_its_line() -> None:
    with pytest.raises(UserError, match=r"toy_networks\.py:\d+: Residual\.setup raised KeyError: 'width'"):
        try_network(settings_of("Residual"), CARTPOLE)


@pytest.mark.parametrize("name", ["Residual", "Recurrent"])
def test_a_right_network_is_accepted(name: str) -> None:
    settings = settings_of(name, width=8)
    assert Columns.OBS not in module_config(settings)
    try_network(settings, CARTPOLE)


def test_a_family_with_a_network_of_its_own_refuses_another(tmp_path: Path) -> None:
    words = ("--preset", "deepracer", "model.module=tests.toy_networks:Residual")
    done = run_smrl("train", *words, "--out", str(tmp_path / "out"), cwd=ROOT)
    assert done.returncode == 2
    assert "expected none, as a DeepRacer car runs the network of its own. Leave it out." in done.stderr
