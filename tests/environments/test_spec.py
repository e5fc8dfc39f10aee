from __future__ import annotations

import importlib.util
import pickle
import re
import sys

import gymnasium
import numpy as np
import pytest

from runtime.environments.check_env import run_check
from runtime.environments.old_gym import as_gymnasium
from runtime.environments.spec import EnvironmentFaultError, EnvironmentRaisedError, EnvSpec, check_env_name, make_env
from runtime.errors import Problems, UserError
from tests.toy_envs import NanReward, NoFrames, OfOldGym


def test_an_episodes_sums_come_with_its_last_step() -> None:
    env = make_env(EnvSpec("tests.toy_envs:NoFrames"))
    env.reset()
    infos = [env.step(n % 2)[4] for n in range(10)]
    assert infos[-1]["episode"] == {"r": 5.0, "l": 10}
    assert all("episode" not in info for info in infos[:-1])


def test_a_reward_that_is_no_number_names_environment_value_and_action() -> None:
    env = make_env(EnvSpec("tests.toy_envs:NanReward"))
    env.reset()
    NanReward.lived = 299
    with pytest.raises(EnvironmentFaultError, match=r"reward of tests.toy_envs:NanReward: got nan from step\(1\)"):
        env.step(1)
    NanReward.lived = 0


def test_a_horizon_cuts_an_episode_without_calling_it_a_failure() -> None:
    env = make_env(EnvSpec("tests.toy_envs:NoFrames", horizon=3))
    env.reset()
    results = [env.step(1) for _ in range(3)]
    assert [r[2] for r in results] == [False] * 3
    assert [r[3] for r in results] == [False, False, True]


def test_an_atari_game_is_played_from_its_last_frames() -> None:
    env = make_env(EnvSpec("Atari-v0", {"game": "Breakout", "frames": 3}), render=True)
    assert env.observation_space.shape == (84, 84, 3)
    first, _ = env.reset(seed=0)
    after = env.step(1)[0]
    assert (after[..., :2] == first[..., 1:]).all()  # the newest frame is the last channel
    assert after.max() > 1
    assert env.render().shape == (210, 160, 3)  # type: ignore[union-attr]


def test_a_view_of_minigrid_has_one_kind_color_and_state_a_cell() -> None:
    env = make_env(EnvSpec("MiniGrid-v0", {"task": "Empty-8x8"}), render=True)
    view, _ = env.reset(seed=0)
    assert env.observation_space.contains(view)
    assert (view[..., :11].sum(-1) == 1).all()
    assert (view[..., 11:17].sum(-1) == 1).all()
    assert (view[..., 17:].sum(-1) == 1).all()
    assert env.render().ndim == 3  # type: ignore[union-attr]


def test_an_id_of_another_package_needs_no_module_before_it() -> None:
    assert make_env(EnvSpec("ALE/Pong-v5")).observation_space.shape == (210, 160, 3)


def test_an_observation_that_is_a_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"environment EmptyEnv: got the observation space Dict\(.*Wrap it"):
        make_env(EnvSpec("MiniGrid-Empty-5x5-v0"))


@pytest.mark.parametrize(
    ("package", "name", "message"),
    [
        ("ale_py", "Atari-v0", "ale_py is not installed, run `pip install 'smrl[atari]'`"),
        ("ale_py", "ALE/Pong-v5", "'ale_py' that can be imported. Install it: pip install 'smrl[atari]'."),
        ("minigrid", "MiniGrid-v0", "minigrid is not installed, run `pip install 'smrl[minigrid]'`"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, name: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    if package == "ale_py":
        monkeypatch.delitem(gymnasium.registry, "ALE/Pong-v5", raising=False)
    with pytest.raises(UserError, match=re.escape(message)):
        run_check(name, {})


def test_a_class_gets_the_env_config_as_arguments() -> None:
    env = make_env(EnvSpec("tests.toy_envs:NoFrames", {"size": 3}))
    assert isinstance(env.unwrapped, NoFrames)
    assert env.unwrapped.config == {"size": 3}


def test_observations_that_are_no_box_are_flattened() -> None:
    env = make_env(EnvSpec("FrozenLake-v1"))
    assert env.observation_space.shape == (16,)


def test_an_environment_of_2020_is_adapted() -> None:
    env = make_env(EnvSpec("tests.toy_envs:OfOldGym", {"steps": 2}))
    observation, info = env.reset(seed=1)
    assert (observation.shape, info) == ((2,), {})
    assert isinstance(env.action_space, gymnasium.spaces.Box)
    assert env.step(np.array([0.5], np.float32))[1:4] == (0.5, False, False)
    assert env.step(np.array([0.5], np.float32))[1:4] == (0.5, True, False)


def test_a_time_limit_of_old_gym_is_a_truncation() -> None:
    class Limited(OfOldGym):
        def step(self, action):  # type: ignore[no-untyped-def]
            observation, reward, done, info = super().step(action)
            return observation, reward, done, {"TimeLimit.truncated": True} if done else info

    env = as_gymnasium(Limited(steps=1))
    env.reset()
    assert env.step(np.zeros(1))[2:4] == (False, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RoboschoolHoper-v1", "Did you mean 'RoboschoolHopper-v1'"),
        ("subprocess:Popen", "a class 'Popen' with reset and step in subprocess"),
        ("no_such_module:Env", "a module 'no_such_module' that can be imported"),
        ("tests.toy_envs:Missing", "a class 'Missing' with reset and step in tests.toy_envs"),
        ("Hopper-v2", "expected an environment that Gymnasium still makes. Take Hopper-v5"),
    ],
)
def test_an_environment_that_cannot_be_found_is_refused(name: str, message: str) -> None:
    problems = Problems()
    check_env_name("rl.training.env", name, "test", problems)
    with pytest.raises(UserError, match=message):
        problems.raise_if_any()


@pytest.mark.parametrize(("name", "extra"), [("Hopper-v4", "mujoco"), ("LunarLander-v3", "box2d")])
def test_a_package_that_is_not_installed_is_named_with_what_installs_it(name: str, extra: str) -> None:
    problems = Problems()
    check_env_name("env", name, "test", problems)
    modules = {"mujoco": ["mujoco", "imageio"], "box2d": ["Box2D"]}[extra]
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        problems.raise_if_any()
        pytest.skip(f"gymnasium[{extra}] is installed")
    message = rf"to be installed: {' and '.join(missing)}\. Run pip install 'gymnasium\[{extra}\]'"
    with pytest.raises(UserError, match=message):
        problems.raise_if_any()


def test_an_exception_names_its_line_step_and_action_and_pickles_with_its_traceback() -> None:
    env = make_env(EnvSpec("tests.toy_envs:Raises"))
    env.reset()
    with pytest.raises(
        EnvironmentRaisedError,
        match=r"^tests/toy_envs\.py:\d+: Raises\.reward raised RuntimeError: the simulator is .* at step 1, action 1$",
    ) as caught:
        env.step(1)
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == str(caught.value)
    assert 'raise RuntimeError("the simulator is on fire")' in error.trace
