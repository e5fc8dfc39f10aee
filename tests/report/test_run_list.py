from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.files import lock
from runtime.report.run_list import find_runs, list_runs
from tests.conftest import run_smrl

pytestmark = pytest.mark.ray  # trains


@pytest.fixture
def runs(tiny_results: Path, tmp_path: Path) -> Path:
    """A folder with a finished training beside one whose job was killed before its end, and other folders."""
    place = tmp_path / "runs"
    shutil.copytree(tiny_results, place / "whole")
    shutil.copytree(tiny_results, place / "killed")
    (place / "killed" / "summary.json").unlink()
    shutil.rmtree(place / "killed" / "model")
    (place / "notes").mkdir()
    (place / "notes.txt").write_text("mine")
    return place


def test_a_run_is_listed_with_its_state_return_and_steps(runs: Path) -> None:
    done = run_smrl("list", str(runs), "--json", cwd=runs)
    assert done.returncode == 0, done.stderr
    listed = {Path(run["folder"]).name: run for run in json.loads(done.stdout)}
    assert {name: run["state"] for name, run in listed.items()} == {"whole": "finished", "killed": "unfinished"}
    last = [json.loads(line) for line in (runs / "whole" / "metrics.jsonl").read_text().splitlines()][-1]
    assert listed["whole"]["mean_return"] == last["episode_reward_mean"]
    assert listed["whole"]["timesteps_total"] == 512
    assert listed["whole"]["env"] == "RoboschoolReacher-v1"
    assert listed["whole"]["best_return"] >= listed["whole"]["mean_return"]


def test_a_run_whose_folder_is_locked_is_running(runs: Path) -> None:
    with lock(runs / "killed" / "checkpoints" / ".lock"):
        assert {Path(run.folder).name: run.state for run in find_runs(runs)}["killed"] == "running"
    assert {Path(run.folder).name: run.state for run in find_runs(runs)}["killed"] == "unfinished"


def test_a_job_that_was_resumed_and_killed_is_unfinished_beside_its_older_model(runs: Path) -> None:
    whole = runs / "whole"
    (whole / "summary.json").unlink()
    assert find_runs(whole)[0].state == "ended"
    config = (whole / "config.json").read_text()
    (whole / "config.json").write_text(config)  # as a job writes it when it starts
    assert find_runs(whole)[0].state == "unfinished"


def test_the_table_has_a_line_for_each_run_in_columns(runs: Path) -> None:
    lines = list_runs(runs).splitlines()
    assert lines[0].split() == ["folder", "environment", "state", "return", "best", "steps", "age"]
    assert len(lines) == 3
    assert len({line.index("RoboschoolReacher-v1") for line in lines[1:]} | {lines[0].index("environment")}) == 1
    assert all("512" in line for line in lines[1:])


def test_an_empty_folder_has_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == f"no runs in {tmp_path}"
    assert json.loads(list_runs(tmp_path, as_json=True)) == []


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which is no folder; expected one that holds results folders"):
        list_runs(tmp_path / "absent")
