from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.roboschool.registration import ROBOSCHOOL_IDS
from envs.roboschool.robots import build_robot
from envs.roboschool.walker_rewards import joints_at_limits_cost

ROOT = Path(__file__).resolve().parents[3]
# openai/roboschool 1.0.49: observations, actions, step limit, threshold.
PUBLISHED = {
    "InvertedPendulum": (5, 1, 1000, 950),
    "InvertedPendulumSwingup": (5, 1, 1000, 800),
    "InvertedDoublePendulum": (9, 1, 1000, 9100),
    "Reacher": (9, 2, 150, 18),
    "Hopper": (15, 3, 1000, 2500),
    "Walker2d": (22, 6, 1000, 2500),
    "HalfCheetah": (26, 6, 1000, 3000),
    "Ant": (28, 8, 1000, 2500),
    "Humanoid": (44, 17, 1000, 3500),
    "HumanoidFlagrun": (44, 17, 1000, 2000),
    "HumanoidFlagrunHarder": (44, 17, 1000, None),
}


def make(name: str, **options: Any) -> Any:
    return gymnasium.make(f"Roboschool{name}-v1", disable_env_checker=True, **options).unwrapped


def make_in_python(name: str, *, compat: str = "roboschool") -> Any:
    """Stepped by pybullet's own API, with its inside open; the compiled one equals it bit for bit."""
    env = make(name, compat=compat)
    env.robot.close()
    env.robot = build_robot(name, as_port=compat == "bullet")
    return env


@pytest.fixture(scope="module")
def steps_as_the_port() -> dict[str, int | str]:
    """How many steps of each robot were the port's bit for bit, or what differed.

    They run in new processes whose memory glibc fills: with a cube, Bullet reads uninitialized memory.

    Two worlds of the same build then differ now and then, the port's from the port's as well. The port's lengths are
    OpenBLAS's, whose last bit depends on the processor: its AVX2 kernel adds as our code does, its AVX-512 one not.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.envs.roboschool.port_parity", *ROBOSCHOOL_IDS],
        cwd=ROOT,
        env={**os.environ, "MALLOC_PERTURB_": "165", "OPENBLAS_CORETYPE": "Haswell"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,  # a pool waits for ever for a process that crashed
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int | str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("env_id", ROBOSCHOOL_IDS)
def test_compat_bullet_has_the_ports_numbers(steps_as_the_port: dict[str, int | str], env_id: str) -> None:
    found = steps_as_the_port[env_id]
    assert isinstance(found, int), found
    assert found > 20


@pytest.mark.parametrize("name", PUBLISHED)
def test_spaces_limits_and_thresholds_are_roboschools(name: str) -> None:
    observations, actions, limit, threshold = PUBLISHED[name]
    env = gymnasium.make(f"Roboschool{name}-v1")
    assert env.observation_space.shape == (observations,)
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (actions,), np.float32)
    assert env.spec is not None
    assert (env.spec.max_episode_steps, env.spec.reward_threshold) == (limit, threshold)
    assert env.reset(seed=0)[0].dtype == np.float32
    env.close()


@pytest.mark.parametrize("name", PUBLISHED)
def test_gymnasiums_checker_passes(name: str) -> None:
    env = make(name, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Roboschool's observations have no bounds, and its actions are ±1: the checker remarks on neither as an error.
        warnings.filterwarnings("ignore", message=".*(infinity|render modes).*")
        check_env(env, skip_render_check=False)
    env.close()


@pytest.mark.parametrize("name", ["Hopper", "Humanoid", "HumanoidFlagrun", "Reacher"])
def test_equal_seeds_give_equal_episodes(name: str) -> None:
    def play() -> np.ndarray:
        env = make(name)
        observation, _ = env.reset(seed=5)
        rng = np.random.default_rng(5)
        seen = [observation]
        for _ in range(120):
            observation, reward, ended, _, _ = env.step(rng.uniform(-1, 1, env.action_space.shape))
            seen.append(np.append(observation, reward)[: len(observation)])
            if ended:
                observation, _ = env.reset()
        env.close()
        return np.array(seen)

    np.testing.assert_array_equal(play(), play())


def test_bullet_writes_nothing_on_stdout_or_stderr() -> None:
    program = (
        "import gymnasium, envs\n"
        "for name in ('Hopper', 'Reacher'):\n"
        "    env = gymnasium.make(f'Roboschool{name}-v1', render_mode='rgb_array')\n"
        "    env.reset(); env.step(env.action_space.sample()); env.render(); env.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_importing_envs_loads_no_simulator() -> None:
    program = "import sys, envs; print([m for m in sys.modules if m.startswith('pybullet')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert envs.ROBOSCHOOL_IDS


def test_reacher_pays_for_coming_closer() -> None:
    """Without action, a step's reward is 100 times the distance that the fingertip came closer to the target."""
    env = make("Reacher")
    before, _ = env.reset(seed=3)
    still = np.zeros(2, np.float32)
    pushed = np.ones(2, np.float32)
    env.step(pushed)
    before, *_ = env.step(pushed)
    for _ in range(20):
        after, reward, *_ = env.step(still)
        closer = np.hypot(before[2], before[3]) - np.hypot(after[2], after[3])
        stuck = -0.1 if abs(abs(after[7]) - 1) < 0.01 else 0.0
        assert reward == pytest.approx(100 * closer + stuck, abs=1e-4)
        before = after
    env.close()


