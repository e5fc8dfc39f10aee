from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from runtime.container.scratch import remove_dead_folders
from runtime.container.signals import SAVING, STARTING, TRAINING, Interrupted, StopRequest
from runtime.outputs.panel import LiveReporter
from tests.conftest import BIN, ROOT, TINY, clean_environment

# A process that runs Ray as a job does, until its input ends.
RAY_JOB = """
import sys
from runtime.container.job import run_job
from runtime.cluster.session import ray_session

def work(container, stop):
    with ray_session(num_cpus=1, num_gpus=0, stop=stop):
        print("ready", flush=True)
        sys.stdin.read()
    import os, signal
    os.kill(os.getpid(), signal.SIGTERM)
    print("first", stop.signal_name, flush=True)

sys.exit(run_job(work))
"""
# A signal that comes when Python has given up its handlers already.
LATE = """
import os, signal, sys
from runtime.container.job import run_job

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)

late = Late()
sys.exit(run_job(lambda container, stop: None))
"""


@pytest.fixture
def request_() -> StopRequest:
    return StopRequest(grace_s=0.05, one_ctrl_c_s=0.0)


@pytest.fixture(autouse=True)
def _release(request_: StopRequest):  # type: ignore[no-untyped-def]
    yield
    request_.release()


def test_a_signal_is_remembered_and_interrupts_nothing_at_once(request_: StopRequest) -> None:
    with request_:
        signal.raise_signal(signal.SIGTERM)
    assert request_.is_set
    assert request_.signal_name == "SIGTERM"


def test_a_part_that_outlasts_the_grace_is_interrupted_even_if_it_swallows_once(request_: StopRequest) -> None:
    def work() -> None:
        deadline = time.monotonic() + 10
        with request_:
            signal.raise_signal(signal.SIGTERM)
            with contextlib.suppress(Interrupted):  # as a C callback or a destructor would
                while time.monotonic() < deadline:
                    pass
            while time.monotonic() < deadline:
                pass

    with pytest.raises(Interrupted, match=r"^$"):
        work()


def test_nothing_is_interrupted_outside_of_such_a_part(request_: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    with request_:
        signal.raise_signal(signal.SIGTERM)
    until = time.monotonic() + 0.15
    while time.monotonic() < until:
        pass


def test_a_second_ctrl_c_is_a_keyboard_interrupt(request_: StopRequest) -> None:
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        signal.raise_signal(signal.SIGINT)


def test_rays_own_answer_to_a_stop_is_an_interruption(request_: StopRequest) -> None:
    with pytest.raises(Interrupted), request_:
        sys.exit(signal.SIGTERM)  # as ray.init does
    assert request_.signal_name == "SIGTERM"


def test_a_part_that_waits_for_ray_is_interrupted(request_: StopRequest) -> None:
    import ray

    from runtime.cluster.session import ray_session

    with ray_session(num_cpus=1, num_gpus=0, stop=request_):
        late = ray.remote(lambda: time.sleep(60)).remote()
        began = time.monotonic()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"^$"), request_:
            ray.get(late)
        assert time.monotonic() - began < 30


def test_the_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inner = StopRequest()
    assert signal.getsignal(signal.SIGTERM) is not before
    inner.release()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_is_answered_at_once_with_what_the_job_does(
    request_: StopRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    request_.begin(TRAINING)
    signal.raise_signal(signal.SIGINT)
    said = "SIGINT: ending the iteration within 12 s, then writing checkpoint, model and video; a second Ctrl-C"
    assert capfd.readouterr().err == f"smrl: {said} ends at once\n"
    signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == ""


def test_two_ctrl_c_in_one_moment_are_one() -> None:
    """`timeout -s INT` signals both the job and its process group."""
    patient = StopRequest(one_ctrl_c_s=60)
    try:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert patient.signal_name == "SIGINT"
    finally:
        patient.release()


def test_a_start_ends_at_once_and_the_writing_of_results_does_not(request_: StopRequest) -> None:
    request_.begin(STARTING)
    with pytest.raises(Interrupted, match=r"^$"):
        signal.raise_signal(signal.SIGTERM)
    request_.begin(SAVING)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"^$"):
        request_.begin(STARTING)


def test_what_no_exception_may_cut_ends_first(request_: StopRequest) -> None:
    request_.begin(STARTING)
    steps = []

    def work() -> None:
        with request_, request_.deferred():
            signal.raise_signal(signal.SIGTERM)
            until = time.monotonic() + 0.1  # the alarm is set off meanwhile
            while time.monotonic() < until:
                pass
            steps.append("whole")

    with pytest.raises(Interrupted, match=r"^$"):
        work()
    assert steps == ["whole"]


