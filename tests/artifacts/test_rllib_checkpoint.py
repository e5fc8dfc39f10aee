"""Checkpoints of RLlib's own: the policy acts as RLlib's network does, and nothing of the author's is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.dqn_catalog import DQNCatalog
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import EnvToModulePipeline, MeanStdFilter
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline, NormalizeAndClipActions
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from runtime.artifacts.rllib_checkpoint import read_rllib_policy
from runtime.errors import UserError
from runtime.jobs.export import run_export
from runtime.offline.target_policies import EvaluatedPolicy, load_target

STATES = 5 * np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
DISCRETE: Any = gymnasium.spaces.Discrete(4)
BOX = gymnasium.spaces.Box(np.array([-3, 0], np.float32), np.array([5, 1], np.float32))
MODULE = Path("learner_group/learner/rl_module/default_policy")


def save(folder: Path, module: Any, catalog: Any, actions: Any, **settings: Any) -> Any:
    """Writes RLlib's network where an algorithm's checkpoint has it; returns the network."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = module(
            observation_space=OBSERVATIONS, action_space=actions, model_config=settings, catalog_class=catalog
        )
    made.save_to_path(str(folder / MODULE))
    return made


def save_connectors(folder: Path, *pieces: Any) -> None:
    pipeline = EnvToModulePipeline(OBSERVATIONS, BOX, connectors=list(pieces))
    pipeline.save_to_path(str(folder / "env_runner" / "env_to_module_connector"), state=pipeline.get_state())


def test_ppo_samples_from_rllibs_distribution(tmp_path: Path) -> None:
    theirs = save(tmp_path, DefaultPPOTorchRLModule, PPOCatalog, DISCRETE, fcnet_hiddens=[8], vf_share_layers=False)
    with torch.inference_mode():
        logits = theirs.forward_inference({"obs": torch.as_tensor(STATES)})["action_dist_inputs"]
    loaded = load_target(tmp_path)
    sampled = EvaluatedPolicy(loaded, 4, temperature=1.0, epsilon=0.0).probabilities(STATES)
    np.testing.assert_allclose(sampled, torch.softmax(logits, dim=1).numpy(), rtol=1e-4)
    greedy = EvaluatedPolicy(loaded, 4, temperature=None, epsilon=0.0).probabilities(STATES)
    np.testing.assert_array_equal(greedy, np.eye(4)[logits.argmax(dim=1).numpy()])


def test_dqn_takes_rllibs_actions_from_the_networks_own_folder(tmp_path: Path) -> None:
    settings = {"fcnet_hiddens": [8], "double_q": True, "dueling": True, "num_atoms": 1, "epsilon": [(0, 1.0)]}
    theirs = save(tmp_path, DefaultDQNTorchRLModule, DQNCatalog, DISCRETE, **settings)
    with torch.inference_mode():
        actions = theirs.forward_inference({"obs": torch.as_tensor(STATES)})["actions"].numpy()
    assert len(set(actions.tolist())) > 1
    policy = read_rllib_policy(tmp_path / MODULE)
    assert policy.act_many(STATES) == actions.tolist()


def test_observations_are_filtered_and_actions_scaled_as_in_the_checkpoint(tmp_path: Path) -> None:
    theirs = save(tmp_path, DefaultPPOTorchRLModule, PPOCatalog, BOX, fcnet_hiddens=[8], vf_share_layers=False)
    connector = MeanStdFilter()
    connector.input_observation_space = OBSERVATIONS
    connector._init_new_filters()
    for state in STATES:
        connector._filters[None](state)
    save_connectors(tmp_path, connector)
    pieces = [NormalizeAndClipActions(OBSERVATIONS, BOX, normalize_actions=True, clip_actions=False)]
    scaling = ModuleToEnvPipeline(OBSERVATIONS, BOX, connectors=pieces)
    scaling.save_to_path(str(tmp_path / "env_runner" / "module_to_env_connector"), state=scaling.get_state())
    seen = (STATES - STATES.mean(axis=0)) / STATES.std(axis=0, ddof=1)
    with torch.inference_mode():
        means = theirs.forward_inference({"obs": torch.as_tensor(seen.astype(np.float32))})["action_dist_inputs"][:, :2]
    expected = BOX.low + (np.clip(means.numpy(), -1, 1) + 1) / 2 * (BOX.high - BOX.low)
    found = EvaluatedPolicy(load_target(tmp_path), 2, temperature=None, epsilon=0.0).actions(STATES)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


