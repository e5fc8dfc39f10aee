"""run.json, which says whether a training runs and why it has ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.artifacts.run_record import FILE, read_run_record, recording_run
from runtime.container.layout import Container
from runtime.errors import PlatformError, UserError
from tests.conftest import ROOT

CONTAINER = Container(num_cpus=4, num_gpus=1, memory_bytes=8 * 2**30, command=("smrl", "train", "a b"))


def test_a_training_is_recorded_while_it_runs_and_when_it_has_ended(tmp_path: Path) -> None:
    with recording_run(tmp_path, CONTAINER) as recording:
        during = read_run_record(tmp_path)
        assert during is not None
        assert (during.state, during.ended, during.was_killed) == ("running", "", False)
        recording.reason = "training_iteration 8 reached 8"
    after = read_run_record(tmp_path)
    assert after is not None
    assert (after.state, after.reason) == ("finished", "training_iteration 8 reached 8")
    assert after.started <= after.ended
    assert after.command == "smrl train 'a b'"
    assert after.machine.startswith("4 CPU cores, 1 GPU, 8.0 GiB of memory, ")
    assert after.versions["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("x: got 1; expected 2.\nMore."), "x: got 1; expected 2."),
        (ValueError("odd"), "ValueError: odd"),
        (KeyboardInterrupt("Ctrl-C"), "KeyboardInterrupt: Ctrl-C"),
    ],
)
def test_a_failure_is_recorded_with_its_reason(tmp_path: Path, error: BaseException, reason: str) -> None:
    with pytest.raises(type(error), match=str(error)[:3]), recording_run(tmp_path, CONTAINER):
        raise error
    record = read_run_record(tmp_path)
    assert record is not None
    assert (record.state, record.reason) == ("failed", reason)


def test_a_killed_training_is_known_by_its_process(tmp_path: Path) -> None:
    script = (
        "import os, pathlib\n"
        "from runtime.artifacts.run_record import recording_run\n"
        "from runtime.container.layout import Container\n"
        f"with recording_run(pathlib.Path({str(tmp_path)!r}), Container()):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, timeout=120)
    assert done.returncode == -9
    record = read_run_record(tmp_path)
    assert record is not None
    assert record.state == "running"
    assert record.was_killed


def test_a_file_that_is_no_record_is_none(tmp_path: Path) -> None:
    assert read_run_record(tmp_path) is None
    for text in ("{", "[]", json.dumps({"colour": 1})):
        (tmp_path / FILE).write_text(text)
        assert read_run_record(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PlatformError, match=r"run\.json: could not be written: Not a directory"),
        recording_run(tmp_path / "file", CONTAINER),
    ):
        pass
