"""gym as scripts of 2020 call it: Monitor's videos and its last step, and Roboschool's classes."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs.roboschool.registration import ROBOSCHOOL_IDS
from runtime.environments.old_gym import as_gymnasium
from tests.conftest import ROOT, run_smrl

with contextlib.redirect_stderr(io.StringIO()):  # gym 0.26.2 says at import that it is no longer maintained
    import gym

    from runtime.compat import roboschool
    from runtime.compat.gym_2020 import LONGEST_EPISODE, Monitor, make


class Counting(gym.Env):  # type: ignore[misc]  # gym ships no types
    """Ends an episode after so many steps; without a `render` of its own."""

    def __init__(self, length: float) -> None:
        self.observation_space = self.action_space = gym.spaces.Discrete(2)
        self._length = length
        self._steps = 0

    def reset(self) -> int:
        self._steps = 0
        return 0

    def step(self, action: int) -> tuple[int, float, bool, dict[str, Any]]:
        self._steps += 1
        return 0, 1.0, self._steps >= self._length, {}


class Blind(Counting):
    """Says that it gives frames, and gives none, as UnityToGymWrapper over a scene without cameras."""

    metadata = {"render.modes": ["rgb_array"]}  # noqa: RUF012  # gym declares it so

    def render(self, mode: str = "rgb_array") -> None:
        pass


def play(env: Any) -> dict[str, Any]:
    """Runs an episode; returns the last step's info."""
    env.reset()
    while True:
        _, _, done, info = env.step(env.action_space.sample())
        if done:
            return dict(info)


@pytest.mark.parametrize("made", [Counting, Blind])
def test_there_is_no_video_of_an_environment_without_frames(made: type[Counting], tmp_path: Path) -> None:
    env = Monitor(made(3), str(tmp_path), force=True, video_callable=lambda episode: True)
    for _ in range(2):
        assert "TimeLimit.truncated" not in play(env)
    env.close()
    assert [path.name for path in tmp_path.iterdir()] == ["openaigym.episode_stats.json"]
    stats = json.loads((tmp_path / "openaigym.episode_stats.json").read_text())
    assert stats == {"episode_rewards": [3.0, 3.0], "episode_lengths": [3, 3]}


def test_an_episode_that_does_not_end_counts_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = Monitor(Counting(float("inf")), str(tmp_path))
    assert play(env) == {"TimeLimit.truncated": True}
    assert "smrl: Monitor: an episode did not end, and counts as it is after 10000 steps\n" in capsys.readouterr().err
    stats = json.loads((tmp_path / "openaigym.episode_stats.json").read_text())
    assert stats["episode_lengths"] == [LONGEST_EPISODE]


def test_the_page_names_the_step_limit() -> None:
    assert f"after {LONGEST_EPISODE:,} steps" in (ROOT / "docs" / "scripts-of-2020.md").read_text()


def test_roboschool_has_the_classes_of_its_ids() -> None:
    made = {
        name for name, value in vars(roboschool).items() if name.startswith("Roboschool") and name != "RoboschoolEnv"
    }
    assert made == {env_id.removesuffix("-v1") for env_id in ROBOSCHOOL_IDS}
    for name in ("RoboschoolReacher", "RoboschoolHopper"):
        kind = getattr(roboschool, name)
        assert pickle.loads(pickle.dumps(kind)) is kind  # Ray's workers get it by its name


def test_a_roboschool_class_has_the_calls_of_2020_no_step_limit_and_a_video(tmp_path: Path) -> None:
    env = Monitor(roboschool.RoboschoolReacher(), str(tmp_path), video_callable=lambda episode: True)  # type: ignore[attr-defined]
    assert env.reset().shape == env.observation_space.shape == (9,)
    for _ in range(2 * ROBOSCHOOL_IDS["RoboschoolReacher-v1"].max_episode_steps):
        observation, reward, done, _ = env.step(np.zeros(2))
        assert (observation.shape, np.isfinite(reward), done) == ((9,), True, False)
    env.close()
    assert (tmp_path / "openaigym.video.0.video000000.mp4").stat().st_size > 1000


def spec_of(env: Any) -> Any:
    assert env.spec is not None
    return env.spec


