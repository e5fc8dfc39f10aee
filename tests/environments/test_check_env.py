"""`smrl check-env`: each fault of an environment is found, with the file and the line that has it."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from runtime.cli import main

GOOD = """\
import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, length=10, render_mode=None):
        self.render_mode = render_mode
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps >= self.length, False, {}

    def render(self):
        return np.zeros((40, 60, 3), np.uint8)
"""
STEP_LINE = GOOD.splitlines().index("    def step(self, action):") + 1


def check(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "walk", raising=False)
    (folder / "walk.py").write_text(text)
    return main(["check-env", "walk:Walk", *settings])


def test_a_sound_environment_gets_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(GOOD, tmp_path, monkeypatch, "length=20") == 0
    out = capsys.readouterr().out
    assert out.startswith("walk:Walk: no problem found\n")
    assert "200 random ones, 10 episodes ended" in out  # of the 20 steps that the command line asked for
    assert "frames of 60 by 40 pixels" in out


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("1.0, self.steps >= self.length, False, {}", "1.0, False, {}", "step", "a tuple of 4, as gym before 0.26 did"),
        ("1.0, self", "float('nan'), self", "step", "returned the reward nan; expected a finite number"),
        ("1.0, self.steps >= self.length", "1.0, 'yes'", "step", "returned terminated 'yes'; expected True or False"),
        (
            "        return np.zeros(2, np.float32), 1.0",
            "        return np.zeros(3, np.float32), 1.0",
            "step",
            "an observation of shape (3,); expected (2,)",
        ),
        (
            "        return np.zeros(2, np.float32), 1.0",
            "        return np.array([0, 3], np.float32), 1.0",
            "step",
            "3.0 in observation[1]; expected -1.0 to 1.0",
        ),
        (
            "        return np.zeros(2, np.float32), 1.0",
            "        return np.array([np.nan, 0], np.float32), 1.0",
            "step",
            "nan in observation[0]; expected finite numbers",
        ),
        (
            "return np.zeros(2, np.float32), {}",
            "return np.zeros(2, np.float32)",
            "reset",
            "expected (observation, info)",
        ),
        (
            "        super().reset(seed=seed)\n",
            "",
            "reset",
            "fails Gymnasium's check_env: Expects the random number generator to have been generated",
        ),
        (
            "np.zeros((40, 60, 3), np.uint8)",
            "np.zeros((40, 60, 3))",
            "render",
            "an array of float64, shape (40, 60, 3)",
        ),
        ("Box(-1, 1, (2,), np.float32)", "Box(0, 1, (8, 8, 3), np.float32)", "__init__", "expected uint8, 0 to 255"),
        ("gymnasium.spaces.Discrete(2)", "gymnasium.spaces.Text(2)", "__init__", "sets action_space to Text"),
    ],
)
def test_a_fault_has_its_method_and_its_rule(
    old: str,
    new: str,
    place: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    assert check(text, tmp_path, monkeypatch) == 2
    line = next(n for n, one in enumerate(text.splitlines(), 1) if f"def {place}(" in one)
    err = capsys.readouterr().err
    assert f"walk.py:{line}: Walk.{place} " in err
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("self.steps += {}['speeed']", "Walk.step raised KeyError: 'speeed' at step 1, action "),
        ("self.steps += int(np.zeros(2)[self.length])", "Walk.step raised IndexError: index 10 is out of bounds"),
        ("self._turn()", "Walk.step raised AttributeError: 'Walk' object has no attribute '_turn' at step 1, action "),
    ],
)
def test_an_exception_is_one_line(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(GOOD.replace("self.steps += 1", line), tmp_path, monkeypatch) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"smrl: error: walk.py:{STEP_LINE + 1}: {words}")
    assert err.count("\n") == 1


def test_every_problem_is_listed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = GOOD.replace("1.0, self", "float('inf'), self").replace("np.zeros((40, 60, 3), np.uint8)", "None")
    assert check(text, tmp_path, monkeypatch) == 2
    err = capsys.readouterr().err
    assert "2 problems with walk:Walk" in err
    assert "returned the reward inf" in err
    assert "returned a NoneType; expected an array of uint8" in err


def test_a_module_that_cannot_be_imported_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = dedent("""\
        import gymnasium
        class Walk(gymnasium.Env):
            def reset(self:
        """)
    assert check(text, tmp_path, monkeypatch) == 2
    assert capsys.readouterr().err.startswith("smrl: error: walk.py:3: SyntaxError: ")


def test_environments_of_gymnasium_and_of_old_gym_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env", "CartPole-v1"]) == 0
    assert main(["check-env", "tests.toy_envs:OfOldGym"]) == 0
    out = capsys.readouterr().out
    assert "CartPole-v1: no problem found" in out
    assert "tests.toy_envs:OfOldGym: no problem found" in out


def test_only_actions_that_the_mask_allows_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env", "tests.toy_envs:Shelves"]) == 0  # which raises at any other
    assert "the entry action_mask says which actions are allowed" in capsys.readouterr().out
    assert main(["check-env", "tests.toy_envs:Shelves", "empty_at=1"]) == 2
    problem = "Shelves.step returned an action_mask that allows no action before the episode ended"
    assert problem in capsys.readouterr().err
