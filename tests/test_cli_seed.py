"""`--seed 1` and `seed=1` of the commands without a job's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT, run_smrl

RACE = ("race_type=OBJECT_AVOIDANCE", "number_of_obstacles=6", "randomize_obstacle_locations=true")


def collect(tmp_path: Path, name: str, *words: str) -> str:
    done = run_smrl("collect", "--env", "CartPole-v1", *words, "--out", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return (tmp_path / name).read_text()


def test_a_seed_of_a_log_is_an_option_or_a_setting(tmp_path: Path) -> None:
    one, same, other = (
        collect(tmp_path, f"{number}.csv", *words)
        for number, words in enumerate([("--seed", "3"), ("seed=3",), ("seed=4",)])
    )
    assert one == same
    assert one != other


def test_a_seed_places_the_obstacles_of_a_reward_check(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("def reward_function(params):\n    return min(params['objects_distance'])\n")
    reports = [
        run_smrl("reward-check", "reward.py", *RACE, *words, cwd=tmp_path)
        for words in (("--seed", "3"), ("seed=3",), ("seed=4",))
    ]
    assert [done.returncode for done in reports] == [0, 0, 0], reports[0].stderr
    one, same, other = (done.stdout.split("calls")[1].split("\n", 1)[1] for done in reports)
    assert one == same
    assert one != other


@pytest.mark.parametrize("words", [("--seed", "3", "seed=3"), ("seed=x",), ("seed=",)])
def test_a_seed_is_one_whole_number(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run_smrl("collect", "--env", "CartPole-v1", *words, "--out", "log.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "from the command line; expected one whole number of at least 0" in done.stderr
    done = run_smrl("collect", "--env", "CartPole-v1", "lr=1", "--out", "log.csv", cwd=ROOT)
    assert "lr=1: got unknown arguments from the command line" in done.stderr
