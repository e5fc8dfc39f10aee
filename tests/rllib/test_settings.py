from __future__ import annotations

from typing import Any

import pytest
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.sac import SACConfig

from runtime.cluster.machines import Machines
from runtime.environments.spec import EnvSpec
from runtime.errors import UserError
from runtime.jobs.catalog import PLAIN, resolve
from runtime.rllib.algorithm import ALGORITHMS
from runtime.rllib.algorithm_settings import DQNSettings, SACSettings
from runtime.rllib.stock_builder import rllib_config
from runtime.settings.resolve import Source
from runtime.settings.schema import JobConfig

_CONFIGS = {"DQN": DQNConfig, "SAC": SACConfig, "IMPALA": IMPALAConfig, "APPO": APPOConfig}
# RLlib's stand for "by the GPUs", and "auto".
_WORKED_OUT = {"num_cpus_per_learner", "target_entropy", "train_batch_size"}
# RLlib's of these names are placeholders: what counts is in its replay_buffer_config.
_BUFFER = {"buffer_size", "prioritized_replay", "prioritized_replay_alpha", "prioritized_replay_beta"}
CARTPOLE = {"rl.training.env": "CartPole-v1"}


def from_words(**words: Any) -> JobConfig:
    below = {f"rl.training.{name.replace('__', '.')}": value for name, value in words.items()}
    return resolve([Source("the command line", {**CARTPOLE, **below})], extras={})


@pytest.mark.parametrize(
    ("run", "name"), [(one.name, name) for one in ALGORITHMS for name in one.settings.model_fields if name != "model"]
)
def test_a_default_is_rllibs_unless_it_is_listed_as_ours(run: str, name: str) -> None:
    rllib = _CONFIGS[run]()
    settings = next(one.settings for one in ALGORITHMS if one.name == run)
    if hasattr(rllib, name) and name not in (*settings.OURS, *_WORKED_OUT, *_BUFFER, "seed", "env_config"):
        theirs = getattr(rllib, name)
        ours = getattr(settings(), name)
        is_schedule = isinstance(theirs, list)
        assert ours == ([list(point) for point in theirs] if is_schedule else theirs)


@pytest.mark.parametrize("run", _CONFIGS)
def test_the_batch_of_a_learner_is_rllibs(run: str) -> None:
    settings = next(one.settings for one in ALGORITHMS if one.name == run)
    assert getattr(settings(), "train_batch_size") == _CONFIGS[run]().train_batch_size_per_learner  # noqa: B009


@pytest.mark.parametrize("run", ["DQN", "SAC"])
def test_the_replay_buffer_is_rllibs(run: str) -> None:
    theirs = _CONFIGS[run]().replay_buffer_config
    ours = {"DQN": DQNSettings, "SAC": SACSettings}[run]()
    assert theirs["type"] == "PrioritizedEpisodeReplayBuffer"
    assert ours.prioritized_replay
    found = (ours.buffer_size, ours.prioritized_replay_alpha, ours.prioritized_replay_beta)
    assert found == (theirs["capacity"], theirs["alpha"], theirs["beta"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(("APEX", "DQN"), ("SimpleQ", "DQN"), ("A2C", "PPO"), ("A3C", "PPO"), ("PG", "PPO")),
        *(("DDPG", "SAC"), ("TD3", "SAC"), ("APEX_DDPG", "SAC")),
    ],
)
def test_an_old_algorithm_is_todays_with_a_note_that_says_why(old: str, new: str) -> None:
    config = from_words(run=old)
    assert config.run == new
    (note,) = (note for note in config.notes if note.startswith(f"rl.training.run={old.upper()} is {new} today, "))
    assert note.split(" today, ")[1].startswith(("which ", "with "))


@pytest.mark.parametrize(
    ("old", "instead"),
    [("ES", "PPO trains the same environments"), ("ARS", "PPO trains the same environments")],
)
def test_an_algorithm_that_is_gone_is_refused_with_what_to_use(old: str, instead: str) -> None:
    with pytest.raises(UserError, match=f"run: got '{old}' .*{instead}"):
        from_words(run=old)


