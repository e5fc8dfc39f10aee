"""Experiment trackers: Weights & Biases offline, a local server of MLflow, and trackers that fail."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import Problems, UserError
from runtime.outputs.metrics import read_rows
from runtime.outputs.tracking import RUN_IDS, Tracking, check_tracker, tracking
from tests.conftest import ROOT, TINY, clean_environment
from tests.servers import free_port

TRAIN = ["train", "--env", "CartPole-v1", "--seed", "1", "rl.training.video_freq=0"]
TRAIN += [f"{name}={value}" for name, value in TINY.items()]
MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def needs(package: str) -> pytest.MarkDecorator:
    reason = f"{package} is not installed: pip install 'smrl[{package}]'"
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=reason)


def run_training(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "runtime.cli", *TRAIN, "--out", "results", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@needs("wandb")
@pytest.mark.slow
@pytest.mark.system
def test_an_offline_run_of_wandb_has_settings_metrics_summary_and_paths(tmp_path: Path) -> None:
    words = ("rl.training.tracking=wandb", "rl.training.stop.training_iteration=2")
    done = run_training(*words, cwd=tmp_path, WANDB_MODE="offline", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "tracking by wandb has ended" not in done.stderr
    (file,) = (tmp_path / "results").glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()  # records of protobuf, whose texts are readable; values are JSON
    rows = read_rows(tmp_path / "results" / "metrics.jsonl")
    assert len(rows) == 2
    for row in rows:
        assert json.dumps(row["total_loss"]).encode() in content
    for text in ("config.train_batch_size", "total_loss", "path/model", str(tmp_path / "results" / "model")):
        assert text.encode() in content, text


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a server of MLflow on this machine."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'runs.db'}", "--artifacts-destination", str(folder)]
    environment = {**clean_environment(), **MLFLOW, "HOME": str(folder)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True, text=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not is_healthy(f"{address}/health"):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def is_healthy(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@needs("mlflow")
@pytest.mark.slow
@pytest.mark.system
# MLflow 3.17 asks SQLAlchemy 2.1 for it.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.parametrize("kind", ["database", "server"])
def test_a_run_of_mlflow_has_settings_metrics_summary_and_paths_and_is_resumed(kind: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    with contextlib.ExitStack() as stack:
        address = f"sqlite:///{tmp_path / 'mine.db'}"
        if kind == "server":
            pytest.importorskip("aiohttp", reason="MLflow's server needs aiohttp: pip install aiohttp")
            address = stack.enter_context(mlflow_server(tmp_path))
        for iterations in (2, 3):
            words = ("rl.training.tracking=mlflow", f"rl.training.stop.training_iteration={iterations}")
            variables = {"MLFLOW_TRACKING_URI": address, "HOME": str(tmp_path), **MLFLOW}
            done = run_training(*words, cwd=tmp_path, **variables)
            assert done.returncode == 0, done.stderr
            assert "tracking by mlflow has ended" not in done.stderr
            assert "mlflow" not in done.stdout.replace("tracking=mlflow", "")
        results = tmp_path / "results"
        run_id = json.loads((results / "checkpoints" / RUN_IDS).read_text())["mlflow"]
        client = MlflowClient(address)
        run = client.get_run(run_id)
        history = client.get_metric_history(run_id, "total_loss")
    assert run.info.run_name == "results"
    assert run.info.status == "FINISHED"
    assert run.data.params["config.train_batch_size"] == str(TINY["rl.training.config.train_batch_size"])
    assert run.data.params["stop.training_iteration"] == "2"
    assert run.data.tags["resumed with/stop.training_iteration"] == "3"
    assert run.data.tags["path/model"] == str(results / "model")
    assert run.data.tags["summary/training_iteration"] == "3"
    rows = read_rows(results / "metrics.jsonl")
    assert [row["training_iteration"] for row in rows] == [1, 2, 3]
    assert [(one.step, one.value) for one in history] == [
        (row["training_iteration"], pytest.approx(row["total_loss"])) for row in rows
    ]


@needs("mlflow")
@pytest.mark.slow
@pytest.mark.system
def test_a_server_of_mlflow_that_is_absent_ends_no_training(tmp_path: Path) -> None:
    variables = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    words = ("rl.training.tracking=mlflow", "rl.training.stop.training_iteration=1")
    done = run_training(*words, cwd=tmp_path, HOME=str(tmp_path), **variables, **MLFLOW)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tracking by mlflow has ended: ") == 1
    assert (tmp_path / "results" / "model" / "manifest.json").is_file()


@pytest.mark.parametrize(("tracker", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_missing_package_is_one_error_with_pips_command(tracker: str, package: str) -> None:
    if importlib.util.find_spec(tracker) is not None:
        pytest.skip(f"{tracker} is installed")
    problems = Problems()
    check_tracker({"tracking": tracker}, {"tracking": "the command line"}, problems)
    with pytest.raises(
        UserError, match=rf"rl\.training\.tracking: got '{tracker}' from the command line; .*pip install {package}, or"
    ):
        problems.raise_if_any()


def test_no_tracker_is_no_problem_and_does_nothing(tmp_path: Path) -> None:
    problems = Problems()
    check_tracker({}, {}, problems)
    problems.raise_if_any()
    with tracking(None, pytest.fail) as run:
        run.start("run", {}, tmp_path, ids=tmp_path)
        run.write({"training_iteration": 1})
        run.describe({}, {})
    assert not (tmp_path / RUN_IDS).exists()


class Listed:
    """A tracker that keeps what it receives, and fails or hangs on request."""

    def __init__(self, *, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.hangs_until: threading.Event | None = None
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.resumed: str | None = None
        self.has_failed: bool | None = None
        self.paths: Mapping[str, str] = {}

    def start(self, name: str, settings: Mapping[str, Any], folder: Path, run_id: str | None) -> str:
        if self.hangs_until is not None:
            self.hangs_until.wait()
        self.resumed = run_id
        return "id-1"

    def write(self, row: Mapping[str, float], step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("refused\nand more")
        self.rows.append((step, dict(row)))

    def describe(self, summary: Mapping[str, Any], paths: Mapping[str, str]) -> None:
        self.paths = paths

    def end(self, *, has_failed: bool) -> None:
        self.has_failed = has_failed


def test_a_run_is_resumed_by_its_id_and_gets_finite_metrics_and_paths_that_exist(tmp_path: Path) -> None:
    for known in (None, "id-1"):
        client = Listed()
        run = Tracking(client, "listed", pytest.fail)
        run.start("run", {}, tmp_path, ids=tmp_path)
        run.write({"training_iteration": 1, "loss": float("nan"), "kl": 0.5})
        run.describe({}, {"data": tmp_path, "model": tmp_path / "absent"})
        run.end(has_failed=False)
        assert client.resumed == known
        assert client.rows == [(1, {"training_iteration": 1, "kl": 0.5})]
        assert client.paths == {"data": str(tmp_path)}
        assert client.has_failed is False


def test_a_tracker_that_fails_is_one_warning(tmp_path: Path) -> None:
    notes: list[str] = []
    client = Listed(fails_at=2)
    run = Tracking(client, "listed", notes.append)
    run.start("run", {}, tmp_path, ids=tmp_path)
    for iteration in range(1, 6):
        run.write({"training_iteration": iteration})
    run.end(has_failed=False)
    assert notes == ["tracking by listed has ended: ConnectionError: refused"]
    assert [step for step, _ in client.rows] == [1]


def test_a_tracker_that_does_not_answer_ends_no_training(tmp_path: Path) -> None:
    notes: list[str] = []
    client = Listed()
    client.hangs_until = threading.Event()
    run = Tracking(client, "listed", notes.append, finish_s=lambda: 0.1)
    run.start("run", {}, tmp_path, ids=tmp_path)
    run.write({"training_iteration": 1})
    run.end(has_failed=False)
    client.hangs_until.set()
    assert notes == ["tracking by listed has ended: TimeoutError: no answer within 0.1 s"]


def test_a_training_that_fails_is_a_failed_run(tmp_path: Path) -> None:
    client = Listed()
    run = Tracking(client, "listed", pytest.fail)
    run.start("run", {}, tmp_path, ids=tmp_path)
    run.end(has_failed=True)
    assert client.has_failed is True