def test_an_id_that_is_gone_gets_the_newest_version_with_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    env = make("Pendulum-v0")
    assert spec_of(env).id == "Pendulum-v1"
    assert env.reset().shape == (3,)
    assert capfd.readouterr().err.count("Pendulum-v0 no longer runs; Pendulum-v1 is made") == 1


@pytest.mark.parametrize("version", [2, 3])
def test_mujocos_robots_of_mujoco_py_get_gymnasiums_newest(version: int, capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(gymnasium.error.DependencyNotInstalled):  # mujoco is the script's to install
        assert spec_of(make(f"Hopper-v{version}")).id == "Hopper-v5"
    assert f"Hopper-v{version} no longer runs; Hopper-v5 is made" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
def test_an_old_id_that_runs_is_made_as_asked(capfd: pytest.CaptureFixture[str]) -> None:
    env = make("CartPole-v0")
    assert (spec_of(env).id, spec_of(env).max_episode_steps) == ("CartPole-v0", 200)
    assert "no longer runs" not in capfd.readouterr().err


def test_an_id_of_a_later_version_or_no_known_name_is_left_to_gym() -> None:
    for unknown in ("Pendulum-v99", "NoSuchRobot-v0"):
        with pytest.raises(gym.error.Error):
            make(unknown)


class Framed(Counting):
    """Renders as gym 0.26 has it: by its render_mode."""

    render_mode: str | None = None

    def render(self) -> Any:
        return np.zeros((4, 4, 3), np.uint8) if self.render_mode == "rgb_array" else None


class FramedByMode(Counting):
    """Renders as gym had it before: by an argument."""

    def render(self, mode: str = "human") -> Any:
        return np.zeros((4, 4, 3), np.uint8) if mode == "rgb_array" else None


@pytest.mark.parametrize("made", [Framed, FramedByMode])
def test_an_environment_of_any_gym_renders_frames(made: type[Counting]) -> None:
    env = as_gymnasium(made(3))
    env.unwrapped.render_mode = "rgb_array"
    env.reset()
    frame: Any = env.render()
    assert frame.shape == (4, 4, 3)


def test_spaces_and_numpys_names_of_2020(tmp_path: Path) -> None:
    """As knapsack's and tic-tac-toe's environments have them; gym 0.26 refuses the first, NumPy the second."""
    (tmp_path / "script.py").write_text(
        "import gym, numpy as np\n"
        "low, high = np.array([0, 0]), np.array([100, np.inf])\n"
        "box = gym.spaces.Box(low=low, high=high, dtype=np.uint32)\n"
        "print(box.low, box.high, box.dtype)\n"
        "print(gym.spaces.Box(-np.inf, np.inf, (1,), dtype=np.int8).high, gym.spaces.Box(-np.inf, np.inf, (1,)).high)\n"
        "print(gym.spaces.Box(low=-1, high=1, shape=(2,), dtype=np.int).dtype, np.float(2), np.bool(1))\n"
    )
    done = run_smrl("run", "script.py", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "[0 0] [       100 4294967295] uint32",
        "[127] [inf]",
        "int64 2.0 True",
    ], done.stderr


def test_seeds_and_descriptions_of_2020(tmp_path: Path) -> None:
    """A drawn seed is a number that others are made of, and equal seeds make equal ones."""
    (tmp_path / "script.py").write_text(
        "import roboschool\n"
        "from gym.envs.registration import EnvSpec\n"
        "from gym.utils import seeding\n"
        "random, first = seeding.np_random(None)\n"
        "second = seeding.hash_seed(first + 1) % 2**31\n"
        "assert 0 <= second < 2**31 and seeding.hash_seed(5) == seeding.hash_seed(5) != seeding.hash_seed(6)\n"
        "assert seeding.np_random(7)[0].randint(9**9) == seeding.np_random(7)[0].randint(9**9)\n"
        "print(seeding.np_random(7)[1], random.randint(1), EnvSpec('WebService-v0').id)\n"
    )
    done = run_smrl("run", "script.py", cwd=tmp_path)
    assert done.stdout == "7 0 WebService-v0\n", done.stderr
