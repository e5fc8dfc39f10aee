"""`smrl check-env` of several agents: each fault is found, with the file and the line that has it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.cli import main

BAD = """\
import numpy as np
from examples.agents import Meet


class Bad(Meet):
    def step(self, actions):
        observations, rewards, *ends = super().step(actions)
        if self._taken == 3:
            observations["left_0"] = np.zeros(3, np.float32)
            rewards["right_0"] = float("nan")
        if self._taken == 9:
            raise KeyError("speeed")
        return (observations, rewards, *ends)


class Stranger(Meet):
    def reset(self, seed=None, options=None):
        observations, infos = super().reset(seed)
        return {**observations, "middle": observations["left_0"]}, infos


class Nameless(Meet):
    def __init__(self):
        super().__init__()
        del self.possible_agents
"""


def check(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "bad_agents", raising=False)
    (folder / "bad_agents.py").write_text(BAD)
    return main(["check-env", name])


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "examples.agents:Meet",
            ["left_0, right_0", "200 random ones, 10 episodes ended", "frames of 64 by 32 pixels"],
        ),
        (
            "examples.agents:Hunt",
            [
                "sheep_0       observes Box(-1.0, 1.0, (2,), float32), acts in Box",
                "20 episodes ended",
                "none: metadata",
            ],
        ),
        ("pettingzoo.classic.rps.rps:parallel_env", ["player_0      observes Discrete(4), acts in Discrete(3)"]),
    ],
)
def test_a_sound_environment_gets_facts(
    name: str, facts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(name, tmp_path, monkeypatch) == 0
    out = capsys.readouterr().out
    assert f"{name}: no problem found" in out
    for fact in facts:
        assert fact in out


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        (
            "Bad",
            [
                "bad_agents.py:6: Bad.step returned the reward nan of right_0; expected a finite number",
                "bad_agents.py:6: Bad.step returned, for left_0, an observation of shape (3,); expected (2,)",
                "bad_agents.py:12: Bad.step raised KeyError: 'speeed' at step 9",
            ],
        ),
        (
            "Stranger",
            ["Stranger.reset returned an observation of 'middle'; expected agents of possible_agents: left_0"],
        ),
        ("Nameless", ["environment Nameless: got no possible_agents; expected the names of all agents"]),
    ],
)
def test_each_fault_is_named(
    name: str,
    problems: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check(f"bad_agents:{name}", tmp_path, monkeypatch) == 2
    found = capsys.readouterr().err
    for problem in problems:
        assert problem in found
