"""Functions that run in a fork of the process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from runtime.container.forked import Fork
from runtime.errors import JobError, PlatformError

TIMEOUT_S = 60.0


def test_a_fork_returns_the_result_of_its_function() -> None:
    assert Fork("test", lambda: {"process": os.getpid() != PARENT}).result(timeout_s=TIMEOUT_S) == {"process": True}


def test_an_expected_failure_is_raised_with_its_type() -> None:
    def fail() -> None:
        raise PlatformError("model/: got a full disk")

    with pytest.raises(PlatformError, match=r"^model/: got a full disk$"):
        Fork("test", fail).result(timeout_s=TIMEOUT_S)


def test_any_other_exception_is_named() -> None:
    with pytest.raises(JobError, match=r"^ZeroDivisionError: "):
        Fork("test", lambda: 1 // 0).result(timeout_s=TIMEOUT_S)


def test_a_process_that_dies_is_told_with_what_it_printed() -> None:
    def die() -> None:
        os.write(2, b"loading policy.onnx\n")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(JobError, match=r"test: its process ended with -9:\nloading policy\.onnx"):
        Fork("test", die).result(timeout_s=TIMEOUT_S)


def test_a_function_that_does_not_end_is_killed(tmp_path: Path) -> None:
    def hang() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        signal.pause()

    fork = Fork("test", hang)
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
    with pytest.raises(JobError, match=r"test: not done within 0\.1 s"):
        fork.result(timeout_s=0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_jobs_handlers_of_signals_are_not_the_forks() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(JobError, match="ended with -15"):
            Fork("test", lambda: os.kill(os.getpid(), signal.SIGTERM)).result(timeout_s=TIMEOUT_S)
    finally:
        signal.signal(signal.SIGTERM, before)


PARENT = os.getpid()
