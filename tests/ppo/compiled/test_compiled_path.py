"""The fast path inside RLlib: what runs on it, what does not, how it falls back, and that all of RLlib's works."""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from runtime.cluster.machines import Machines
from runtime.environments.spec import EnvironmentFaultError, EnvironmentRaisedError, EnvSpec
from runtime.errors import UserError
from runtime.jobs.catalog import PLAIN, resolve
from runtime.policies.policy import Policy
from runtime.ppo.compiled import learner as learner_module
from runtime.ppo.compiled import ppo_update, torch_interop
from runtime.ppo.compiled.env_runner import FastRunner
from runtime.ppo.compiled.learner import COMPILED, FastLearner
from runtime.ppo.compiled.whole_episodes import WholeEpisodes
from runtime.ppo.rllib_config import (
    build_algorithm,
    count_env_runners,
    describe_path,
    fallback_reason,
    fit_to_resources,
)
from runtime.ppo.rollout import Rollout
from runtime.rllib.results import endless_steps, explains_nothing, finished_episodes, to_row
from runtime.settings.resolve import Source
from tests.toy_envs import Fragile, Smooth, Starts

pytestmark = pytest.mark.ray

SMALL = {
    "rl.training.config.num_envs_per_env_runner": 4,
    "rl.training.config.train_batch_size": 256,
    "rl.training.config.minibatch_size": 64,
    "rl.training.config.num_epochs": 3,
    "rl.training.config.num_env_runners": 0,
    "rl.training.config.seed": 1,
    "rl.training.config.normalize_rewards": False,
    "rl.training.config.model.fcnet_hiddens": [16, 16],
    "rl.training.config.model.free_log_std": False,
}
Build = Callable[..., PPO]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    from runtime.cluster.session import prepare_environment, ray_session

    prepare_environment()
    with ray_session(num_cpus=4, num_gpus=0):
        yield


def job(env: str, **settings: Any) -> tuple[Any, EnvSpec]:
    words = {"rl.training.env": env, **SMALL}
    words |= {f"rl.training.{name.replace('__', '.')}": value for name, value in settings.items()}
    config = resolve([Source("test", words)], extras={})
    return config, EnvSpec(config.env_id, config.algorithm.env_config, config.algorithm.horizon)


@pytest.fixture
def build() -> Iterator[Build]:
    built: list[PPO] = []

    def make(env: str = "CartPole-v1", **settings: Any) -> PPO:
        config, spec = job(env, **settings)
        built.append(build_algorithm(config, spec, PLAIN, Machines(2)))
        return built[-1]

    yield make
    for algorithm in built:
        algorithm.stop()
    built.clear()
    gc.collect()


def learner_of(algorithm: PPO) -> Any:
    return algorithm.learner_group._learner


def weights_of(algorithm: PPO) -> np.ndarray[Any, Any]:
    module = learner_of(algorithm).module[DEFAULT_MODULE_ID]
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()


