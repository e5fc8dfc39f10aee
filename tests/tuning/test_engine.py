"""Tunings in this process: early stopping, several seeds, failures, crashes, a stop, and a resumed tuning."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.container.layout import Container
from runtime.container.signals import StopRequest
from runtime.errors import UserError
from runtime.tuning.records import best_trial, gather_trials, read_records
from runtime.tuning.tuning_job import TuningRequest, run_tuning
from tests.conftest import TINY

pytestmark = [pytest.mark.slow]
PREFIX = "rl.training.config."
LR = {"Name": f"{PREFIX}lr", "MinValue": "1e-5", "MaxValue": "1e-2", "ScalingType": "Logarithmic"}


def tune(folder: Path, words: dict[str, Any], **settings: str) -> list[dict[str, Any]]:
    """Runs a tuning into `out`; returns its log."""
    static = {
        "preset": "cartpole",
        **TINY,
        "rl.training.stop.training_iteration": "8",
        f"{PREFIX}seed": "5",
        **settings,
    }
    config = {"ResourceLimits": {"MaxNumberOfTrainingJobs": 5, "MaxParallelTrainingJobs": 2}, "RandomSeed": 1, **words}
    seeds = config.pop("SeedsPerTrial", 1)
    job = {
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": {"StaticHyperParameters": static},
        "SeedsPerTrial": seeds,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    stop = StopRequest()
    try:
        run_tuning(Container(num_cpus=2), stop, TuningRequest(folder / "job.yaml", {}, folder / "out"))
    finally:
        stop.release()
    return [json.loads(line) for line in (folder / "out" / "tuning.jsonl").read_text().splitlines()]


@pytest.mark.system
def test_jobs_below_the_median_are_ended_and_only_the_others_get_more_seeds(tmp_path: Path) -> None:
    """The objective is the learning rate itself, so the jobs below the median are known in advance."""
    rates = ["0.003", "0.004", "0.005", "1e-6", "1e-7"]
    words = {
        "Strategy": "Grid",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "cur_lr"},
        "ParameterRanges": {"CategoricalParameterRanges": [{"Name": f"{PREFIX}lr", "Values": rates}]},
        "ResourceLimits": {"MaxParallelTrainingJobs": 1},
        **{"TrainingJobEarlyStoppingType": "Auto", "SeedsPerTrial": 2},
    }
    tune(tmp_path, words)
    trials = gather_trials(read_records(tmp_path / "out"))
    assert [trial.state for trial in trials] == ["completed"] * 3 + ["stopped"] * 2
    assert [set(trial.jobs) for trial in trials] == [{5, 6}] * 3 + [{5}] * 2
    for trial in trials:
        for job in trial.jobs.values():
            assert job.training_iteration == (8 if job.state == "completed" else 5)
            manifest = json.loads((tmp_path / "out" / job.folder / "model" / "manifest.json").read_text())
            assert manifest["training_iteration"] == job.training_iteration
    best = best_trial(trials, seeds=2, maximize=True)
    assert best is not None
    assert best.number == 3
    assert best.objective == pytest.approx(0.005)


@pytest.mark.system
def test_hyperband_spends_most_on_what_does_well(tmp_path: Path) -> None:
    words = {
        "Strategy": "Hyperband",
        "StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 9}},
        "ParameterRanges": {"ContinuousParameterRanges": [LR]},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 6, "MaxParallelTrainingJobs": 2},
    }
    tune(tmp_path, words, **{"rl.training.stop.training_iteration": "9", f"{PREFIX}train_batch_size": "256"})
    trials = gather_trials(read_records(tmp_path / "out"))
    spent = {trial.number: job.training_iteration for trial in trials for job in trial.jobs.values()}
    assert len(spent) == 6
    assert any(count == 9 for count in spent.values())
    assert any(count < 9 for count in spent.values())
    assert all(trial.state == ("completed" if spent[trial.number] == 9 else "stopped") for trial in trials)


def test_a_point_that_fails_takes_its_other_seeds_along_and_nothing_else(tmp_path: Path) -> None:
    envs = ["tests.toy_envs:Raises", "CartPole-v1"]
    ranges = {"CategoricalParameterRanges": [{"Name": "rl.training.env", "Values": envs}]}
    limits = {"MaxParallelTrainingJobs": 2}
    words = {"Strategy": "Grid", "ParameterRanges": ranges, "SeedsPerTrial": 2, "ResourceLimits": limits}
    log = tune(tmp_path, words)
    failed, whole = gather_trials(read_records(tmp_path / "out"))
    assert (failed.state, whole.state) == ("failed", "completed")
    assert set(whole.jobs) == {5, 6}
    assert all(line["reason"] for line in log if line["state"] == "failed")
    assert yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())["training"]["env"] == "CartPole-v1"


def test_a_crash_restarts_its_own_trial_from_the_checkpoint_and_fails_it_at_the_third(tmp_path: Path) -> None:
    once = json.dumps({"once": str(tmp_path / "crashed")})
    ranges = {"CategoricalParameterRanges": [{"Name": "rl.training.config.env_config", "Values": ["{}", once]}]}
    words = {"Strategy": "Grid", "ParameterRanges": ranges}
    log = tune(tmp_path, words, **{"rl.training.env": "tests.toy_envs:Crashes", "rl.training.checkpoint_freq": "1"})
    assert (tmp_path / "crashed").exists()
    always, once_only = gather_trials(read_records(tmp_path / "out"))
    assert (always.state, once_only.state) == ("failed", "completed")
    reasons = [line["reason"] for line in log if line["state"] == "failed"]
    assert reasons == ["its process died 3 times; see log.txt in its folder, and the memory"]
    folder = tmp_path / "out" / once_only.jobs[5].folder
    assert (folder / "log.txt").read_text().count("resuming from") == 1
    rows = [json.loads(line)["training_iteration"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, 9))


@pytest.mark.system
def test_a_stop_ends_running_trials_and_the_next_start_resumes_them(tmp_path: Path) -> None:
    words = {"ParameterRanges": {"ContinuousParameterRanges": [LR]}}
    long = {"rl.training.stop.training_iteration": "4000", "rl.training.checkpoint_freq": "1000"}

    def stop_once_it_runs() -> None:
        while not list((tmp_path / "out").glob("trials/002/metrics.jsonl")):
            done.wait(0.05)
        done.wait(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    done = threading.Event()
    thread = threading.Thread(target=stop_once_it_runs)
    thread.start()
    log = tune(tmp_path, words, **long)
    thread.join()
    assert [line["state"] for line in log] == ["started", "started"]
    counts = []
    for line in log:
        folder = tmp_path / "out" / line["folder"]
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        counts.append(len(rows))
        assert json.loads((folder / "model" / "manifest.json").read_text())["training_iteration"] == len(rows)
    assert all(0 < count < 4000 for count in counts)
    with (tmp_path / "out" / "tuning.jsonl").open("a") as file:
        file.write('{"trial": 3, "se')  # cut by a kill
    with pytest.raises(UserError, match="differs in static"):
        tune(tmp_path, words, **{**long, f"{PREFIX}gamma": "0.5"})
    limits = {"MaxNumberOfTrainingJobs": 2, "MaxRuntimeInSeconds": 1, "MaxParallelTrainingJobs": 2}
    again = tune(tmp_path, {**words, "ResourceLimits": limits}, **long)
    assert again == log
    for line, count in zip(log, counts, strict=True):
        folder = tmp_path / "out" / line["folder"]
        assert f"iteration {count}, " in (folder / "log.txt").read_text().split("resuming from")[1]
        rows = [json.loads(row)["training_iteration"] for row in (folder / "metrics.jsonl").read_text().splitlines()]
        assert rows == list(range(1, len(rows) + 1))


@pytest.mark.system
def test_logged_data_is_tuned_too(tmp_path: Path) -> None:
    from runtime.offline.data.collecting import CollectRequest, run_collect

    log = tmp_path / "log.csv"
    request = CollectRequest(
        **{"env": "CartPole-v0", "envs": 10, "episodes": 3, "steps": None, "policy": "uniform"},  # type: ignore[arg-type]
        **{"epsilon": 0.0, "seed": 0, "out": log, "states": None, "action_probs": None},  # type: ignore[arg-type]
    )
    stop = StopRequest()
    run_collect(request, stop)
    stop.release()
    objective = {"Type": "Maximize", "MetricName": "estimated_return"}
    job = {
        "HyperParameterTuningJobConfig": {
            "HyperParameterTuningJobObjective": objective,
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {"ContinuousParameterRanges": [LR]},
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {
                **{"preset": "cartpole-bcq", "rl.training.data": str(log), "rl.training.stop.training_iteration": 2},
                f"{PREFIX}updates_per_iteration": 20,
            }
        },
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    stop = StopRequest()
    run_tuning(Container(num_cpus=2), stop, TuningRequest(tmp_path / "job.yaml", {}, tmp_path / "out"))
    stop.release()
    trials = gather_trials(read_records(tmp_path / "out"))
    assert [trial.state for trial in trials] == ["completed", "completed"]
    assert all(trial.objective is not None for trial in trials)
    preset = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert preset["training"]["run"] == "BCQ"
