"""The SageMaker SDK's local mode with the real image: the notebooks' jobs, their endpoints, a tuning, a Ctrl-C."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PEERS, ROOT, clean_environment, run_smrl
from tests.unity_stand_in import build_player

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.ray]
# What the SDK of 2020 gives to jobs of its Ray toolkit.
NUMBER = r"([-+]?[0-9]*[.]?[0-9]+([eE][-+]?[0-9]+)?)"
REWARD = """
def reward_function(params):
    return 1.0 if params["all_wheels_on_track"] else 1e-3
"""


def environment(folder: Path) -> dict[str, str]:
    """This process's, without the telemetry that the SDK would send."""
    config = folder / "sdk.yaml"
    config.write_text("SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n")
    return {**clean_environment(), "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config)}


def start(job: str, image: str, folder: Path) -> subprocess.Popen[str]:
    """Starts a job of tests/peers/local_mode.py, whose log is its stdout."""
    if not PEERS.exists():
        pytest.skip(f"{PEERS.parent.parent} is absent; `make test` installs the SageMaker SDK there")
    command = [str(PEERS), str(ROOT / "tests" / "peers" / "local_mode.py"), job, image, str(folder)]
    return subprocess.Popen(
        command, env=environment(folder), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def run(job: str, image: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Runs a job to its end; what it found, and its log."""
    with start(job, image, folder) as process:
        log, _ = process.communicate(timeout=420)
    (folder / "log.txt").write_text(log)
    assert process.returncode == 0, log[-4000:]
    found: dict[str, Any] = json.loads(log.strip().splitlines()[-1])
    return found, log


def read_metric(log: str, name: str) -> list[float]:
    """As SageMaker finds a metric in a log."""
    return [float(number) for number, _ in re.findall(rf"{name}: {NUMBER}", log)]


def test_a_robot_is_trained_and_its_endpoint_takes_the_request_of_2020(image: str, tmp_path: Path) -> None:
    found, log = run("robots", image, tmp_path)
    (action,) = found["actions"]
    assert len(action) == 2
    assert {"manifest.json", "1/saved_model.pb", "policy.onnx"} <= set(found["files"])
    assert "Reporting training SUCCESS" in log
    assert len(read_metric(log, "episode_reward_mean")) == 2
    assert len(read_metric(log, "episode_reward_max")) == 2


def test_a_unity_player_comes_in_the_train_channel(image: str, tmp_path: Path) -> None:
    build_player(tmp_path / "build", "Basic", name="basic_env_linux.x86_64", is_for_image=True)
    found, log = run("unity", image, tmp_path)
    assert len(found["predictions"]["predictions"]) == 1
    assert read_metric(log, "episode_reward_mean")


def test_a_log_is_learned_from_and_a_transform_job_answers_states(image: str, tmp_path: Path) -> None:
    collect = ("collect", "--env", "CartPole-v0", "--envs", "10")
    (tmp_path / "states").mkdir()
    assert run_smrl(*collect, "--episodes", "4", "--out", "log/cartpole.csv", cwd=tmp_path).returncode == 0
    assert run_smrl(*collect, "--states", "states.jsonl", cwd=tmp_path).returncode == 0
    shutil.copy(tmp_path / "states.jsonl", tmp_path / "states")  # without the session's file beside it
    found, _ = run("batch_rl", image, tmp_path)
    assert len(found["answers"]) == 10
    for answer in found["answers"]:
        assert len(json.loads(answer)["predictions"][0]) == 2


def test_a_deepracer_car_is_trained_by_a_reward_function_on_this_machine(image: str, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "reward.py").write_text(REWARD)
    found, log = run("deepracer", image, tmp_path)
    assert "manifest.json" in found["files"]
    assert read_metric(log, "episode_reward_mean")


def test_three_hosts_end_well_and_their_model_is_served(image: str, tmp_path: Path) -> None:
    """Compose ends every container when the first ends: a worker host must not be that first."""
    found, log = run("hosts", image, tmp_path)
    assert found["status"] == "Completed"
    assert len(found["predictions"]["predictions"]) == 1
    assert "ExitCode" not in log
    assert "Reporting training FAILURE" not in log
    assert log.count("Reporting training SUCCESS") >= 1


def test_the_tuning_notebooks_cells_tune_on_this_machine(image: str, tmp_path: Path) -> None:
    found, _ = run("tuning", image, tmp_path)
    assert len(found["jobs"]) == 2
    assert {job["TrainingJobStatus"] for job in found["jobs"]} == {"Completed"}
    scores = {job["TrainingJobName"]: job["FinalObjectiveValue"] for job in found["jobs"]}
    assert found["best"] == max(scores, key=lambda name: scores[name])
    (best,) = [job for job in found["jobs"] if job["TrainingJobName"] == found["best"]]
    assert found["source"] == str(ROOT / "entrypoints")
    assert float(found["estimator"]["rl.training.config.kl_coeff"]) == best["rl.training.config.kl_coeff"]
    log = (tmp_path / "local" / found["best"].rpartition("-")[0] / found["best"] / "log.txt").read_text()
    assert read_metric(log, "episode_reward_mean")[-1] == scores[found["best"]]
    assert len(found["predictions"]["predictions"]) == 1


def test_a_ctrl_c_ends_a_job_with_its_model(image: str, tmp_path: Path) -> None:
    with start("stop", image, tmp_path) as process:
        assert process.stdout is not None
        deadline, lines = time.monotonic() + 180, []
        for line in process.stdout:
            lines.append(line)
            assert time.monotonic() < deadline, "".join(lines)
            if "training_iteration: 3 " in line:
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=180)
    assert process.returncode == 0, "".join(lines) + rest
    found = json.loads(rest.strip().splitlines()[-1])
    assert found["status"] == "Stopped"
    assert {"manifest.json", "policy.onnx"} <= set(found["files"])
    assert "smrl: stopping; the training job saves first" in rest


def test_sdk_3_trains_in_its_local_container_mode(image: str, tmp_path: Path) -> None:
    python = ROOT / ".venv" / "sdk3" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python.parent.parent} is absent; `make test-system` installs SDK 3 there")
    command = [str(python), str(ROOT / "tests" / "peers" / "local_mode_3.py"), image, str(tmp_path)]
    done = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert {"manifest.json", "policy.onnx"} <= set(json.loads(done.stdout.splitlines()[-1]))