def is_compiled(result: dict[str, Any]) -> bool:
    return bool(result["learners"][DEFAULT_MODULE_ID][COMPILED])


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"config__observation_filter": "NoFilter", "config__model__vf_share_layers": True}),
        ("CartPole-v1", {"config__kl_coeff": 0.3, "config__entropy_coeff": [[0, 0.1], [1000, 0.0]]}),
        ("CartPole-v1", {"config__lr": [[0, 1e-3], [1000, 1e-4]], "config__grad_clip": None}),
        ("CartPole-v1", {"config__minibatch_size": 50, "config__shuffle_batch_per_epoch": False}),
        ("Pendulum-v1", {}),
        ("Pendulum-v1", {"config__model__free_log_std": True, "config__horizon": 17}),
        ("RoboschoolReacher-v1", {}),
        ("RoboschoolHopper-v1", {"config__model__use_sde": True, "config__env_config": {"compat": "bullet"}}),
        ("RoboschoolHumanoidFlagrunHarder-v1", {"config__model__free_log_std": True}),
    ],
)
def test_what_is_covered_learns_with_compiled_gradients(build: Build, env: str, settings: dict[str, Any]) -> None:
    algorithm = build(env, **settings)
    before = weights_of(algorithm)
    for _ in range(3):
        result = algorithm.train()
        assert is_compiled(result)
    assert np.isfinite(weights_of(algorithm)).all()
    assert not np.array_equal(before, weights_of(algorithm))
    row = to_row(result, finished_episodes(result) or [(0.0, 1)])
    assert row["timesteps_total"] == 3 * 256
    assert {"total_loss", "policy_loss", "vf_loss", "vf_explained_var", "kl", "entropy", "cur_lr"} <= set(row)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"fast": False}, "rl.training.fast"),
        ({"config__model__use_lstm": True}, "use_lstm"),
        ({"config__gym_env_vectorize_mode": "async"}, "vectorize_mode"),
        ({"config__grad_clip_by": "value"}, "grad_clip_by"),
    ],
)
def test_what_is_not_covered_is_rllibs_own_and_says_why(build: Build, settings: dict[str, Any], why: str) -> None:
    config, _ = job("CartPole-v1", **settings)
    assert why in (fallback_reason(config, PLAIN) or "")
    algorithm = build(**settings)
    assert why in describe_path(algorithm, config, PLAIN)
    assert not isinstance(algorithm.env_runner, FastRunner)
    assert not isinstance(learner_of(algorithm), FastLearner)
    assert COMPILED not in algorithm.train()["learners"][DEFAULT_MODULE_ID]


def test_a_ray_that_was_not_tried_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.__version__", "2.99.0")
    assert "ray 2.99.0 is not one of the tested versions" in (fallback_reason(job("CartPole-v1")[0], PLAIN) or "")


@pytest.mark.parametrize("network", [{"fcnet_activation": "swish"}, {"fcnet_use_layernorm": True}])
def test_networks_that_are_not_compiled_are_sampled_on_arrays_all_the_same(build: Build, network: Any) -> None:
    settings = {f"config__model__{name}": value for name, value in network.items()}
    algorithm = build(**settings)
    assert "PyTorch's (it has a layer" in describe_path(algorithm, job("CartPole-v1", **settings)[0], PLAIN)
    before = weights_of(algorithm)
    result = algorithm.train()
    assert not is_compiled(result)
    assert result[NUM_ENV_STEPS_SAMPLED_LIFETIME] == 256
    assert not np.array_equal(before, weights_of(algorithm))


def test_pictures_and_several_choices_are_learned_from(build: Build) -> None:
    algorithm = build(
        "tests.toy_envs:Camera",
        config__observation_filter="NoFilter",
        config__lr=3e-3,
        config__model__conv_filters=[[4, 4, 4], [8, 4, 4]],
    )
    episodes = [episode for _ in range(8) for episode in finished_episodes(algorithm.train())]
    assert len(episodes) > 80
    assert np.mean([value for value, _ in episodes[-20:]]) > 15  # half of 20 by chance


def test_rows_count_every_episode_once(build: Build) -> None:
    algorithm = build("RoboschoolReacher-v1", config__horizon=10)
    for iteration in range(1, 4):
        result = algorithm.train()
        episodes = finished_episodes(result)
        # 64 steps of each of 4 environments, episodes of 10.
        assert len(episodes) == 4 * (64 * iteration // 10 - 64 * (iteration - 1) // 10)
        assert {length for _, length in episodes} == {10}


def test_equal_seeds_give_equal_weights_however_many_threads_there_are(build: Build) -> None:
    settings: dict[str, Any] = {"config__num_envs_per_env_runner": 8, "config__observation_filter": "MeanStdFilter"}
    found = []
    for num_cpus in (1, 2, 2):
        config, spec = job("RoboschoolHopper-v1", **settings)
        algorithm = build_algorithm(config, spec, PLAIN, Machines(num_cpus))
        for _ in range(2):
            algorithm.train()
        found.append(weights_of(algorithm))
        assert len(algorithm.env_runner.env.slices) == num_cpus
        algorithm.stop()
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], found[2])


