"""Experiment trackers: Weights & Biases offline, and trackers that fail."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import Problems, UserError
from runtime.outputs.metrics import read_rows
from runtime.outputs.tracking import RUN_IDS, Tracking, check_tracker, tracking
from tests.conftest import ROOT, TINY, clean_environment

TRAIN = ["train", "--env", "CartPole-v1", "--seed", "1", "rl.training.video_freq=0"]
TRAIN += [f"{name}={value}" for name, value in TINY.items()]


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


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_package_is_one_error_with_pips_command() -> None:
    problems = Problems()
    check_tracker({"tracking": "wandb"}, {"tracking": "the command line"}, problems)
    with pytest.raises(
        UserError, match=r"rl\.training\.tracking: got 'wandb' from the command line; .*pip install wandb"
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
