"""Tuning from the command line and in a container: real trials that are killed and resumed, fail, and are evaluated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.jobs.catalog import resolve
from runtime.settings.resolve import Source
from tests.conftest import BIN, TINY, OptMl, clean_environment, run_smrl

pytestmark = [pytest.mark.slow, pytest.mark.ray]
HOLD = """
import fcntl, os, sys, time
for path in sys.argv[1:]:
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(2)
"""
LR = {"Name": "rl.training.config.lr", "MinValue": "1e-5", "MaxValue": "1e-2", "ScalingType": "Logarithmic"}


def tuning_job(ranges: dict[str, Any], limits: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A tuning of tiny reacher trainings."""
    return {
        "HyperParameterTuningJobConfig": {
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "episode_reward_mean"},
            "ResourceLimits": limits,
            "ParameterRanges": ranges,
            "RandomSeed": 3,
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {
                **{"preset": "reacher", **TINY, "rl.training.checkpoint_freq": "1"},
                **{"rl.training.stop.timesteps_total": "640", "rl.training.config.seed": "11"},
            }
        },
        **more,
    }


def read_log(folder: Path) -> list[dict[str, Any]]:
    """tuning.jsonl."""
    path = folder / "tuning.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.system
def test_a_killed_tuning_resumes_and_writes_the_best_model(tmp_path: Path) -> None:
    scaling = {"Name": "rl.training.config.normalize_actions", "Values": ['"True"', '"False"']}
    ranges = {"ContinuousParameterRanges": [LR], "CategoricalParameterRanges": [scaling]}
    limits = {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2}
    (tmp_path / "job.json").write_text(json.dumps(tuning_job(ranges, limits, SeedsPerTrial=2)))
    out = tmp_path / "out"
    command = [str(BIN / "smrl"), "tune", "job.json", "--out", "out"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 180
        while not any(line["state"] == "completed" for line in read_log(out)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    before = read_log(out)
    running = {(line["trial"], line["seed"]): line["folder"] for line in before}
    for line in before:
        if line["state"] == "completed":
            del running[line["trial"], line["seed"]]
    held = out / next(iter(running.values())) / "checkpoints" / ".lock"
    held.parent.mkdir(parents=True, exist_ok=True)
    held.touch()
    # A process of the killed tuning that the kernel has not ended yet: it holds the locks for some seconds more.
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out), str(held)], stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == b"held\n"
        done = run_smrl("tune", "job.json", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = read_log(out)
    assert log[: len(before)] == before
    ended = [line for line in log if line["state"] == "completed"]
    assert sorted((line["trial"], line["seed"]) for line in ended) == [(t, s) for t in (1, 2, 3, 4) for s in (11, 12)]
    for line in ended:
        rows = [json.loads(text) for text in (out / line["folder"] / "metrics.jsonl").read_text().splitlines()]
        assert [row["training_iteration"] for row in rows] == list(range(1, 11))
        assert rows[-1]["episode_reward_mean"] == line["objective"]
        assert (out / line["folder"] / "model" / "manifest.json").exists()
    means = {n: sum(line["objective"] for line in ended if line["trial"] == n) / 2 for n in (1, 2, 3, 4)}
    best = max(means, key=lambda n: means[n])
    assert f"trial {best}" in done.stdout
    assert f"{means[best]:.6g} ±" in done.stdout
    point = next(line["hyperparameters"] for line in ended if line["trial"] == best)
    preset = yaml.safe_load((out / "best.yaml").read_text())
    assert preset["training"]["config"]["lr"] == point["rl.training.config.lr"]
    config = resolve([Source("a test", {"preset": str(out / "best.yaml")})], extras={})
    assert config.values()["config.normalize_actions"] is (point["rl.training.config.normalize_actions"] == '"True"')
    assert config.values()["config.num_env_runners"] == "auto"
    manifest = json.loads((out / "model" / "manifest.json").read_text())
    assert [one["format"] for one in manifest["exports"]] == ["tensorflow-savedmodel", "onnx", "torch-export"]
    assert (out / "report.html").read_text().count('class="best"') == 1
    again = run_smrl("tune", "job.json", "--out", "out", "rl.training.config.gamma=0.5", cwd=tmp_path)
    assert again.returncode == 2
    assert "got a tuning of another job, which differs in static" in again.stderr


@pytest.mark.system
def test_a_container_tunes_by_its_channel_and_a_trial_that_fails_is_named(opt_ml: OptMl) -> None:
    """Values are quoted as the SDK does; one trial has so large an entropy weight that its network diverges."""
    grid = {"CategoricalParameterRanges": [{"Name": "rl.training.config.lr", "Values": ['"1e+30"', '"0.001"']}]}
    job = tuning_job(grid, {})
    job["HyperParameterTuningJobConfig"]["Strategy"] = "Grid"
    opt_ml.write({"sagemaker_program": "entrypoints/tune.py"}, channels=("tuning",))
    (opt_ml.base / "input/data/tuning/job.yaml").write_text(yaml.safe_dump(job))
    root = Path(__file__).resolve().parents[2]
    opt_ml.add_code(*(root / name for name in ("entrypoints", "runtime", "envs", "presets")))
    running = opt_ml.run()
    assert running.code == 0, running.log
    assert "smrl: trial 1, seed 11, failed: training of RoboschoolReacher-v1" in running.log
    assert "trial: 2 seed: 11" in running.log
    data = opt_ml.base / "output" / "data"
    assert [line["state"] for line in read_log(data)] == ["started", "failed", "started", "completed"]
    assert (data / "trials" / "002" / "metrics.jsonl").exists()
    assert (opt_ml.base / "model" / "1" / "saved_model.pb").exists()
    assert json.loads((opt_ml.base / "model" / "params.json").read_text())["training"]["config"]["lr"] == 0.001


@pytest.mark.parametrize(
    ("ranges", "words", "match"),
    [
        (
            {"ContinuousParameterRanges": [{**LR, "Name": "rl.training.config.gama"}]},
            (),
            "gama: got 1e-05 from the tuning job; expected .*",
        ),
        ({"ContinuousParameterRanges": [{**LR, "Name": "rl.training.config.gamma", "MaxValue": 2}]}, (), "got 2"),
        ({"ContinuousParameterRanges": [LR]}, ("rl.training.config.lr=1",), "config.lr: got a value and a range"),
        ({"ContinuousParameterRanges": [LR]}, ("rl.training.config.num_env_runners=2",), "expected 0 in a tuning job"),
    ],
)  # fmt: skip
def test_a_range_that_breaks_a_settings_rule_is_refused_before_anything_starts(
    tmp_path: Path, ranges: dict[str, Any], words: tuple[str, ...], match: str
) -> None:
    import re

    (tmp_path / "job.json").write_text(json.dumps(tuning_job(ranges, {})))
    done = run_smrl("tune", "job.json", "--out", "out", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(match, done.stderr)
    assert not (tmp_path / "out").exists()