def test_both_paths_restore_each_others_checkpoints(build: Build, tmp_path: Path) -> None:
    """Weights, Adam's state and the observation filter."""
    fast = build("Pendulum-v1")
    for _ in range(2):
        fast.train()
    path = fast.save_to_path(str(tmp_path / "fast"))
    stock = build("Pendulum-v1", fast=False)
    stock.restore_from_path(path)
    np.testing.assert_array_equal(weights_of(fast), weights_of(stock))
    states = [learner_of(a).get_optimizer(DEFAULT_MODULE_ID).state_dict()["state"] for a in (fast, stock)]
    assert states[0][0]["step"] == 2 * 3 * 4
    for number, mine in states[0].items():
        for name, tensor in mine.items():
            assert torch.equal(tensor, states[1][number][name])
    observation = np.array([[0.3, -0.2, 1.0]], np.float32)
    logits = [Policy.of_algorithm(a, gymnasium.spaces.Box(-2, 2, (1,))).logits(observation) for a in (fast, stock)]
    np.testing.assert_array_equal(logits[0], logits[1])
    stock.train()
    again = stock.save_to_path(str(tmp_path / "stock"))
    fast.restore_from_path(again)
    np.testing.assert_array_equal(weights_of(fast), weights_of(stock))
    assert is_compiled(fast.train())
    # Steps of Adam go on from those of RLlib's learner.
    step = learner_of(fast).get_optimizer(DEFAULT_MODULE_ID).state_dict()["state"][0]["step"]
    assert step > states[0][0]["step"] + 12


def log_std_of(algorithm: PPO) -> Any:
    return learner_of(algorithm).module[DEFAULT_MODULE_ID].unwrapped().pi.log_std.detach().numpy().copy()


def test_a_schedule_sets_the_log_standard_deviation_which_is_not_learned(build: Build, tmp_path: Path) -> None:
    schedule = [[0, -0.5], [1024, -1.5]]
    settings = {"config__model__free_log_std": True, "config__model__log_std_schedule": schedule}
    algorithm = build("Pendulum-v1", **settings)
    assert log_std_of(algorithm) == pytest.approx(-0.5)
    before = weights_of(algorithm)
    assert is_compiled(algorithm.train())
    assert log_std_of(algorithm) == pytest.approx(-0.75)  # 256 of 1,024 steps
    assert not np.allclose(weights_of(algorithm), before)
    runner = algorithm.env_runner.module.unwrapped()
    algorithm.train()  # the runner has the learner's weights from the iteration's start
    assert runner.pi.log_std.detach().numpy() == pytest.approx(log_std_of(algorithm))
    algorithm.save_to_path(tmp_path)
    restored = build("Pendulum-v1", **settings)
    restored.restore_from_path(tmp_path)
    for _ in range(3):
        restored.train()
    assert log_std_of(restored) == pytest.approx(-1.5)


def test_a_log_standard_deviation_can_be_constant(build: Build) -> None:
    algorithm = build("Pendulum-v1", config__model__free_log_std=True, config__model__log_std_schedule=0)
    algorithm.train()
    assert not log_std_of(algorithm).any()


def test_a_schedule_of_the_log_standard_deviation_needs_free_log_std_and_the_compiled_path() -> None:
    with pytest.raises(UserError, match=r"log_std_schedule.*model.free_log_std to be true beside it"):
        job("Pendulum-v1", config__model__log_std_schedule=-1.0)
    config, _ = job("Pendulum-v1", config__model__free_log_std=True, config__model__log_std_schedule=-1.0, fast=False)
    fitted, notes = fit_to_resources(config, PLAIN, gymnasium.spaces.Box(-1, 1), Machines(2))
    assert "config.model.log_std_schedule" not in fitted.values()
    said = "rl.training.config.model.log_std_schedule left out: learning by RLlib's own code (rl.training.fast)"
    assert said in notes