def test_reacher_senses_its_central_angle_and_the_port_a_twisted_one() -> None:
    """The fingertip is 0.1 m along the first link and 0.11 m along the second, so the angles give its place."""
    env = make("Reacher")
    twisted = make("Reacher", compat="bullet")
    for seed in range(20):
        o, _ = env.reset(seed=seed)
        theta = math.atan2(o[5], o[4])
        gamma = 3.0 * o[7]
        x = 0.1 * math.cos(theta) + 0.11 * math.cos(theta + gamma)
        y = 0.1 * math.sin(theta) + 0.11 * math.sin(theta + gamma)
        np.testing.assert_allclose((o[0] + o[2], o[1] + o[3]), (x, y), atol=1e-4)
        t, _ = twisted.reset(seed=seed)
        assert math.cos(1 - 2 * theta) == pytest.approx(t[4], abs=1e-4)
    env.close()
    twisted.close()


def test_a_walkers_progress_is_what_its_parts_gain_without_the_floor() -> None:
    """The port counts the floor as a part, which shrinks the progress reward by n / (n + 1)."""
    env = make_in_python("Hopper")
    ported = make_in_python("Hopper", compat="bullet")
    for e in (env, ported):
        e.reset(seed=1)
        e.reset(seed=1)  # the port counts the floor from its second episode on
    assert ported.robot.mean_x == pytest.approx(env.robot.mean_x * 10 / 11)
    for e in (env, ported):
        e.close()


def test_joints_at_their_limit_cost_twice_the_ports() -> None:
    positions = np.array([1.0, -1.0, 0.0], np.float32)
    costs = {}
    for compat in ("roboschool", "bullet"):
        env = make_in_python("Hopper", compat=compat)
        costs[compat] = joints_at_limits_cost(positions, each=env.robot.joint_limit_cost)
        env.close()
    assert costs == {"roboschool": pytest.approx(-0.4), "bullet": pytest.approx(-0.2)}


def test_a_cheetah_on_its_knees_is_done_but_not_in_the_port() -> None:
    ended = {}
    for compat in ("roboschool", "bullet"):
        env = make("HalfCheetah", compat=compat)
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        ended[compat] = any(env.step(rng.uniform(-1, 1, 6))[2] for _ in range(300))
        env.close()
    assert ended == {"roboschool": True, "bullet": False}


def test_humanoid_starts_standing_at_random_headings() -> None:
    env = make("Humanoid")
    headings = []
    for seed in range(12):
        o, _ = env.reset(seed=seed)
        assert o[0] == pytest.approx(1.4 - 0.8, abs=0.01)
        headings.append(math.atan2(o[1], o[2]))
    assert max(abs(h) for h in headings) <= math.pi / 16 + 0.01
    assert np.std(headings) > 0.05
    env.close()


def test_a_moved_flag_pays_nothing_by_itself() -> None:
    env = make_in_python("HumanoidFlagrun")
    env.reset(seed=0)
    course = env.robot.course
    still = np.zeros(17, np.float32)
    course._steps_left = 1
    before = course.target
    _, reward, *_ = env.step(still)
    assert course.target != before
    assert abs(reward) < 5  # alive and joint costs; the jump to the new flag is hundreds
    env.close()


def test_harder_starts_lying_now_and_then_and_draws_what_fails_more_often() -> None:
    env = make("HumanoidFlagrunHarder")
    heights = [env.reset(seed=None if n else 0)[0][0] + 0.8 for n in range(30)]
    assert min(heights) < 0.6 < 1.2 < max(heights)
    env.close()


def test_an_unknown_compat_is_refused() -> None:
    with pytest.raises(ValueError, match="compat: got 'mujoco'; expected one of roboschool, bullet"):
        make("Hopper", compat="mujoco")