def test_a_misspelled_algorithm_is_answered_with_the_closest_one() -> None:
    with pytest.raises(UserError, match=r"got 'IMPALLA' .*expected one of PPO, DQN, .* Did you mean 'IMPALA'\?"):
        from_words(run="IMPALLA")


def test_the_settings_of_another_algorithm_are_all_refused() -> None:
    with pytest.raises(UserError) as refused:
        from_words(run="DQN", config__num_epochs=3, config__actor_lr=0.1, config__model__free_log_std=True)
    for name in ("num_epochs", "actor_lr", "model.free_log_std"):
        assert f"rl.training.config.{name}: got" in str(refused.value)
    assert str(refused.value).count("expected a setting of DQN") == 3


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            {"config__buffer_size": 10},
            r"num_steps_sampled_before_learning_starts \(1000\) of at most buffer_size \(10\)",
        ),
        ({"config__v_min": 20}, r"v_min \(20\) below v_max \(10\)"),
        ({"config__n_step": 3, "config__rollout_fragment_length": 2}, "at least n_step, which is 3"),
        ({"config__epsilon": 2}, "between 0 and 1"),
    ],
)
def test_rules_between_settings_are_checked(words: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        from_words(run="DQN", stop__training_iteration=1, **words)


def test_the_names_of_rllibs_replay_buffer_are_todays() -> None:
    tree = {"type": "EpisodeReplayBuffer", "capacity": 2000, "alpha": 0.5}
    settings = DQNSettings.of(from_words(run="DQN", config__replay_buffer_config=tree))
    assert (settings.buffer_size, settings.prioritized_replay, settings.prioritized_replay_alpha) == (2000, False, 0.5)


def test_an_algorithm_takes_its_own_preset_of_the_environment() -> None:
    assert from_words(run="DQN").preset == "cartpole-dqn"
    assert from_words(run="IMPALA").preset is None
    assert from_words().preset == "cartpole"


def test_a_preset_of_another_algorithm_is_one_problem() -> None:
    with pytest.raises(UserError, match=r"run: got 'DQN' .* expected the algorithm of the preset cartpole") as refused:
        resolve([Source("the command line", {"preset": "cartpole", "rl.training.run": "DQN"})], extras={})
    assert "problems" not in str(refused.value)


@pytest.mark.parametrize(("env", "takes"), [("DeepRacer-v0", "PPO or SAC"), ("Unity-v0", "PPO")])
def test_a_family_names_the_algorithms_that_train_in_it(env: str, takes: str) -> None:
    from envs import UNITY_ID

    env = UNITY_ID if env.startswith("Unity") else env
    with pytest.raises(UserError, match=f"run: got 'DQN' .*expected {takes}, which trains in {env}"):
        from_words(run="DQN", env=env)


def test_a_job_that_resumes_fills_its_replay_buffer_before_it_learns() -> None:
    config = from_words(run="DQN", config__num_steps_sampled_before_learning_starts=300)
    env = EnvSpec("CartPole-v1")
    for steps in (0, 5000):
        rllib = rllib_config(config, env, PLAIN, Machines(cpus=2), steps=steps)
        assert rllib.num_steps_sampled_before_learning_starts == steps + 300


@pytest.mark.parametrize("run", ["DQN", "IMPALA"])
def test_several_hosts_sample_on_every_cpu_that_is_free(run: str) -> None:
    machines = Machines(cpus=6, hosts=2, cpus_elsewhere=(4,), reserved_cpus=1)
    config = from_words(run=run)
    assert rllib_config(config, EnvSpec("CartPole-v1"), PLAIN, machines).num_env_runners == 5
    assert rllib_config(config, EnvSpec("CartPole-v1"), PLAIN, Machines(cpus=6)).num_env_runners == 0