@pytest.mark.system
def test_runners_of_their_own_share_one_filter(build: Build) -> None:
    settings = {"config__num_env_runners": 2, "config__num_envs_per_env_runner": 2}
    algorithm = build(**settings, config__observation_filter="MeanStdFilter")
    for _ in range(2):
        result = algorithm.train()
    assert is_compiled(result)
    assert result[NUM_ENV_STEPS_SAMPLED_LIFETIME] == 512
    counts = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner.observation_stats().num_pushes, local_env_runner=False
    )
    assert counts == [512, 512]


@pytest.mark.parametrize("words", [{}, {"num_episodes": 8}])
@pytest.mark.parametrize("settings", [{}, {"fast": False}, {"config__batch_mode": "complete_episodes"}])
def test_no_two_episodes_start_alike(build: Build, settings: dict[str, Any], words: dict[str, int]) -> None:
    """RLlib seeds its environments again after each `sample` of whole episodes, which complete_episodes asks for."""
    found = []
    for _ in range(2):
        Starts.seen.clear()
        runner = build("tests.toy_envs:Starts", **settings).env_runner
        for _ in range(3):
            runner.sample(**words)
        found.append(list(Starts.seen))
    assert len(found[0]) >= 12
    assert len(set(found[0])) == len(found[0])
    assert found[0] == found[1]  # and equal seeds give equal ones


def test_complete_episodes_are_batches_of_at_least_their_size_that_cut_none(build: Build) -> None:
    runner = build("CartPole-v1", config__batch_mode="complete_episodes", config__train_batch_size=200).env_runner
    assert isinstance(runner, FastRunner)
    lengths = []
    for _ in range(3):
        (rollout,) = runner.sample()
        assert len(rollout) >= 200
        ends = rollout.terminated | rollout.truncated
        assert ends[-1].all()
        lengths += np.diff([-1, *np.flatnonzero(ends)]).tolist()
        starts = rollout.observations[np.flatnonzero(ends)[:-1] + 1, 0]
        assert (np.abs(starts) <= 0.05).all()  # where CartPole begins
        row = runner.get_metrics()
        assert row["num_env_steps_sampled"].peek() == len(rollout)
    assert len(set(lengths)) > 3


@pytest.mark.parametrize("num_envs", [1, 5])
def test_whole_episodes_lose_and_reorder_no_step(num_envs: int) -> None:
    rng = np.random.default_rng(0)
    kept = WholeEpisodes()
    episodes: dict[int, list[float]] = {env: [] for env in range(num_envs)}
    begun, given = 0, 0
    for _ in range(20):
        rollout = Rollout.empty(7, num_envs, (1,), 1, 2)
        rollout.rewards[:] = begun + np.arange(7)[:, None]  # the number of the step
        rollout.observations[..., 0] = np.arange(num_envs)
        rollout.terminated[:] = rng.random((7, num_envs)) < 0.1
        rollout.truncated[:] = ~rollout.terminated & (rng.random((7, num_envs)) < 0.1)
        begun += 7
        kept.add(rollout)
        count = kept.count_steps()
        if not count:
            continue
        taken = kept.take()
        assert len(taken) == count
        assert taken.rewards.shape == (count, 1)
        assert (taken.terminated | taken.truncated)[-1, 0]
        for env in range(num_envs):
            episodes[env] += taken.rewards[taken.observations[..., 0] == env].tolist()
        given += count
    assert all(steps == list(range(len(steps))) for steps in episodes.values())
    assert given > 15 * 7 * num_envs


