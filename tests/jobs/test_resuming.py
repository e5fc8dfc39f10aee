"""`smrl resume`, and how much a command prints, as users see them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from runtime.outputs.metrics import read_rows
from tests.conftest import ROOT, TINY, run_smrl

pytestmark = pytest.mark.ray
TINY_WORDS = [f"{name}={value}" for name, value in TINY.items()]


@pytest.fixture
def results(tiny_results: Path, tmp_path: Path) -> Path:
    """A copy of a training that has finished after 8 iterations."""
    return Path(shutil.copytree(tiny_results, tmp_path / "results"))


def test_a_finished_training_answers_with_its_last_screen(results: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    done = run_smrl("resume", str(results), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "trained RoboschoolReacher-v1" in done.stdout
    assert "ended because  training_iteration 8 reached 8" in done.stdout
    assert f"report         {results / 'report.html'}" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()} == before


def test_a_training_resumes_with_its_own_settings_and_sources(results: Path) -> None:
    before = json.loads((results / "config.json").read_text())
    done = run_smrl("resume", str(results), "training_iteration=10", "--json", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["training_iteration"] == 10
    assert answer["is_finished"] is True
    assert "resuming from" in done.stderr
    assert [row["training_iteration"] for row in read_rows(results / "metrics.jsonl")] == list(range(1, 11))
    after = json.loads((results / "config.json").read_text())
    assert after["values"].pop("stop.training_iteration") == 10
    before["values"].pop("stop.training_iteration")
    assert after == before  # the sources too: what the preset set is not the user's


def test_a_job_that_was_killed_resumes(results: Path) -> None:
    """Its newest checkpoint is that of iteration 6."""
    (results / "summary.json").unlink()
    shutil.rmtree(results / "model")
    shutil.rmtree(results / "checkpoints" / "checkpoint_000008")
    done = run_smrl("resume", str(results), "--quiet", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("trained RoboschoolReacher-v1\n  mean return")
    assert [row["training_iteration"] for row in read_rows(results / "metrics.jsonl")] == list(range(1, 9))
    assert (results / "model" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("videos",), "expected the results folder of a training"),
        ((".", "preset=hopper"), "got the preset 'hopper' from the command line; expected none"),
        ((".", "lrr=1"), "lrr: got '1' from the command line; expected a known hyperparameter. Did you mean 'lr'?"),
        ((".", "steps=many"), "rl.training.stop.timesteps_total: got 'many' from the command line"),
        ((".", "--steps", "9", "steps=8"), "--steps: got 9 beside rl.training.stop.timesteps_total=8"),
    ],
)
def test_what_cannot_be_resumed_is_said(words: tuple[str, ...], message: str, results: Path) -> None:
    done = run_smrl("resume", *words, cwd=results)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_options_are_short_for_settings(tmp_path: Path) -> None:
    words = ("train", "--env", "RoboschoolReacher-v1", "--seed", "7", "--steps", "128", "lr=0.002", "video_freq=0")
    done = run_smrl(*words, *TINY_WORDS, "--out", "out", "--json", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["timesteps_total"] == 128
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    values = {name: config["values"][name] for name in ("env", "config.seed", "config.lr", "stop.timesteps_total")}
    assert values == {
        "env": "RoboschoolReacher-v1",
        "config.seed": 7,
        "config.lr": 0.002,
        "stop.timesteps_total": 128,
    }
    assert {config["sources"][name] for name in values} == {"the command line"}


def test_an_evaluation_prints_its_report_as_json(tiny_results: Path, tmp_path: Path) -> None:
    words = ("evaluate", str(tiny_results), "--seed", "5", "--steps", "400", "--out", str(tmp_path / "out"))
    done = run_smrl(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["seed"] == 5
    assert len(report["episodes"]) == 3  # of 150 steps each, whole ones
    assert "Mean Reward" in done.stderr
    by_setting = run_smrl(*words[:2], "seed=5", "evaluate_steps=400", "--out", "two", "--quiet", cwd=tmp_path)
    assert f"mean return  {report['mean_reward']:.2f}, from" in by_setting.stdout
    assert "Episode reward" not in by_setting.stdout
    assert json.loads((tmp_path / "two" / "evaluation.json").read_text())["episodes"] == report["episodes"]


def test_a_verbose_training_names_every_settings_source(tmp_path: Path) -> None:
    words = ("train", "--preset", "reacher", "training_iteration=1", "video_freq=0", "--out", "out", "--verbose")
    done = run_smrl(*words, *TINY_WORDS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "smrl: rl.training.config.gamma = 0.98, from preset reacher\n" in done.stderr
    assert "smrl: rl.training.stop.training_iteration = 1, from the command line\n" in done.stderr
    phases = re.findall("^smrl: (.*) …$", done.stderr, re.M)
    assert [name for name in phases if name in ("importing", "training", "saving", "exporting")] == [
        *("importing", "training", "saving", "exporting"),
    ]
    assert len(re.findall("^training_iteration: 1 ", done.stdout, re.M)) == 1
