"""DeepRacer jobs from end to end: training, evaluation, races, and the files that users' tools read."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from deepracer.logs import DeepRacerLog, SimulationLogsIO
from deepracer.logs.metrics import TrainingMetrics

from envs.deepracer.metadata import parse_metadata
from envs.deepracer.race import KNOWN_DYNAMICS
from envs.deepracer.racing import Racing, read_options
from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.artifacts.checkpoint import read_state
from runtime.artifacts.policy_file import read_policy
from runtime.container.layout import Container
from runtime.container.signals import StopRequest
from runtime.environments.spec import EnvSpec
from runtime.errors import UserError
from runtime.families.deepracer.callbacks import RecordSettings, TrainingRecords, remove_old_models
from runtime.families.deepracer.car_import import read_car_policy
from runtime.families.deepracer.driven_episodes import TRACE
from runtime.families.deepracer.driving import drive_episodes
from runtime.families.deepracer.hyperparameters import describe_hyperparameters
from runtime.families.deepracer.job_files import JobFile, read_job_file
from runtime.families.deepracer.races import Racer, run_race
from runtime.families.deepracer.records import SimTrace
from runtime.jobs.catalog import resolve
from runtime.jobs.deepracer_training_worker import as_overrides, read_hyperparameters
from runtime.jobs.evaluation import run_evaluation
from runtime.outputs.console import Reporter
from runtime.report.report_command import finish
from runtime.settings.resolve import Source
from tests.conftest import SHORT_RACES, run_smrl

NOTEBOOKS_REGEXES = {
    "reward-training": r"^Training>.*Total reward=(.*?),",
    "ppo-surrogate-loss": r"^Policy training>.*Surrogate loss=(.*?),",
    "ppo-entropy": r"^Policy training>.*Entropy=(.*?),",
    "reward-testing": r"^Testing>.*Total reward=(.*?),",
}
TRAINING_KEYS = [
    *("reward_score", "metric_time", "start_time", "elapsed_time_in_milliseconds", "episode", "trial", "phase"),
    *("completion_percentage", "episode_status"),
]
EVALUATION_KEYS = [
    *("completion_percentage", "metric_time", "start_time", "elapsed_time_in_milliseconds", "episode_status"),
    *("crash_count", "immobilized_count", "off_track_count", "reversed_count", "reset_count", "trial"),
]
HYPERPARAMETERS = [
    *("batch_size", "beta_entropy", "discount_factor", "e_greedy_value", "epsilon_steps", "exploration_type"),
    *("loss_type", "lr", "num_episodes_between_training", "num_epochs", "stack_size", "term_cond_avg_score"),
    "term_cond_max_episodes",
]
CONTINUOUS = {
    "action_space": {"steering_angle": {"high": 30, "low": -30}, "speed": {"high": 2, "low": 0.5}},
    "action_space_type": "continuous",
    "sensor": ["FRONT_FACING_CAMERA"],
    "neural_network": "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW",
    "version": "5",
}


@pytest.mark.ray
@pytest.mark.slow
def test_a_training_prints_lines_that_the_notebooks_regexes_read(trained_car: tuple[Path, str]) -> None:
    for name, regex in NOTEBOOKS_REGEXES.items():
        values = [float(value) for value in re.findall(regex, trained_car[1], re.M)]
        assert len(values) == {"reward-training": 6, "reward-testing": 10}.get(name, 2), name
        assert all(math.isfinite(value) for value in values)
    assert "evaluation_progress_mean: " in trained_car[1]
    assert "[BestModelSelection] Number of evaluations: 5 Evaluation episode progress: [" in trained_car[1]


@pytest.mark.ray
@pytest.mark.slow
def test_training_metrics_are_what_the_notebook_plots(trained_car: tuple[Path, str]) -> None:
    data = json.loads((trained_car[0] / "deepracer" / "training_metrics.json").read_text())
    assert (data["version"], data["best_model_metric"]) == (2.0, "progress")
    frame = pd.DataFrame(data["metrics"])
    assert list(frame.columns) == TRAINING_KEYS
    training = frame[frame["phase"] == "training"]
    assert training["episode"].tolist() == [1, 2, 3, 4, 5, 6]
    assert training["trial"].tolist() == [1, 2, 3, 1, 2, 3]
    assert (frame["phase"] == "evaluation").sum() == 10
    assert set(frame["episode_status"]) <= {"Off track", "Lap complete", "Immobilized", "Reversed"}
    axes = frame.plot(x="episode", y="reward_score")  # the notebook's cell
    assert axes.lines[0].get_xdata().tolist() == frame["episode"].tolist()
    starts = frame["start_time"].tolist()
    assert starts == sorted(starts)


@pytest.mark.ray
@pytest.mark.slow
def test_each_checkpoint_has_the_file_of_a_car(trained_car: tuple[Path, str]) -> None:
    folder = trained_car[0] / "deepracer" / "model"
    names = json.loads((folder / "deepracer_checkpoints.json").read_text())
    last = names["last_checkpoint"]["name"].partition("_")[0]
    assert sorted(path.name for path in folder.glob("*.pb")) == ["model_1.pb", f"model_{last}.pb"]
    checkpoint = trained_car[0] / "model" / "checkpoint"
    state = read_state(checkpoint)
    metadata = parse_metadata(state.policy["env_config"]["model_metadata"])
    written, _ = read_car_policy((folder / f"model_{last}.pb").read_bytes(), metadata)
    policy = read_policy(checkpoint, settings=state.policy)
    pictures = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 1), np.uint8)
    np.testing.assert_allclose(written.logits(pictures), policy.logits(pictures), atol=1e-6)


def test_the_newest_car_models_and_the_best_are_kept(tmp_path: Path) -> None:
    for number in (2, 3, 7, 8, 9, 10, 11):
        (tmp_path / f"model_{number}.pb").write_bytes(b"")
    (tmp_path / "model_metadata.json").write_text("{}")
    remove_old_models(tmp_path, best="3_Step-90.ckpt")
    kept = {f"model_{number}.pb" for number in (3, 8, 9, 10, 11)} | {"model_metadata.json"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.system
@pytest.mark.ray
@pytest.mark.slow
def test_log_tools_load_a_training_and_its_evaluation(trained_car: tuple[Path, str], tmp_path: Path) -> None:
    results = shutil.copytree(trained_car[0], tmp_path / "results")
    done = run_smrl("evaluate", str(results), "number_of_trials=2", "number_of_resets=3", cwd=results)
    assert done.returncode == 0, done.stderr
    log = DeepRacerLog(model_folder=str(results / "deepracer"))
    log.load_training_trace()
    frame = log.dataframe()
    assert sorted(frame["iteration"].unique()) == [0, 1]
    assert sorted(frame["episode"].unique()) == [0, 1, 2, 3, 4, 5]
    assert frame.groupby("episode").first()["episode_status"].unique().tolist() == ["prepare"]
    within = frame.sort_values(["episode", "steps"]).groupby("episode")["tstamp"].diff().dropna()
    assert within.to_numpy() == pytest.approx(1 / 15, abs=1e-5)
    assert log.agent_and_network()["network"] == "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW"
    assert len(log.action_space()) == 5
    hyperparameters = log.hyperparameters()
    assert sorted(hyperparameters) == sorted(HYPERPARAMETERS)
    assert {name: hyperparameters[name] for name in ("batch_size", "num_epochs", "num_episodes_between_training")} == {
        **{"batch_size": 32, "num_epochs": 1, "num_episodes_between_training": 3},
    }
    log.load_evaluation_trace(force=True)
    raced = log.dataframe()
    assert sorted(raced["episode"].unique()) == [0, 1]
    assert "pause" in set(raced["episode_status"])
    rows = json.loads((results / "evaluation" / "evaluation_metrics.json").read_text())["metrics"]
    assert [list(row) for row in rows] == [EVALUATION_KEYS] * 2
    assert [row["trial"] for row in rows] == [1, 2]
    assert (
        rows[0]["reset_count"]
        == rows[0]["off_track_count"]
        + rows[0]["reversed_count"]
        + rows[0]["immobilized_count"]
        + rows[0]["crash_count"]
    )
    table = pd.DataFrame(rows)  # the notebook's table
    table["elapsed_time"] = table["elapsed_time_in_milliseconds"] / 1000
    assert (table["elapsed_time"] > 0).all()
    for name in ("camera-pip", "camera-45degree", "camera-topview"):
        assert (results / "evaluation" / "mp4" / name / "0-video.mp4").stat().st_size > 1000
    assert (results / "evaluation" / "driven_lines.png").stat().st_size > 1000
    found = json.loads((results / "evaluation" / "evaluation.json").read_text())["racers"][0]["lap_bound_s"]
    assert f"; the track allows {math.floor(10 * found) / 10} s" in done.stdout
    assert "the same lap each time; dynamics=" in done.stdout
    spread = ("number_of_trials=2", 'dynamics={"noise": 0.1}', "--out", str(tmp_path / "spread"))
    assert "the same lap" not in run_smrl("evaluate", str(results), *spread, cwd=tmp_path).stdout
    elsewhere = tmp_path / "elsewhere"
    done = run_smrl("evaluate", str(results), "--out", str(elsewhere), "number_of_trials=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = DeepRacerLog(model_folder=str(elsewhere))
    log.load_evaluation_trace()
    assert log.dataframe()["episode"].unique().tolist() == [0]
    assert len(log.action_space()) == 5
    assert log.hyperparameters() == hyperparameters


@pytest.mark.ray
@pytest.mark.slow
def test_a_policy_is_evaluated_on_the_car_that_lags_and_the_report_says_so(
    trained_car: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(name: str, settings: dict[str, Any]) -> tuple[dict[str, Any], float]:
        stop = StopRequest()
        out = tmp_path / name
        finish(run_evaluation(Container(), stop, {"number_of_trials": "1", **settings}, model=trained_car[0], out=out))
        stop.release()
        steps = pd.read_csv(next(out.glob("evaluation-*/evaluation-simtrace/0-iteration.csv")))[["X", "Y"]]
        # It stands while the first step prepares.
        return json.loads((out / "evaluation.json").read_text()), float(np.linalg.norm(steps.iloc[2] - steps.iloc[1]))

    lagging, moved_m = evaluate("real", {"rl.training.config.env_config.dynamics": "real"})
    assert lagging["dynamics"] == {"name": "real", **KNOWN_DYNAMICS["real"].settings}
    assert lagging["track"] == "reinvent_base"
    assert "  dynamics  real\n" in capsys.readouterr().out
    assert moved_m < 0.01
    oval = {"preset": "deepracer", "rl.training.config.env_config.track": "oval", "dynamics": "kinematic"}
    at_once, moved_m = evaluate("kinematic", oval)
    assert (at_once["dynamics"]["name"], at_once["track"]) == ("kinematic", "oval")
    assert moved_m > 0.06


@pytest.mark.system
@pytest.mark.ray
@pytest.mark.slow
def test_two_models_race_on_one_track(trained_car: tuple[Path, str], tmp_path: Path) -> None:
    results = str(trained_car[0])
    words = ("evaluate", results, f"against={results}", "track=oval", "number_of_trials=1", "number_of_resets=2")
    done = run_smrl(*words, "--out", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "HEAD_TO_MODEL on oval, 1 trials" in done.stdout
    assert "laps won" in done.stdout
    starts = []
    for number in (0, 1):
        rows = json.loads((tmp_path / f"agent_{number}" / "evaluation_metrics.json").read_text())["metrics"]
        assert list(rows[0]) == EVALUATION_KEYS
        trace = next((tmp_path / f"agent_{number}").glob("evaluation-*/evaluation-simtrace/0-iteration.csv"))
        starts.append(pd.read_csv(trace).iloc[0][["X", "Y"]].to_numpy(float))
    assert np.linalg.norm(starts[0] - starts[1]) > 0.7  # one behind the other, in the other lane


@pytest.mark.ray
@pytest.mark.slow
def test_the_policy_is_exported_with_its_pixels_scale(trained_car: tuple[Path, str]) -> None:
    manifest = json.loads((trained_car[0] / "model" / "manifest.json").read_text())
    assert [export["file"] for export in manifest["exports"]] == ["1/saved_model.pb", "policy.onnx", "policy.pt2"]
    assert manifest["observation_space"]["shape"] == [120, 160, 1]
    state = read_state(trained_car[0] / "model" / "checkpoint")
    assert state.policy["env_config"]["model_metadata"]["version"] == "5"  # the file itself may be gone


@pytest.mark.system
@pytest.mark.ray
@pytest.mark.slow
def test_continuous_actions_on_two_workers_load_in_the_log_tool(tmp_path: Path) -> None:
    metadata = tmp_path / "model_metadata.json"
    metadata.write_text(json.dumps(CONTINUOUS))
    reward = tmp_path / "mine.py"
    reward.write_text("def reward_function(params):\n    return params['progress']\n")
    done = run_smrl(
        *("train", "--preset", "deepracer", "--out", "results", "rl.training.stop.training_iteration=1", *SHORT_RACES),
        *("rl.training.config.num_env_runners=2", "rl.training.export=false"),
        f"rl.training.config.env_config.model_metadata={metadata}",
        f"rl.training.config.env_config.reward_function={reward}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    records = tmp_path / "results" / "deepracer"
    rows = pd.read_csv(records / "0" / "training-simtrace" / "0-iteration.csv")
    assert rows["action"].str.match(r"^\[-?[\d.e-]+ -?[\d.e-]+\]$").all()
    assert rows["episode"].nunique() == 2  # of three episodes the first worker drives two
    log = DeepRacerLog(model_folder=str(records))
    log.load_training_trace()
    frame = log.dataframe()
    assert sorted(frame["worker"].unique()) == [0, 1]
    assert set(frame["action"]) == {-1}
    found = TrainingMetrics("none", fname=str(records / "training_metrics.json"), region="us-east-1").metrics
    assert found[found["phase"] == "training"][["episode", "trial"]].values.tolist() == [[1, 1], [2, 2]]
    assert (found["phase"] == "evaluation").any()
    other = json.loads((records / "training_metrics_1.json").read_text())["metrics"]
    assert [(row["episode"], row["trial"], row["phase"]) for row in other] == [(1, 1, "training")]


@pytest.mark.system
@pytest.mark.ray
@pytest.mark.slow
def test_one_training_drives_on_several_tracks_and_its_policy_on_the_first(tmp_path: Path) -> None:
    done = run_smrl(
        *("train", "--preset", "deepracer-race", "--out", "results", "rl.training.stop.training_iteration=1"),
        *(*SHORT_RACES, "rl.training.config.env_config.track=oval,reinvent_base", "rl.training.export=false"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results" / "deepracer" / "training_metrics.json").read_text())["metrics"]
    assert [row["phase"] for row in rows] == ["training"] * 3 + ["evaluation"] * 4
    steps = pd.read_csv(tmp_path / "results" / "deepracer" / "training-simtrace" / "0-iteration.csv")
    lengths = steps.groupby("episode")["track_len"].unique().map(list).tolist()
    assert [round(one[0], 1) for one in lengths] == [17.4, 17.4, 17.6]
    raced = run_smrl("evaluate", "results", "number_of_trials=1", cwd=tmp_path)
    assert raced.returncode == 0, raced.stderr
    assert json.loads((tmp_path / "results" / "evaluation" / "evaluation.json").read_text())["track"] == "oval"
    few = "rl.training.config.episodes_per_iteration=1"
    refused = run_smrl(
        *("train", "--preset", "deepracer", "rl.training.config.env_config.track=all", few), cwd=tmp_path
    )
    assert refused.returncode == 2
    assert "got 3 tracks and config.episodes_per_iteration 1; expected an episode on each track" in refused.stderr


@pytest.mark.system
@pytest.mark.ray
@pytest.mark.slow
def test_a_car_with_a_lidar_is_trained_and_raced_but_not_exported(tmp_path: Path) -> None:
    metadata = tmp_path / "model_metadata.json"
    metadata.write_text(json.dumps({**CONTINUOUS, "sensor": ["STEREO_CAMERAS", "SECTOR_LIDAR"]}))
    done = run_smrl(
        *("train", "--preset", "deepracer", "--out", "results", "rl.training.stop.training_iteration=1", *SHORT_RACES),
        *("rl.training.config.num_env_runners=0", "rl.training.config.env_config.number_of_obstacles=6"),
        f"rl.training.config.env_config.model_metadata={metadata}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "smrl: sampling by smrl's RacingRunner, learning by smrl's RacingLearner: DeepRacer-v0 has" in done.stderr
    assert "the policy is not exported: export: got a policy of a picture and other numbers together" in done.stderr
    raced = run_smrl("evaluate", "results", "number_of_trials=1", "number_of_obstacles=3", cwd=tmp_path)
    assert raced.returncode == 0, raced.stderr
    rows = json.loads((tmp_path / "results" / "evaluation" / "evaluation_metrics.json").read_text())["metrics"]
    assert len(rows) == 1


def test_step_lines_are_read_back_by_the_log_tool(tmp_path: Path) -> None:
    trace = np.zeros((3, len(TRACE)))
    columns = {name: number for number, name in enumerate(TRACE)}
    trace[:, columns["steps"]] = [1, 2, 3]
    trace[:, columns["x"]] = [3.1, 3.2, 3.3]
    trace[:, columns["time"]] = [1 / 15, 2 / 15, 3 / 15]
    trace[:, columns["status"]] = [7, 0, 3]
    trace[-1, columns["has_ended"]] = 1
    lines = SimTrace(tmp_path).write(0, [(0, trace), (1, trace)])
    log = tmp_path / "simulation.log"
    log.write_text("\n".join(lines))
    frame = SimulationLogsIO.convert_to_pandas(SimulationLogsIO.load_data(str(log)))
    assert frame["x"].tolist() == [3.1, 3.2, 3.3] * 2
    assert frame["episode"].tolist() == [0, 0, 0, 1, 1, 1]
    assert frame["episode_status"].tolist() == ["prepare", "in_progress", "off_track"] * 2


def test_the_notebooks_hyperparameters_become_clipped_ppos_numbers() -> None:
    notebook = {
        **{"batch_size": "64", "num_epochs": "10", "stack_size": "1", "lr": "0.0003"},
        **{"exploration_type": "Categorical", "e_greedy_value": "1", "epsilon_steps": "10000"},
        **{"beta_entropy": "0.01", "discount_factor": "0.999", "loss_type": "Huber"},
        **{"num_episodes_between_training": "20", "max_sample_count": "0", "sampling_frequency": "1"},
    }
    overrides = as_overrides(read_hyperparameters(notebook), JobFile({}, {"NUM_WORKERS": 2}, (), ()))
    expected = {
        **{"minibatch_size": 64, "num_epochs": 10, "lr": 0.0003, "gamma": 0.999, "entropy_coeff": 0.01},
        **{"vf_loss": "huber", "episodes_per_iteration": 20, "num_env_runners": 2},
    }
    found = {n.removeprefix("rl.training.config."): v for n, v in overrides.items() if ".config." in n}
    assert found == expected
    config = resolve([Source("the worker", overrides)], extras={})
    assert config.stop.given() == {}  # not the preset's own: a notebook's job ends by its own bounds


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"loss_type": "Huber", "lr": "0.0001", "batch_size": "128", "beta_entropy": "0.05", "num_epochs": "3"},
        {"exploration_type": "e-greedy", "e_greedy_value": "0.2", "epsilon_steps": "5000"},
        {"term_cond_avg_score": "350", "term_cond_max_episodes": "1000", "num_episodes_between_training": "30"},
        {"discount_factor": "0.9"},
    ],
)
def test_hyperparameters_are_written_as_the_job_was_asked_for_them(asked: dict[str, str]) -> None:
    values = read_hyperparameters(asked)
    config = resolve([Source("the worker", as_overrides(values, JobFile({}, {}, (), ())))], extras={})
    values.pop("sac_alpha")
    assert describe_hyperparameters(config) == {**values, "stack_size": 1}
    assert sorted(describe_hyperparameters(config)) == sorted(HYPERPARAMETERS)


def test_hyperparameters_of_a_job_without_the_notebook_are_written_as_well() -> None:
    asked = {"rl.training.config.lr": [[0, 0.001], [1000, 0.0001]], "rl.training.config.gamma": 0.95}
    config = resolve([Source("the command line", {"preset": "deepracer", **asked})], extras={})
    found = describe_hyperparameters(config)
    assert (found["lr"], found["discount_factor"], found["num_epochs"]) == (0.001, 0.95, 4)
    assert (found["exploration_type"], found["loss_type"]) == ("categorical", "mean squared error")
    assert (found["term_cond_avg_score"], found["term_cond_max_episodes"]) == (200, 100_000)


def test_log_tools_load_a_training_whose_metadata_leaves_everything_to_its_defaults(tmp_path: Path) -> None:
    metadata = {"action_space": [{"steering_angle": -20, "speed": 1}, {"steering_angle": 20, "speed": 1}]}
    settings = RecordSettings(tmp_path, hyperparameters={"lr": 0.1}, evaluation_trials=0)
    TrainingRecords(settings, EnvSpec("DeepRacer-v0", {"model_metadata": metadata}), Reporter(), seed=0)
    trace = np.zeros((2, len(TRACE)))
    SimTrace(tmp_path / "training-simtrace").write(0, [(0, trace)])
    log = DeepRacerLog(model_folder=str(tmp_path))
    log.load_training_trace()
    expected = {"sensor_list": ["observation"], "network": "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW", "simapp_version": 1.0}
    assert log.agent_and_network() == expected
    assert log.hyperparameters() == {"lr": 0.1}


def test_wrong_hyperparameters_are_listed_at_once() -> None:
    wrong = {"batch_size": "many", "lr": "3", "loss_type": "Hubber", "num_epoch": "3"}
    with pytest.raises(UserError, match=r"(?s)batch_size: got 'many'.*lr: got '3'.*loss_type.*num_epoch: .*num_epochs"):
        read_hyperparameters(wrong)


def test_of_a_rollout_that_is_too_long_the_last_episodes_are_dropped_not_the_long_ones() -> None:
    racing = Racing(read_options(track="oval", change_start_position=False), worlds=4, seed=0)
    turns = {0: 0, 1: 2, 2: 2, 3: 0}  # the first and last world turn off the road at once

    def act(pictures: torch.Tensor) -> torch.Tensor:
        active = np.flatnonzero(~racing.simulation.has_ended)[: len(pictures)]
        return torch.nn.functional.one_hot(torch.tensor([turns[int(row)] for row in active]), 5).float()

    def lengths(most_steps: int) -> list[int]:
        found = drive_episodes(racing, act, lambda logits: logits.argmax(axis=1), most_steps=most_steps)
        return [int(length) for length in found.lengths]

    whole = lengths(10_000)
    assert len(whole) == 4
    short, long = whole[0], whole[1]
    assert short < long
    assert lengths(long + 1) == [short, long]  # the third one would begin beyond the bound
    assert lengths(long - 1) == [short, long - 1]  # one that is as long as the bound is cut
    assert lengths(short) == [short]


def test_every_trial_of_a_race_has_a_light_of_its_own_where_it_is_asked_for() -> None:
    options = read_options(track="oval", enable_domain_randomization=True)
    seen: list[float] = []

    def logits(pictures: np.ndarray) -> np.ndarray:
        seen.append(float(pictures[0, 80:].mean()))
        return np.eye(5, dtype=np.float32)[[0]]  # off the road at once

    racer = Racer("car", logits, options.metadata)
    stop = StopRequest()
    (result,) = run_race(options, [racer], trials=3, videos=None, stop=stop, seed=0)
    stop.release()
    firsts = [seen[sum(len(trace) for trace in result.traces[:number])] for number in range(3)]
    assert np.std(firsts) > 3


@pytest.mark.ray
@pytest.mark.slow
def test_a_reward_function_that_fails_in_training_is_named_with_its_line(tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text("def reward_function(params):\n    return float('nan') if params['steps'] > 9 else 1.0\n")
    done = run_smrl(
        *("train", "--preset", "deepracer", "--out", "results", "rl.training.stop.training_iteration=1", *SHORT_RACES),
        f"rl.training.config.env_config.reward_function={reward}",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert re.search(r"mine.py:1: reward_function returned nan; expected a finite number .* steps=10,", done.stderr)


@pytest.mark.system
@pytest.mark.ray
@pytest.mark.slow
def test_a_resumed_training_keeps_its_records(trained_car: tuple[Path, str], tmp_path: Path) -> None:
    results = shutil.copytree(trained_car[0], tmp_path / "results")
    path = results / "deepracer" / "training_metrics.json"
    before = json.loads(path.read_text())["metrics"]
    path.unlink()  # as on a new machine, which has the checkpoints alone
    words = (
        "train",
        "--preset",
        "deepracer",
        "--out",
        str(results),
        "rl.training.stop.training_iteration=3",
        *SHORT_RACES,
    )
    done = run_smrl(*words, "rl.training.config.num_env_runners=0", "rl.training.export=false", cwd=results)
    assert done.returncode == 0, done.stderr
    after = json.loads(path.read_text())["metrics"]
    assert after[: len(before)] == before
    assert [row["episode"] for row in after[len(before) :] if row["phase"] == "training"] == [7, 8, 9]
    assert (results / "deepracer" / "training-simtrace" / "2-iteration.csv").exists()


TEMPLATE = """
JOB_TYPE: EVALUATION
WORLD_NAME: "oval"
NUMBER_OF_TRIALS: "3"
NUMBER_OF_RESETS: "10000"
OFF_TRACK_PENALTY: ["2.0", "2.0"]
IS_CONTINUOUS: "false"
RACE_TYPE: OBJECT_AVOIDANCE
NUMBER_OF_OBSTACLES: "6"
OBJECT_POSITIONS: ["0.25, +1", "0.5, -1"]
RANDOMIZE_OBSTACLE_LOCATIONS: "True"
CAR_COLOR: [White, Black]
KINESIS_VIDEO_STREAM_NAME: ""
MODEL_S3_PREFIX: [a, b]
RESET_BEHIND_DIST: "1.0"
NUMBER_OF_REVERSE_COUNTS: "3"
SOMETHING_NEW: 1
"""


def test_a_job_file_is_read_with_its_strings_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_params.yaml"
    path.write_text(TEMPLATE)
    job = read_job_file(path, is_training=False)
    assert job.values["WORLD_NAME"] == "oval"
    assert [car["MODEL_S3_PREFIX"] for car in job.cars] == ["a", "b"]
    assert job.notes == (
        "evaluation_params.yaml: NUMBER_OF_REVERSE_COUNTS='3' has no effect here.",
        "evaluation_params.yaml: SOMETHING_NEW is not known here and left out.",
    )
    options = read_options(track="oval", **job.race)
    assert (options.race.number_of_resets, options.race.off_track_penalty) == (10000, 2.0)
    assert options.race.object_positions == ((0.25, 1), (0.5, -1))
    assert options.race.collision_penalty == 5.0  # an evaluation's default
    path.write_text(TEMPLATE.replace('"10000"', "1").replace('"6"', "few"))
    with pytest.raises(UserError, match=r"(?s)NUMBER_OF_OBSTACLES: got 'few'.*NUMBER_OF_RESETS: got 1"):
        read_job_file(path, is_training=False)