@pytest.mark.parametrize("batch_mode", ["truncate_episodes", "complete_episodes"])
@pytest.mark.parametrize("fast", [True, False])
def test_without_gae_value_targets_are_discounted_returns(build: Build, fast: bool, batch_mode: str) -> None:
    """Matches compute_advantages(use_gae=False, use_critic=True) of Ray 0.8; rewards are the actions taken."""
    settings = {
        "config__use_gae": False,
        "config__lambda_": 0.5,
        "config__gamma": 0.9,
        "config__batch_mode": batch_mode,
    }
    algorithm = build("tests.toy_envs:NoFrames", fast=fast, **settings)
    learner = learner_of(algorithm)
    sampled = algorithm.env_runner.sample()
    if fast:
        batch = ppo_update.make_train_batch(
            sampled, learner._estimate_values, gamma=learner.config.gamma, lambda_=learner.config.lambda_
        )
        steps = 10 if batch_mode == "truncate_episodes" else None  # of each row, those of a whole episode
        targets = batch.value_targets.reshape(sampled[0].rewards.shape).T[:, :steps].reshape(-1)
        rewards = sampled[0].rewards.T[:, :steps].reshape(-1)
    else:
        whole = [episode for episode in sampled if episode.is_done]
        batch = learner._learner_connector(
            rl_module=learner.module, batch={}, episodes=whole, shared_data={}, metrics=learner.metrics
        )
        targets = batch[DEFAULT_MODULE_ID][Postprocessing.VALUE_TARGETS].numpy()
        # RLlib lengthens each episode by a step for the bootstrap value.
        targets = np.concatenate([part[:10] for part in np.split(targets, len(whole))])
        rewards = np.concatenate([episode.get_rewards()[:10] for episode in whole])
    expected = np.zeros(len(rewards))
    for t in reversed(range(len(rewards))):
        expected[t] = rewards[t] + (0.9 * expected[t + 1] if t % 10 < 9 else 0.0)
    assert len(rewards) >= 40
    np.testing.assert_allclose(targets, expected, atol=1e-5)


def test_environments_that_are_made_again_have_starts_of_their_own(build: Build) -> None:
    runner = build("tests.toy_envs:Starts", fast=False).env_runner
    Starts.seen.clear()
    runner.sample()
    runner.make_env()  # as RLlib does when one has raised
    runner.sample()
    assert len(set(Starts.seen)) == len(Starts.seen)


