"""Scenes behind Gymnasium's interfaces: every agent has a row, and players may fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401  # registers the id
from envs.unity.player import PlayerError, SceneError
from envs.unity.vector_env import UnityVectorEnv
from tests.unity_stand_in import build_player

pytestmark = pytest.mark.filterwarnings(
    # mlagents-envs 0.28.0 compares versions with distutils, which Python 3.11 still has.
    "ignore:distutils Version classes are deprecated:DeprecationWarning",
    "ignore:The distutils package is deprecated:DeprecationWarning",
)
Opener = Callable[..., UnityVectorEnv]


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    """Opens scenes of the stand-in as vector environments, and closes them."""
    opened: list[UnityVectorEnv] = []

    def begin(scene: str = "Basic", *, players: int = 1, mode: str = "", **settings: Any) -> UnityVectorEnv:
        path = build_player(tmp_path / "players", scene, mode=mode)
        opened.append(UnityVectorEnv(players, file_name=path, log_folder=tmp_path / "logs", **settings))
        return opened[-1]

    yield begin
    for env in opened:
        env.close()


@pytest.fixture
def one(tmp_path: Path) -> Any:
    """Makes scenes of the stand-in with `gymnasium.make`, and closes them."""
    made: list[gymnasium.Env[Any, Any]] = []

    def begin(scene: str = "Basic", *, mode: str = "", **settings: Any) -> gymnasium.Env[Any, Any]:
        path = build_player(tmp_path / "players", scene, mode=mode)
        made.append(gymnasium.make("Unity-v0", file_name=path, log_folder=tmp_path / "logs", **settings))
        return made[-1]

    yield begin
    for env in made:
        env.close()


# Gymnasium's own advice about spaces, which are the scene's here.
@pytest.mark.filterwarnings("ignore:.*WARN.*:UserWarning")
def test_gymnasium_finds_nothing_wrong(one: Any) -> None:
    check_env(one().unwrapped, skip_render_check=True)


def test_seven_steps_to_the_right_pay_the_best_return_of_basic(one: Any) -> None:
    env = one()
    assert env.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (20,), np.float32)
    assert env.action_space == gymnasium.spaces.Discrete(3)
    for _ in range(2):  # the next episode has begun by itself
        seen, _ = env.reset()
        assert np.flatnonzero(seen).tolist() == [10]
        rewards = []
        for place in range(11, 18):
            seen, reward, terminated, truncated, _ = env.step(2)
            rewards.append(reward)
            assert np.flatnonzero(seen).tolist() == [place]
        assert (terminated, truncated) == (True, False)
        assert sum(rewards) == pytest.approx(0.93)


def test_a_reset_amid_an_episode_begins_another(one: Any) -> None:
    env = one()
    env.reset()
    env.step(2)
    seen, _ = env.reset()
    assert np.flatnonzero(seen).tolist() == [10]


def test_the_picture_is_what_is_rendered(one: Any) -> None:
    env = one("GridWorld", render_mode="rgb_array")
    seen, info = env.reset(seed=1)
    frame = env.render()
    assert frame.shape == (240, 240, 3)
    np.testing.assert_array_equal(frame[::6, ::6], (seen * 255).astype(np.uint8))
    assert info["action_mask"].shape == (5,)
    assert set(map(tuple, np.unique(seen.reshape(-1, 3), axis=0).tolist())) == {
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
    }


def test_a_scene_with_many_agents_is_no_single_environment(one: Any) -> None:
    with pytest.raises(
        ValueError, match=r"got a scene with 12 agents; expected one\. Make it with gymnasium\.make_vec"
    ):
        one("3DBall")


def test_make_vec_gives_every_agent_of_every_player_a_row(tmp_path: Path) -> None:
    path = build_player(tmp_path, "3DBall")
    env = gymnasium.make_vec("Unity-v0", num_envs=2, vectorization_mode="vector_entry_point", file_name=path)
    try:
        observations, info = env.reset()
        assert observations.shape == (24, 8)
        assert info["acting"].all()
        assert not np.array_equal(observations[:12], observations[12:])  # players have seeds of their own
        observations, rewards, *_ = env.step(np.zeros((24, 2), np.float32))
        assert rewards.tolist() == [pytest.approx(0.1)] * 24
    finally:
        env.close()


def test_twelve_balls_fall_and_begin_another_episode_in_the_same_step(rows: Opener) -> None:
    env = rows("3DBall", seed=3)
    env.reset()
    fallen = 0
    for _ in range(60):
        observations, rewards, terminated, truncated, info = env.step(np.ones((12, 2), np.float32))
        assert info["acting"].all()
        assert info["stepped"].all()
        assert not truncated.any()
        np.testing.assert_array_equal(rewards, np.where(terminated, -1.0, np.float32(0.1)))
        if terminated.any():
            fallen += int(terminated.sum())
            last, first = info["final_obs"][terminated], observations[terminated]
            assert (np.abs(last[:, [2, 4]]).max(axis=1) > 2.5).all()
            assert (np.abs(first[:, [2, 4]]).max(axis=1) <= 1.5).all()
            np.testing.assert_array_equal(info["_final_obs"], terminated)
    assert fallen >= 24


def test_a_step_limit_of_unitys_truncates(rows: Opener) -> None:
    env = rows("Staggered")
    ends = _play_staggered(env, 200)
    assert {(agent, kind) for agent, kind, _, _ in ends} == {(0, "terminated"), (1, "truncated"), (2, "terminated")}


def test_agents_that_ask_when_they_like_are_paid_for_their_own_waits(rows: Opener) -> None:
    """An episode of agent k has 3 + k decisions, each paid (k + 1) (1 + k / 4), independent of the others."""
    ends = _play_staggered(rows("Staggered"), 300)
    assert len(ends) > 50
    for agent, _, total, decisions in ends:
        assert decisions == 3 + agent
        assert total == pytest.approx((3 + agent) * (agent + 1) * (1 + agent / 4))


def _play_staggered(env: UnityVectorEnv, steps: int) -> list[tuple[int, str, float, int]]:
    """Agent, kind of end, return and length of each episode, as a learner would count them."""
    observations, info = env.reset()
    ends = []
    totals = np.zeros(3)
    lengths = np.zeros(3, int)
    agents = observations[:, 0].copy()
    for _ in range(steps):
        before = info["acting"].copy()
        observations, rewards, terminated, truncated, info = env.step(np.zeros((3, 1), np.float32))
        for row in np.flatnonzero(info["stepped"]).tolist():
            totals[row] += rewards[row]
            lengths[row] += 1
            if terminated[row] or truncated[row]:
                assert info["final_obs"][row, 0] == agents[row]
                kind = "terminated" if terminated[row] else "truncated"
                ends.append((int(agents[row]), kind, float(totals[row]), int(lengths[row])))
                totals[row], lengths[row] = 0, 0
        assert not (rewards[~info["stepped"]]).any()
        assert not (terminated | truncated)[~info["stepped"]].any()
        for row in np.flatnonzero(info["acting"]).tolist():
            if lengths[row] == 0:
                agents[row] = observations[row, 0]
            assert observations[row, 0] == agents[row] != -1
            assert observations[row, 1] == lengths[row]
        assert before.any()
    return ends


def test_sensors_are_one_row_pictures_first_or_a_dict(rows: Opener) -> None:
    flat = rows("Sensors")
    assert flat.single_observation_space.shape == (30 + 3 + 8,)
    assert flat.single_action_space == gymnasium.spaces.Tuple(
        (gymnasium.spaces.Box(-1, 1, (2,), np.float32), gymnasium.spaces.MultiDiscrete([3, 2]))
    )
    observations, _ = flat.reset()
    np.testing.assert_array_equal(
        observations[1], [*[0.0] * 30, *[1.0] * 3, *[-1.0] * 8]
    )  # the second agent's mark is 1
    apart = rows("Sensors", observations="dict")
    found, _ = apart.reset()
    assert {name: part.shape for name, part in found.items()} == {
        "sensor_0": (2, 3),
        "sensor_1": (2, 2, 4),
        "sensor_2": (2, 6, 5, 1),
    }
    assert apart.observation_space.contains(found)


def test_hybrid_actions_arrive_by_agent_and_branch_and_group_rewards_count(rows: Opener) -> None:
    env = rows("Sensors")
    env.reset()
    continuous = np.array([[0.5, -0.25], [0.125, 0.75]], np.float32)
    _, rewards, _, _, info = env.step((continuous, np.array([[2, 1], [1, 0]])))
    assert rewards.tolist() == pytest.approx([0.5 - 2.5 + 200 + 1000 + 0.5, 0.125 + 7.5 + 100 + 0.5])
    assert info["action_mask"].tolist() == [[True, True, True, True, False]] * 2


def test_masks_are_there_from_the_start_though_players_send_none_until_they_need_one(rows: Opener) -> None:
    env = rows("GridWorld")
    _, info = env.reset()
    random = np.random.default_rng(0)
    forbidden = 0
    for _ in range(100):  # the stand-in refuses what it has forbidden
        mask = info["action_mask"][0]
        forbidden += int((~mask).sum())
        _, _, _, _, info = env.step(np.array([random.choice(np.flatnonzero(mask))]))
    assert forbidden > 20
    assert info["lost"].tolist() == [False]


def test_a_player_that_crashes_is_restarted_and_the_others_continue(rows: Opener, tmp_path: Path) -> None:
    env = rows(players=2, mode=f"crash=6,once={tmp_path / 'once'}")
    observations, _ = env.reset()
    lost = []
    for step in range(12):
        observations, _, _, _, info = env.step(np.array([2, 2]))
        lost.append(info["lost"].tolist())
        if any(lost[-1]):
            row = lost[-1].index(True)
            assert not info["stepped"][row]
            assert np.flatnonzero(observations[row]).tolist() == [10]
            assert np.flatnonzero(observations[1 - row]).tolist() == [11 + step]
    assert np.sum(lost) == env.restarts == 1
    (fault,) = env.take_faults()
    assert "was ended by SIGSEGV" in fault
    assert env.take_faults() == []


def test_a_player_that_falls_silent_is_restarted(rows: Opener, tmp_path: Path) -> None:
    env = rows(mode=f"hang=3,once={tmp_path / 'once'}", timeout_s=5)
    env.reset()
    lost = [bool(env.step(np.array([2]))[4]["lost"][0]) for _ in range(4)]
    assert lost == [False, True, False, False]


def test_a_player_that_always_crashes_is_given_up(rows: Opener) -> None:
    env = rows(mode="crash=3")
    env.reset()
    message = r"SIGSEGV[\s\S]*restarted 3 times before, and no episode ended in between"
    with pytest.raises(PlayerError, match=message):
        _stand_still(env, 20)


def _stand_still(env: UnityVectorEnv, steps: int) -> None:
    for _ in range(steps):
        env.step(np.array([0]))


def test_a_player_is_restarted_with_another_seed(rows: Opener, tmp_path: Path) -> None:
    env = rows(mode=f"crash=3,once={tmp_path / 'once'}", seed=40)
    env.reset()
    _stand_still(env, 3)
    logs = sorted((tmp_path / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    assert ["seed 40\n" in logs[0].read_text(), "seed 41\n" in logs[1].read_text()] == [True, True]


def test_a_restart_that_does_not_start_is_tried_again(rows: Opener, tmp_path: Path) -> None:
    path = build_player(tmp_path / "players", "Basic")
    env = rows(mode=f"crash=3,once={tmp_path / 'once'}")
    env.reset()
    healthy = path.read_text()
    path.write_text(f'#!/bin/sh\n[ -e {tmp_path}/tried ] && exec {path}.real "$@"\ntouch {tmp_path}/tried\nexit 1\n')
    real = path.with_name(path.name + ".real")
    real.write_text(healthy)
    real.chmod(0o755)
    _stand_still(env, 3)
    assert env.restarts == 2
    assert ["SIGSEGV" in fault or "exit code 1" in fault for fault in env.take_faults()] == [True, True]


def test_a_lost_episode_is_truncated_for_a_single_environment(one: Any, tmp_path: Path) -> None:
    env = one(mode=f"crash=3,once={tmp_path / 'once'}")
    env.reset()
    env.step(2)
    seen, reward, terminated, truncated, info = env.step(2)
    assert (reward, terminated, truncated, info["lost"]) == (0.0, False, True, True)
    assert np.flatnonzero(seen).tolist() == [11]  # where it was last seen
    assert np.flatnonzero(env.reset()[0]).tolist() == [10]


def test_more_agents_than_rows_are_refused_with_the_setting(rows: Opener) -> None:
    env = rows("3DBall", num_agents=11)
    with pytest.raises(SceneError, match=r"num_agents: got 12 agents at once .*; expected at most 11, as set\. Set "):
        env.reset()


def test_rows_beyond_the_agents_stay_empty(rows: Opener) -> None:
    env = rows("3DBall", num_agents=14)
    _, info = env.reset()
    assert info["acting"].tolist() == [True] * 12 + [False] * 2
    _, _, _, _, info = env.step(np.zeros((14, 2), np.float32))
    assert info["stepped"].tolist() == [True] * 12 + [False] * 2
