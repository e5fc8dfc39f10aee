"""Sizes that no machine has room for are refused from the settings alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from runtime.container.hardware import measure_memory
from runtime.container.layout import Container
from runtime.environments.spec import EnvSpec
from runtime.errors import UserError
from runtime.jobs.catalog import resolve
from runtime.jobs.training import Request, resolve_config
from runtime.ppo.compiled.sync_envs import count_env_bytes
from runtime.ppo.settings import PPOSettings
from runtime.settings.resolve import Source
from runtime.settings.schema import JobConfig
from runtime.settings.sizes import Room, check_batch, check_sizes

SMALL = Room(memory_bytes=4 * 2**30, cpus=2)


def settle(room: Room = SMALL, **settings: Any) -> JobConfig:
    words = {f"rl.training.{name.replace('__', '.')}": value for name, value in settings.items()}
    source = Source("the command line", {"rl.training.env": "CartPole-v1", **words})
    return resolve([source], extras={}, check_sizes=partial(check_sizes, room=room))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config__train_batch_size", 10**12),
        ("config__num_envs_per_env_runner", 10**9),
        ("config__rollout_fragment_length", 10**12),
        ("config__num_epochs", 10**9),
        ("config__model__fcnet_hiddens", [10**9, 10**9]),
        ("config__model__fcnet_hiddens", [10**10]),
        ("config__model__head_fcnet_hiddens", [10**6, 10**6]),
        ("config__model__lstm_cell_size", 10**6),
        ("config__model__max_seq_len", 10**12),
        ("config__model__conv_filters", [[10**6, [100, 100], 1]]),
    ],
)
def test_what_does_not_fit_into_the_memory_is_refused(name: str, value: Any) -> None:
    where = f"rl.training.{name.replace('__', '.')}"
    with pytest.raises(UserError, match=rf"^{where}: got .* the memory of 4 GiB; this takes .* GiB at least\.$"):
        settle(**{name: value})


def test_all_of_them_are_listed_at_once_beside_other_problems() -> None:
    with pytest.raises(UserError, match=r"^4 problems") as caught:
        settle(
            config__train_batch_size=10**15,
            config__num_envs_per_env_runner=10**12,
            config__model__fcnet_hiddens=[10**9, 10**9],
            config__gamma=7,
        )
    assert "got 1000000000000000 from the command line" in str(caught.value)


def test_of_the_batch_and_its_epochs_the_larger_number_is_named() -> None:
    with pytest.raises(UserError, match=r"^rl\.training\.config\.train_batch_size: got 100000000 .* takes 7\.45 GiB"):
        settle(config__train_batch_size=10**8, config__num_epochs=10)


def test_numbers_that_no_array_can_count_to_are_refused() -> None:
    with pytest.raises(UserError, match=r"horizon: got 1000000000000000000000 .* of at most 64 bits\."):
        settle(config__horizon=10**21)


def test_large_jobs_that_fit_are_left_alone() -> None:
    large: dict[str, Any] = {"config__train_batch_size": 10**7, "config__num_epochs": 30}
    large["config__num_envs_per_env_runner"] = 4096
    config = settle(**large, config__model__fcnet_hiddens=[4096, 4096], config__num_env_runners=10_000)
    assert PPOSettings.of(config).train_batch_size == 10**7


def test_env_runners_are_counted_as_far_as_cpus_let_them_start() -> None:
    with pytest.raises(UserError, match=r"num_env_runners: got 100000000 .* the memory of 4 GiB"):
        settle(config__num_env_runners=10**8, config__num_cpus_per_env_runner=0)
    settle(Room(4 * 2**30, cpus=16, hosts=100), config__num_env_runners=1600)
    with pytest.raises(UserError, match=r"num_env_runners: got 1700 .* the memory of 400 GiB"):
        settle(Room(4 * 2**30, cpus=17, hosts=100), config__num_env_runners=1700, config__num_cpus_per_env_runner=0.5)


def test_a_batch_of_pictures_takes_what_its_pictures_take() -> None:
    config = settle(config__train_batch_size=10**6)
    sizes = {"observation_size": 84 * 84 * 3, "action_size": 1}
    with pytest.raises(UserError, match=r"train_batch_size: got 1000000 .* this takes 78\.9 GiB at least"):
        check_batch(config, **sizes, room=SMALL)
    check_batch(config, **sizes, room=Room(80 * 2**30))


def test_a_replay_buffer_of_pictures_takes_what_its_pictures_take() -> None:
    sizes = {"observation_size": 160 * 120, "action_size": 2}
    settings: dict[str, Any] = {"run": "SAC", "env": "MountainCarContinuous-v0", "config__buffer_size": 500_000}
    config = settle(**settings)
    message = r"config\.buffer_size: got 500000 .* memory of 4 GiB; this takes {} GiB at least\.$"
    with pytest.raises(UserError, match=message.format(r"8\.95")):  # 19,200 bytes and 6 floats a step
        check_batch(config, **sizes, room=SMALL, stored_bytes=1)
    with pytest.raises(UserError, match=message.format(r"35\.8")):
        check_batch(config, **sizes, room=SMALL)
    check_batch(config, **sizes, room=Room(9 * 2**30), stored_bytes=1)
    check_batch(settle(**settings, stop__timesteps_total=1000), **sizes, room=SMALL)  # it never fills


def test_worlds_of_bullet_take_what_they_take() -> None:
    robots = EnvSpec("RoboschoolHumanoid-v1")
    assert count_env_bytes(EnvSpec("CartPole-v1")) == 0
    sizes = {"observation_size": 44, "action_size": 17}
    each = count_env_bytes(robots)
    config = settle(config__num_envs_per_env_runner=4096)
    with pytest.raises(UserError, match=r"num_envs_per_env_runner: got 4096 .* of 2 GiB; this takes 111 GiB at least"):
        check_batch(config, **sizes, room=Room(2 * 2**30), env_bytes=each)
    check_batch(config, **sizes, room=Room(120 * 2**30), env_bytes=each)


def test_a_job_is_measured_against_its_own_container() -> None:
    words = {"rl.training.env": "CartPole-v1", "rl.training.config.train_batch_size": "1000000000"}
    container = Container(memory_bytes=measure_memory())
    assert 2**28 < container.memory_bytes < 2**50
    resolve_config(Container(memory_bytes=2**50), Request(words))
    with pytest.raises(UserError, match=r"train_batch_size: got 1000000000 from the command line; expected what fits"):
        resolve_config(Container(memory_bytes=2**33), Request(words))