@pytest.mark.system
def test_a_killed_runner_is_replaced_and_no_runner_starts_where_another_did(build: Build) -> None:
    settings = {"config__num_env_runners": 2, "config__num_envs_per_env_runner": 2}
    algorithm = build("tests.toy_envs:Starts", **settings)

    def starts() -> list[list[float]]:
        found: list[list[float]] = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: list(Starts.seen), local_env_runner=False
        )
        return found

    algorithm.train()
    before = starts()
    import ray

    ray.kill(algorithm.env_runner_group._worker_manager.actors()[1], no_restart=False)
    steps = [0]
    deadline = time.monotonic() + 120
    while algorithm.env_runner_group.num_healthy_remote_workers() < 2 or len(steps) < 4:
        assert time.monotonic() < deadline
        steps.append(algorithm.train()[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        time.sleep(0.1)
    assert steps == sorted(set(steps))
    after = starts()
    assert min(map(len, after)) > 0
    seen = [*before[0], *itertools.chain.from_iterable(after)]
    assert len(set(seen)) == len(seen)


def test_an_environment_that_raises_is_made_anew_where_that_is_asked_for(build: Build) -> None:
    Fragile.made = 0
    algorithm = build("tests.toy_envs:Fragile", config__restart_failed_sub_environments=True)
    result = algorithm.train()
    assert result[NUM_ENV_STEPS_SAMPLED_LIFETIME] == 256
    assert Fragile.made == 8
    assert sorted({length for _, length in finished_episodes(result)}) == [4, 8]
    Fragile.made = 0
    with pytest.raises(EnvironmentRaisedError, match=r"Fragile\.step raised ConnectionError: gone at step 5, action"):
        build("tests.toy_envs:Fragile").train()


def test_rllibs_evaluation_plays_so_many_episodes(build: Build) -> None:
    runner = build().env_runner
    rollouts = runner.sample(num_episodes=5, explore=False)
    assert all(isinstance(one, Rollout) for one in rollouts)
    assert runner.get_metrics()["num_episodes"].peek() >= 5
    greedy = rollouts[0]
    np.testing.assert_array_equal(greedy.actions[..., 0], greedy.action_distribution_inputs.argmax(axis=-1))


def test_broken_kernels_are_noticed_and_training_learns_on(
    build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Chaos: the gradient's sign turns in the third update; from the fourth on, RLlib's learner does all."""
    real = ppo_update.loss_gradient
    calls = []

    def turned(*args: Any) -> None:
        real(*args)
        calls.append(0)
        if len(calls) > 5:  # three before the first update, and one in each of two
            args[-1][:] *= -1

    algorithm = build(config__train_batch_size=1024, config__num_epochs=6, config__lr=1e-3)
    monkeypatch.setattr(torch_interop, "loss_gradient", turned)
    found = []
    with caplog.at_level(logging.ERROR, logger="runtime.ppo.compiled.learner"):
        for _ in range(9):
            found.append(algorithm.train())
    assert [is_compiled(result) for result in found] == [True, True, False] + [False] * 6
    assert "gradients are RLlib's (compiled ones differ by 2 of their norm) from now on" in caplog.text
    returns = [np.mean([value for value, _ in finished_episodes(result)]) for result in found]
    assert np.mean(returns[-3:]) > 2 * returns[0]


def test_kernels_that_are_wrong_from_the_start_are_never_used(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = build()
    monkeypatch.setattr(torch_interop, "loss_gradient", lambda *args: args[-1].fill(1.0))
    monkeypatch.setattr(torch_interop, "update_on_minibatches", lambda *args: pytest.fail("a wrong kernel was used"))
    assert not is_compiled(algorithm.train())
    assert "RLlib's (compiled ones differ" in describe_path(algorithm, job("CartPole-v1")[0], PLAIN)


def test_the_scale_of_rewards_is_in_checkpoints(build: Build, tmp_path: Path) -> None:
    settings = {"config__normalize_rewards": True, "config__gamma": 0.9}
    algorithm = build(**settings)
    algorithm.train()
    state = learner_of(algorithm)._return_scale.state()
    assert state[0] == 256
    assert state[1] > 1
    algorithm.save_to_path(tmp_path)
    restored = build(**settings)
    assert learner_of(restored)._return_scale.state()[0] == 0
    restored.restore_from_path(tmp_path)
    assert learner_of(restored)._return_scale.state() == pytest.approx(state)
    result = restored.train()
    assert np.mean([value for value, _ in finished_episodes(result)]) > 5  # returns are reported as the env pays them


def test_rllibs_own_code_learns_without_the_scale_and_says_so() -> None:
    config, _ = job("CartPole-v1", config__normalize_rewards=True, fast=False)
    fitted, notes = fit_to_resources(config, PLAIN, gymnasium.spaces.Discrete(2), Machines(2))
    assert not fitted.values()["config.normalize_rewards"]
    said = "rl.training.config.normalize_rewards left out: learning by RLlib's own code (rl.training.fast)"
    assert said in notes


@pytest.mark.system
def test_tune_runs_it(tmp_path: Path) -> None:
    from ray import tune

    from runtime.ppo.rllib_config import rllib_config

    config = rllib_config(*job("CartPole-v1"), PLAIN, Machines(1))
    config.training(lr=tune.grid_search([1e-3, 1e-4]))
    results = tune.Tuner(
        PPO,
        param_space=config,
        run_config=tune.RunConfig(
            stop={"training_iteration": 2},
            storage_path=str(tmp_path),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    ).fit()
    assert not results.errors
    assert len(results) == 2
    for result in results:
        assert result.metrics[NUM_ENV_STEPS_SAMPLED_LIFETIME] == 512
        assert result.metrics["learners"][DEFAULT_MODULE_ID][COMPILED] == 1
        assert result.checkpoint is not None


@pytest.mark.parametrize("is_scaled", [True, False])
def test_environments_get_actions_of_their_own_within_bounds(build: Build, is_scaled: bool) -> None:
    Smooth.changes.clear()
    Smooth.taken.clear()
    build("tests.toy_envs:Smooth", config__normalize_actions=is_scaled, config__clip_actions=not is_scaled).train()
    assert np.mean(Smooth.changes) > 0.5
    assert min(Smooth.taken) == -2
    assert max(Smooth.taken) <= 3


def test_an_environment_that_seeds_numpy_does_not_repeat_the_exploration(build: Build) -> None:
    runner = build("tests.toy_envs:Smooth").env_runner
    first, second = (runner.sample()[0].actions for _ in range(2))
    assert np.abs(first - second).mean() > 0.1


def test_pictures_are_filtered_pixel_by_pixel(build: Build) -> None:
    algorithm = build(
        "tests.toy_envs:Camera",
        config__observation_filter="MeanStdFilter",
        config__model__conv_filters=[[4, 4, 4], [8, 4, 4]],
    )
    algorithm.train()
    stats = algorithm.env_runner.observation_stats()
    assert stats.num_pushes == 256
    assert stats.mean.shape == (16, 16, 1)
    assert 0.3 < stats.mean[:, :8].mean() < 0.7


def test_the_first_step_is_filtered_by_what_it_starts_from(build: Build) -> None:
    runner = build("RoboschoolReacher-v1", config__observation_filter="MeanStdFilter").env_runner
    first = runner.sample()[0].observations[0]
    assert np.abs(first).max() < 3  # not divided by next to nothing


def test_a_step_of_the_clip_is_no_reason_to_fall_back(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """One minibatch whose gradient differs, as where rounding puts a row on the other side of the clip."""
    algorithm = build()
    real = ppo_update.loss_gradient
    calls = []

    def now_and_then(*args: Any) -> None:
        real(*args)
        calls.append(0)
        if len(calls) % 4 == 0:
            args[-1][:] *= 1.01

    monkeypatch.setattr(torch_interop, "loss_gradient", now_and_then)
    assert all(is_compiled(algorithm.train()) for _ in range(6))
    assert len(calls) > 8


def test_a_row_at_the_edge_of_the_clip_is_no_reason_to_fall_back(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """It differs in each minibatch that has it, of which there is one in every epoch."""
    algorithm = build(config__minibatch_size=128, config__num_epochs=9)
    real = ppo_update.loss_gradient
    edges = []

    def with_an_edge(network: Any, setting: Any, parameters: Any, batch: Any, *buffers: Any) -> None:
        real(network, setting, parameters, batch, *buffers)
        if (batch.advantages > 1.5).any():
            edges.append(0)
            buffers[-1][:] *= 1.01

    monkeypatch.setattr(torch_interop, "loss_gradient", with_an_edge)
    real_make = ppo_update.make_train_batch

    def one_edge(*args: Any, **kwargs: Any) -> Any:
        batch = real_make(*args, **kwargs)
        advantages = np.minimum(batch.advantages, 1.0)
        advantages[7] = 2.0
        return batch._replace(advantages=advantages)

    monkeypatch.setattr(learner_module, "make_train_batch", one_edge)
    assert all(is_compiled(algorithm.train()) for _ in range(8))
    assert len(edges) > 8


def test_the_log_std_schedule_holds_where_rllib_takes_over(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = [[0, -0.5], [1024, -1.5]]
    settings = {"config__model__free_log_std": True, "config__model__log_std_schedule": schedule}
    algorithm = build("Pendulum-v1", config__lr=0.01, **settings)
    algorithm.train()
    monkeypatch.setattr(torch_interop, "loss_gradient", lambda *args: args[-1].fill(1.0))
    results = [algorithm.train() for _ in range(3)]
    assert not is_compiled(results[-1])
    log_std = learner_of(algorithm).module[DEFAULT_MODULE_ID].pi.log_std
    np.testing.assert_allclose(log_std.detach().numpy(), -1.5, rtol=1e-6)


def test_robots_without_compiled_rules_keep_runners_of_their_own() -> None:
    config = resolve([Source("test", {"preset": "reacher"})], extras={})
    harder = EnvSpec("RoboschoolHumanoidFlagrunHarder-v1", {"compat": "bullet"})
    assert count_env_runners(config, Machines(8), harder) == 7
    assert count_env_runners(config, Machines(8), EnvSpec("RoboschoolHumanoidFlagrunHarder-v1")) == 0
    assert count_env_runners(config, Machines(8), EnvSpec("Pendulum-v1")) == 7


@pytest.mark.parametrize("env", ["FrozenLake-v1", "tests.toy_envs:Grid"])
def test_observations_of_other_kinds_are_learned_from(build: Build, env: str) -> None:
    assert build(env).train()[NUM_ENV_STEPS_SAMPLED_LIFETIME] == 256


def test_a_reward_that_is_no_number_is_told(build: Build) -> None:
    algorithm = build("tests.toy_envs:NanReward")
    with pytest.raises(EnvironmentFaultError, match=r"reward of tests\.toy_envs:NanReward: got nan"):
        _ = [algorithm.train() for _ in range(9)]


def test_what_a_cut_episode_ends_with_is_filtered_too(build: Build) -> None:
    runner = build("Pendulum-v1", config__horizon=64, config__observation_filter="MeanStdFilter").env_runner
    (one,) = runner.sample()  # of 64 steps, so that all are cut at the last
    assert one.truncated[-1].all()
    stats = runner.observation_stats()
    raw = runner.env.final_observations
    expected = np.clip((raw - stats.mean) / (stats.std + 1e-8), -10, 10)
    np.testing.assert_allclose(one.final_observations[-1], expected, rtol=1e-4, atol=1e-5)


def test_ten_iterations_without_any_explained_variance_are_noticed() -> None:
    def rows(*values: float) -> list[dict[str, float]]:
        return [{"vf_explained_var": value} for value in values]

    assert explains_nothing(rows(*[0.9], *[0.001, -0.02] * 5))
    assert not explains_nothing(rows(*[0.001] * 9))
    assert not explains_nothing(rows(*[0.001] * 9, 0.2))
    assert not explains_nothing([{}] * 20)


def test_episodes_that_end_no_longer_are_noticed() -> None:
    def rows(*ended: int, steps: int = 2048, **usual: float) -> list[dict[str, float]]:
        return [
            {"episodes_total": episodes, "timesteps_total": steps * (n + 1), **usual}
            for n, episodes in enumerate(ended)
        ]

    assert endless_steps(rows(5, *[9] * 6, episode_len_mean=90.0), 8) == 5 * 2048 / 8
    assert endless_steps(rows(*[0] * 6), 8) == 5 * 2048 / 8
    assert endless_steps(rows(5, *[9] * 5, episode_len_mean=90.0), 8) == 0  # for four iterations
    assert endless_steps(rows(*[9] * 6, 10, episode_len_mean=90.0), 8) == 0
    assert endless_steps(rows(*[9] * 20, episode_len_mean=2000.0), 8) == 0  # which episodes of 2,000 steps may take
    assert endless_steps(rows(*[0] * 20, steps=400), 8) == 0
