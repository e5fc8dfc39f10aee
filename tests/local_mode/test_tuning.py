"""HyperparameterTuner in local mode, with the real SDK and a program in the place of Docker's."""

from __future__ import annotations

import json
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PEERS, ROOT, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.slow]
PREFIX = "UserError: "


def start(folder: Path, *cases: str) -> subprocess.Popen[str]:
    """Starts cases of tests/peers/tune_stand_in.py."""
    if not PEERS.exists():
        pytest.skip(f"{PEERS.parent.parent} is absent; `make test` installs the SageMaker SDK there")
    (folder / "sdk.yaml").write_text(
        "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"
    )
    programs = folder / "bin"
    programs.mkdir()
    (programs / "docker").write_text(
        f'#!/bin/sh\nexec {PEERS} {ROOT / "tests" / "local_mode" / "docker_stand_in.py"} "$@"\n'
    )
    (programs / "docker").chmod(0o755)
    environment = {**clean_environment(), "SAGEMAKER_USER_CONFIG_OVERRIDE": str(folder / "sdk.yaml")}
    environment["PATH"] = f"{programs}:/usr/bin:/bin"
    command = [str(PEERS), str(ROOT / "tests" / "peers" / "tune_stand_in.py"), str(folder / "results"), *cases]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each case found, and `printed`, what it printed."""
    cases = ("refusals", "no_docker", "no_objective", "grid", "hyperband")
    with start(tmp_path_factory.mktemp("tuning"), *cases) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    values: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return {**values, "printed": out}


def read_model(model_data: str) -> dict[str, float]:
    """What the job wrote into its model."""
    with tarfile.open(model_data.removeprefix("file://")) as archive:
        file = archive.extractfile("x.json")
        assert file is not None
        found: dict[str, float] = json.load(file)
    return found


def test_what_cannot_run_is_refused_before_a_container_starts(found: dict[str, Any]) -> None:
    image, objective, group = found["refusals"]
    assert image.startswith(
        f"{PREFIX}image_uri: got 'no-such-image', which is not on this machine and cannot be pulled"
    )
    assert "pull access denied for no-such-image" in image
    assert objective.startswith(f"{PREFIX}objective_metric_name: got 'reward' from the tuner; expected a name of its")
    assert "episode_reward_mean" in objective
    assert "expected a regular expression with a group for the number" in group


def test_a_machine_without_docker_is_told_so(found: dict[str, Any]) -> None:
    assert found["no_docker"].startswith(f"{PREFIX}docker: no such program; expected Docker with Compose")


def test_a_regex_that_finds_nothing_fails_the_tuning_with_its_name(found: dict[str, Any]) -> None:
    ended = found["no_objective"]
    assert ended["status"] == "Failed"
    assert (
        "no line of its log has episode_reward_mean; expected one that the regex 'my_return: ([0-9]+)'"
        in ended["error"]
    )
    assert "log.txt" in found["printed"]


def test_the_best_of_a_grid_is_found_and_a_failed_job_says_why(found: dict[str, Any]) -> None:
    tuned = found["grid"]
    assert read_model(tuned["model_data"])["x"] == 0.4
    assert tuned["sorted"][0] == tuned["best"]
    assert len(tuned["sorted"]) == 2
    assert tuned["failed"] == "x is null"
    assert tuned["counters"] == {
        "Completed": 2, "InProgress": 0, "RetryableError": 0, "NonRetryableError": 1, "Stopped": 0,
    }  # fmt: skip
    assert tuned["warm"] == "second-001"


def test_hyperband_stops_a_job_after_its_resource_and_keeps_the_model(found: dict[str, Any]) -> None:
    stopped = found["hyperband"]
    assert stopped["status"] == "Stopped"
    assert 4 <= read_model(stopped["model_data"])["iteration"] < 1000


def test_a_ctrl_c_stops_a_tuning_whose_jobs_save(tmp_path: Path) -> None:
    with start(tmp_path, "interrupt") as process:
        deadline = time.monotonic() + 120
        results = tmp_path / "results"
        while sum("episode_reward_mean" in log.read_text() for log in results.glob("*/*/log.txt")) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    found = json.loads(out.strip().splitlines()[-1])["interrupt"]
    assert found["status"] == "Stopped"
    assert found["jobs"] == ["Stopped", "Stopped"]
    assert read_model(found["model_data"])["iteration"] >= 1
    assert "smrl: stopping; running training jobs save first" in err