def test_sighup_is_a_stop_unless_nohup_has_it_ignored(request_: StopRequest) -> None:
    signal.raise_signal(signal.SIGHUP)
    assert request_.signal_name == "SIGHUP"
    request_.release()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        under_nohup = StopRequest()
        signal.raise_signal(signal.SIGHUP)
        under_nohup.release()
        assert not under_nohup.is_set
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_changes_nothing_while_python_ends() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], cwd=ROOT, env=clean_environment(), check=False)
    assert done.returncode == 0


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder whose path is short enough for Ray's sockets."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    yield made
    shutil.rmtree(made)


@contextlib.contextmanager
def started(*words: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, with a temporary folder of its own."""
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env={**clean_environment(), "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.ray
def test_rays_processes_outlive_a_signal_to_the_group_and_not_the_job(folder: Path) -> None:
    with started(sys.executable, "-c", RAY_JOB, folder=folder) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        assert job.stdout.readline() == "ready\n"
        children = psutil.Process(job.pid).children(recursive=True)
        assert len(list(folder.glob("smrl-*/ray/session_latest/sockets"))) == 1
        os.killpg(job.pid, signal.SIGHUP)
        assert "SIGHUP: " in job.stderr.readline()
        assert all(child.is_running() for child in children)
        out, _ = job.communicate("", timeout=60)
        assert (job.returncode, out) == (0, "first SIGHUP\n")  # and SIGTERM after Ray's end has not ended it
        _, alive = psutil.wait_procs(children, timeout=20)  # the system's first process reaps them when it comes to it
        assert alive == []
        assert list(folder.iterdir()) == []
    with started(sys.executable, "-c", RAY_JOB, folder=folder) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        children = psutil.Process(job.pid).children(recursive=True)
        (left,) = folder.iterdir()
        remove_dead_folders(folder)
        assert left.is_dir()  # of a living job
        job.kill()
        wait_until(lambda: not any(child.is_running() for child in children), timeout_s=5)
    remove_dead_folders(folder)
    assert list(folder.iterdir()) == []


def is_caught(pid: int, number: int) -> bool:
    """Whether a process handles a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in lines if line.startswith("SigCgt:")), 16)
    return bool(mask >> (number - 1) & 1)


def test_a_start_that_is_stopped_says_that_nothing_was_trained(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "results"
    words = ("train", "--preset", "reacher", "--out", str(out), *(f"{name}={value}" for name, value in TINY.items()))
    with started(str(BIN / "smrl"), *words, folder=folder) as job:
        wait_until(lambda: (out / "config.json").exists())
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=30)
    assert job.returncode == 0, err
    assert "SIGINT: " in err
    assert "stopped by SIGINT before there was anything to save" in err
    assert not (out / "metrics.jsonl").exists()
    assert not (out / "model" / "manifest.json").exists()


@pytest.mark.system
def test_a_start_that_would_resume_writes_the_model_of_its_last_checkpoint(
    tiny_results: Path, tmp_path: Path, folder: Path
) -> None:
    out = tmp_path / "results"
    shutil.copytree(tiny_results / "checkpoints", out / "checkpoints")
    words = ("train", "--preset", "reacher", "--out", str(out), *(f"{name}={value}" for name, value in TINY.items()))
    with started(str(BIN / "smrl"), *words, folder=folder) as job:
        wait_until(lambda: is_caught(job.pid, signal.SIGTERM))
        job.send_signal(signal.SIGTERM)
        stdout, err = job.communicate(timeout=60)
    assert job.returncode == 0, err
    assert "still starting; ending now, with the model of the last checkpoint" in err
    assert "ended because  stopped by SIGTERM" in stdout
    assert (out / "model" / "manifest.json").exists()
    assert not (out / "metrics.jsonl").exists()  # which is written by a training that runs


def test_a_live_display_shows_the_answer(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes a pipe for a terminal
    reporter = LiveReporter("training", {})
    seen = []

    def is_shown() -> bool:
        seen.append(capfd.readouterr().out)
        return "SIGINT: ending" in "".join(seen)

    try:
        reporter.answer("SIGINT: ending")
        wait_until(is_shown, timeout_s=10)
    finally:
        reporter.close()
    reporter.answer("SIGTERM: ending")
    assert capfd.readouterr().err == "smrl: SIGTERM: ending\n"
