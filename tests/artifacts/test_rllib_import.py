"""Checkpoints that RLlib saved: `smrl export` and `smrl evaluate` act as RLlib's own env runner does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from ray import cloudpickle
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.bc import BC
from ray.rllib.algorithms.cql import CQL
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.marwil import MARWIL
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.utils.spaces.space_utils import unsquash_action
from ray.tune.registry import register_env

from runtime.cli import main
from runtime.errors import UserError
from runtime.jobs.export import run_export

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SMALL = DefaultModelConfig(fcnet_hiddens=[16])


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    from runtime.cluster.session import prepare_environment, ray_session

    prepare_environment()
    with ray_session(num_cpus=2, num_gpus=0):
        yield


def save(folder: Path, config: AlgorithmConfig, env: str, *connectors: Any, **env_config: Any) -> Any:
    """Samples with a stock algorithm, saves it as its user does, and returns its env runner."""
    config.environment(env, env_config=env_config).learners(num_learners=0).debugging(seed=3)
    config.env_runners(
        num_env_runners=0, rollout_fragment_length=50, env_to_module_connector=lambda *_, **__: [*connectors]
    )
    algorithm = config.rl_module(model_config=SMALL).build_algo()
    try:
        algorithm.env_runner.sample(num_timesteps=50, random_actions=True)
        algorithm.save_to_path(str(folder))
        return algorithm.env_runner
    finally:
        algorithm.stop()


def outputs_of_rllib(runner: Any, observations: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Computes actions and network outputs by RLlib's filter, network and scaling."""
    pieces = runner._env_to_module.connectors
    mean_std = next(piece for piece in pieces if isinstance(piece, MeanStdFilter))._filters[None]
    seen = np.stack([mean_std(row, update=False) for row in observations])
    module = runner.module
    with torch.inference_mode():
        out = module.forward_inference({"obs": torch.as_tensor(seen, dtype=torch.float32)})
        if "actions" in out:  # DQN
            return out["actions"].numpy(), module.compute_q_values({"obs": torch.as_tensor(seen)})["qf_preds"].numpy()
        logits = out["action_dist_inputs"]
        chosen = module.get_inference_action_dist_cls().from_logits(logits).to_deterministic().sample().numpy()
    if isinstance(module, DefaultSACTorchRLModule):
        chosen = np.tanh(chosen)  # RLlib 2.60 leaves it out of the deterministic action, though not of samples
    space = runner.env.single_action_space
    if isinstance(space, gymnasium.spaces.Box):
        chosen = np.stack([unsquash_action(row, space) for row in chosen])
    return chosen, logits.numpy()


@pytest.mark.parametrize(
    ("config", "env", "output"),
    [
        (PPOConfig(), "Pendulum-v1", "behaviour_logits"),
        (DQNConfig(), "CartPole-v1", "q_values"),
        (SACConfig(), "Pendulum-v1", "behaviour_logits"),
        (APPOConfig(), "CartPole-v1", "behaviour_logits"),
        (IMPALAConfig(), "CartPole-v1", "behaviour_logits"),
    ],
    ids=["PPO", "DQN", "SAC", "APPO", "IMPALA"],
)
def test_an_export_acts_as_rllib_does_its_filter_included(
    tmp_path: Path, config: AlgorithmConfig, env: str, output: str
) -> None:
    runner = save(tmp_path / "stock", config, env, MeanStdFilter())
    size = runner.env.single_observation_space.shape[0]
    rows = np.random.default_rng(0).normal(size=(64, size)).astype(np.float32)
    actions, expected = outputs_of_rllib(runner, rows)
    run_export(tmp_path / "stock", {})
    session = onnxruntime.InferenceSession(str(tmp_path / "stock" / "model" / "policy.onnx"))
    found = dict(zip(("actions", output), session.run(["actions", output], {"observations": rows}), strict=True))
    np.testing.assert_allclose(found[output], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["actions"], actions, rtol=1e-3, atol=1e-4)
    manifest = json.loads((tmp_path / "stock" / "model" / "manifest.json").read_text())
    assert (manifest["algorithm"], manifest["env"]) == (config.algo_class.__name__, env)
    assert manifest["observation_filter"] == "MeanStdFilter"


def test_evaluate_plays_a_trials_last_checkpoint_of_one_hot_observations_with_its_env_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = tmp_path / "trial"
    save(trial / "checkpoint_000002", PPOConfig(), "FrozenLake-v1", FlattenObservations(), map_name="8x8")
    assert main(["evaluate", str(trial), "evaluate_episodes=2"]) == 0
    report = json.loads((trial / "evaluation" / "evaluation.json").read_text())
    assert report["env"] == "FrozenLake-v1"
    assert len(report["episodes"]) == 2
    run_export(trial, {})
    manifest = json.loads((trial / "checkpoint_000002" / "model" / "manifest.json").read_text())
    assert manifest["env_config"] == {"map_name": "8x8"}
    assert manifest["observation_space"]["shape"] == [64]
    capsys.readouterr()
    assert main(["evaluate", str(trial), "checkpoint=best"]) == 2
    assert "checkpoint: got 'best' for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "learned", "acts_as"),
    [(PPOConfig(), MARWIL, "PPO"), (PPOConfig(), BC, "PPO"), (SACConfig(), CQL, "SAC")],
    ids=["MARWIL", "BC", "CQL"],
)
def test_a_policy_that_rllib_learned_from_a_log_is_evaluated(
    tmp_path: Path, config: AlgorithmConfig, learned: type, acts_as: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint differs in the algorithm that it names; ours of these names have networks of their own."""
    save(tmp_path / "stock", config, "Pendulum-v1", MeanStdFilter())
    described = tmp_path / "stock" / "class_and_ctor_args.pkl"
    description = cloudpickle.loads(described.read_bytes())
    assert description["class"] is config.algo_class
    described.write_bytes(cloudpickle.dumps({**description, "class": learned}))
    assert main(["evaluate", str(tmp_path / "stock"), "evaluate_episodes=1"]) == 0
    assert "Episode reward: -" in capsys.readouterr().out
    run_export(tmp_path / "stock", {})
    manifest = json.loads((tmp_path / "stock" / "model" / "manifest.json").read_text())
    assert manifest["algorithm"] == acts_as


def test_sac_with_another_activation_and_for_discrete_actions(tmp_path: Path) -> None:
    """Its Q functions are not needed to act; RLlib trains SAC for discrete actions, which acts by other rules."""
    config = SACConfig().rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16], fcnet_activation="silu"))
    save(tmp_path / "silu", config, "Pendulum-v1", MeanStdFilter())
    run_export(tmp_path / "silu", {})
    save(tmp_path / "discrete", SACConfig(), "CartPole-v1", MeanStdFilter())
    with pytest.raises(UserError, match="got a policy of SAC for discrete actions; expected continuous ones"):
        run_export(tmp_path / "discrete", {})


def test_an_environment_that_its_author_registered_must_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_env("my_pole", lambda _: gymnasium.make("CartPole-v1"))
    save(tmp_path / "stock", PPOConfig(), "my_pole", MeanStdFilter())
    assert main(["evaluate", str(tmp_path / "stock")]) == 2
    assert "env: got 'my_pole' from the model; expected an environment that Gymnasium knows" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "stock"), "--env", "CartPole-v1", "evaluate_episodes=1"]) == 0
    assert "Episode reward:" in capsys.readouterr().out