class _Payload:
    def __reduce__(self) -> Any:
        return print, ("it ran",)


class OwnModule(DefaultPPOTorchRLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """A network of the checkpoint's author."""


class OwnObservations(ConnectorV2):  # type: ignore[misc]  # ray is not typed for strict mode
    """A connector of the checkpoint's author, which changes observations."""

    def __call__(self, *, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return batch


class OwnActions(ConnectorV2):  # type: ignore[misc]  # ray is not typed for strict mode
    """A connector of the checkpoint's author, which changes actions."""

    def __call__(self, *, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return batch


def test_what_its_author_wrote_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "own", OwnModule, PPOCatalog, DISCRETE, fcnet_hiddens=[8], vf_share_layers=False)
    with pytest.raises(UserError, match=r"got the network .*OwnModule; expected one of DefaultPPOTorchRLModule"):
        load_target(tmp_path / "own")
    evil = tmp_path / "evil"
    save(evil, DefaultPPOTorchRLModule, PPOCatalog, DISCRETE, fcnet_hiddens=[8], vf_share_layers=False)
    (evil / MODULE / "module_state.pkl").write_bytes(pickle.dumps({"weights": _Payload()}))
    with pytest.raises(UserError, match=r"cannot be read .*it calls builtins.print"):
        load_target(evil)
    (evil / MODULE / "class_and_ctor_args.pkl").write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(UserError, match="got a checkpoint whose policy cannot be read"):
        load_target(evil)
    assert "it ran" not in capsys.readouterr().out


def test_what_cannot_be_evaluated_step_by_step_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "flat", DefaultPPOTorchRLModule, PPOCatalog, DISCRETE, fcnet_hiddens=[8], vf_share_layers=False)
    save_connectors(tmp_path / "flat", OwnObservations(), MeanStdFilter())
    with pytest.raises(UserError, match=r"connectors OwnObservations, which change .*ObservationWrapper"):
        load_target(tmp_path / "flat")
    (tmp_path / "flat" / "rllib_checkpoint.json").write_text("{}")
    with pytest.raises(UserError, match="got the connectors OwnObservations, which change observations"):
        run_export(tmp_path / "flat", {})
    assert not (tmp_path / "flat" / "model").exists()
    save(tmp_path / "acts", DefaultPPOTorchRLModule, PPOCatalog, BOX, fcnet_hiddens=[8], vf_share_layers=False)
    scaling = ModuleToEnvPipeline(OBSERVATIONS, BOX, connectors=[OwnActions(OBSERVATIONS, BOX)])
    scaling.save_to_path(str(tmp_path / "acts" / "env_runner" / "module_to_env_connector"), state=scaling.get_state())
    with pytest.raises(UserError, match=r"got the connectors OwnActions, which change actions; .*ActionWrapper"):
        load_target(tmp_path / "acts")
    save(tmp_path / "lstm", DefaultPPOTorchRLModule, PPOCatalog, DISCRETE, **vars(DefaultModelConfig(use_lstm=True)))
    with pytest.raises(UserError, match="got a network with an LSTM"):
        load_target(tmp_path / "lstm")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "rllib_checkpoint.json").write_text("{}")
    with pytest.raises(UserError, match="got a checkpoint with no policy; expected default_policy"):
        load_target(tmp_path / "none")
