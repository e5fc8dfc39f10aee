"""Settings of several agents are checked before anything heavy starts, and all problems are listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.cli import main
from runtime.policies.policy_mapping import PolicyMapping


def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    assert main(["train", "--out", str(tmp_path), *words]) == 2
    return capsys.readouterr().err


def test_every_problem_is_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mapping = 'policy_mapping={"wolf_0": "wolf", "sheep": "wolf", "x": "goat"}'
    words = ("--env", "examples.agents:Hunt", "run=DQN", "policies=wolf,cow,best", mapping)
    found = refuse(capsys, tmp_path, *words)
    for line in (
        "rl.training.run: got 'DQN' from the command line; expected PPO, which alone trains several agents",
        "rl.training.policies: got 'best' from the command line; expected a letter, then",
        "rl.training.policy_mapping['x']: got 'goat' from the command line; expected one of rl.training.policies",
        "wolf_1 of examples.agents:Hunt would have no policy.",
        "rl.training.policies: got 'cow' from the command line; expected one that rl.training.policy_mapping names",
        "Discrete(3), for the policy wolf; expected agents of the same spaces. Give them policies of their own",
    ):
        assert line in found
    assert "7 problems" in found


def test_a_shared_policy_of_different_agents_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = refuse(capsys, tmp_path, "--env", "examples.agents:Hunt")
    assert "for the policy shared; expected agents of the same spaces" in found


def test_a_filter_of_observations_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = refuse(capsys, tmp_path, "--env", "examples.agents:Meet", "observation_filter=MeanStdFilter")
    assert "observation_filter: got 'MeanStdFilter' from the command line; expected NoFilter" in found


@pytest.mark.parametrize("words", [("policies=a",), ('policy_mapping={"": "a"}',)])
def test_one_agent_takes_no_policies(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "as CartPole-v1 has one agent" in refuse(capsys, tmp_path, "--env", "CartPole-v1", *words)


def test_the_longest_prefix_of_an_agents_name_chooses_its_policy() -> None:
    mapping = PolicyMapping({"": "rest", "wolf": "pack", "wolf_0": "leader"})
    assert [mapping.find(agent) for agent in ("wolf_0", "wolf_1", "sheep")] == ["leader", "pack", "rest"]
    assert mapping.group(["wolf_1", "sheep", "wolf_2"]) == {"pack": ["wolf_1", "wolf_2"], "rest": ["sheep"]}
    assert PolicyMapping({"wolf": "pack"}).find("sheep") is None
