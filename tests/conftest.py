"""Fixtures of all tests: a temporary /opt/ml driven by the real toolkit, and the command smrl as a user runs it."""

from __future__ import annotations

import atexit
import fcntl
import functools
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.warm_smrl import WarmSmrl

if TYPE_CHECKING:
    from runtime.policies.policy import Policy
    from tests.servers import Server

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# The shortest training of the reacher preset: an iteration of 64 steps.
TINY = {
    "rl.training.config.train_batch_size": "64",
    "rl.training.config.minibatch_size": "32",
    "rl.training.config.num_epochs": "1",
    "rl.training.config.num_envs_per_env_runner": "2",
    "rl.training.config.model.fcnet_hiddens": "[8]",
    "rl.training.export": "false",
}
# The shortest training of a DeepRacer car.
SHORT_RACES = [
    *("rl.training.config.episodes_per_iteration=3", "rl.training.config.num_epochs=1", "rl.training.config.seed=0"),
    *("rl.training.config.minibatch_size=32", "rl.training.video_freq=0"),
]
# TensorFlow and the SageMaker SDK, in an environment of their own: `make test` installs it.
PEERS = ROOT / ".venv" / "peers" / "bin" / "python"


# Whole files go to one worker each (--dist loadfile): the long ones begin first, so that none is left for the end.
LONGEST_FIRST = (
    *(
        "cluster/test_hosts.py",
        "examples/test_notebooks.py",
        "jobs/test_training.py",
        "families/unity/test_training.py",
    ),
    *("container/test_toolkit.py", "families/deepracer/test_training.py", "offline/test_algorithm.py"),
)


# A shell ignores SIGINT in what it starts in the background, and so would all that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The machines are shared: how long an example takes says nothing.
hypothesis.settings.register_profile("without deadlines", deadline=None)
hypothesis.settings.load_profile("without deadlines")


def pytest_configure(config: pytest.Config) -> None:
    """Says which modules xdist's frames belong to.

    RLlib calls `inspect.stack()` for every connector, which searches all modules, several times, for each frame whose
    file is no module's: three seconds of CPU time for every algorithm that a worker builds.
    """
    if hasattr(config, "workerinput"):
        import xdist.remote  # what the worker runs, which is sent to it as text

        inspect.modulesbyfile[os.path.abspath(xdist.remote.__file__)] = "xdist.remote"
        inspect.modulesbyfile[os.path.abspath("<string>")] = "__main__"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that last longest first."""
    order = {name: at for at, name in enumerate(LONGEST_FIRST)}
    tests = ROOT / "tests"
    items.sort(key=lambda item: order.get(str(item.path.relative_to(tests)), len(order)))


def clean_environment() -> dict[str, str]:
    """This process's environment without what a surrounding container might have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "SAGEMAKER_", "SMRL_"))}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}"}


@functools.cache
def warm_smrl() -> WarmSmrl:
    """The warm process that runs this process's smrl commands, and ends with it."""
    warm = WarmSmrl(ROOT, clean_environment())
    atexit.register(warm.close)
    return warm


def run_smrl(*words: str, cwd: Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs `smrl WORDS`."""
    with tempfile.TemporaryDirectory() as scratch:
        code, out, err = warm_smrl().run(list(words), cwd=cwd, scratch=Path(scratch), timeout_s=timeout_s)
    return subprocess.CompletedProcess(["smrl", *words], code, out, err)


def run_peer(*words: str | Path, timeout_s: float = 120) -> str:
    """Runs a script of `tests/peers`, or `-m MODULE`, with somebody else's libraries; returns what it printed."""
    if not PEERS.exists():
        pytest.skip(f"{PEERS.parent.parent} is absent; `make test` installs TensorFlow and the SageMaker SDK there")
    first, *rest = map(str, words)
    command = [str(PEERS), first if first.startswith("-") else str(ROOT / "tests" / "peers" / first), *rest]
    environment = {**clean_environment(), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class OptMl:
    """A temporary /opt/ml, and the unmodified `train` of sagemaker-training run over it."""

    base: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, hyperparameters: dict[str, Any], *, channels: tuple[str, ...] = (), raw: str | None = None) -> None:
        """Writes SageMaker's config files; values become strings, as SageMaker makes them."""
        config = self.base / "input" / "config"
        config.mkdir(parents=True, exist_ok=True)
        text = json.dumps({name: str(value) for name, value in hyperparameters.items()})
        (config / "hyperparameters.json").write_text(text if raw is None else raw)
        hosts = {"current_host": "localhost", "hosts": ["localhost"], "network_interface_name": "lo"}
        (config / "resourceconfig.json").write_text(json.dumps(hosts))
        (config / "inputdataconfig.json").write_text(json.dumps({name: {} for name in channels}))
        for name in channels:
            (self.base / "input" / "data" / name).mkdir(parents=True, exist_ok=True)

    def add_code(self, *sources: Path) -> None:
        """Puts files and folders into the code folder, as the toolkit unpacks a user's source."""
        code = self.base / "code"
        code.mkdir(parents=True, exist_ok=True)
        for source in sources:
            if source.is_dir():
                # With what numba has compiled: half a minute that no test here is about.
                ignore = shutil.ignore_patterns("*.pyc")
                shutil.copytree(source, code / source.name, dirs_exist_ok=True, ignore=ignore)
            else:
                shutil.copy(source, code)

    def start(self) -> Running:
        """Starts `train`."""
        self.base.mkdir(parents=True, exist_ok=True)
        log = self.base / "log.txt"
        environment = {**clean_environment(), "SAGEMAKER_BASE_DIR": str(self.base), **self.environment}
        with log.open("w") as file:
            process = subprocess.Popen(
                [str(BIN / "train")], cwd=self.base, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        return Running(process, log)

    def run(self, timeout_s: float = 240) -> Running:
        """Runs `train` to its end."""
        running = self.start()
        running.wait(timeout_s)
        return running

    @property
    def failure(self) -> str:
        """The text that SageMaker would show as FailureReason."""
        return (self.base / "output" / "failure").read_text()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl."""
        text = (self.base / "output" / "data" / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@dataclass
class Running:
    """A `train` that was started."""

    process: subprocess.Popen[bytes]
    path: Path

    @property
    def log(self) -> str:
        """The process's output so far."""
        return self.path.read_text(errors="replace")

    @property
    def code(self) -> int:
        """Its exit code."""
        assert self.process.returncode is not None
        return self.process.returncode

    def wait(self, timeout_s: float = 240) -> None:
        """Waits for its end."""
        self.process.wait(timeout_s)

    def wait_for(self, condition: Callable[[str], bool], timeout_s: float = 240) -> None:
        """Waits until its output meets a condition."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.log):
            assert self.process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.1)

    def kill_script(self, number: signal.Signals) -> None:
        """Sends a signal to the script that `train` has started."""
        import psutil

        for child in psutil.Process(self.process.pid).children():
            child.send_signal(number)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Gives stop signals back after a test: a command that ran in this process ends by ignoring them, for good."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def opt_ml(tmp_path: Path) -> OptMl:
    """A fresh /opt/ml with the images' hook."""
    return OptMl(tmp_path / "opt_ml", {"SAGEMAKER_TRAINING_MODULE": "runtime.container.toolkit:train"})


def train_once(factory: pytest.TempPathFactory, name: str, settings: dict[str, str]) -> Path:
    """The results folder of a tiny training of reacher that all workers share; not to be written to."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose folder is one of the run's
        root = root.parent
    folder = root / f"trained-{name}"
    folder.mkdir(exist_ok=True)
    results, done = folder / "results", folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            words = [f"{key}={value}" for key, value in {**TINY, **settings}.items()]
            ended = run_smrl("train", "--preset", "reacher", "--out", str(results), *words, cwd=folder)
            assert ended.returncode == 0, ended.stderr
            done.touch()
    return results


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of reacher after eight tiny iterations; not to be written to."""
    settings = {"rl.training.checkpoint_freq": "2", "rl.training.config.seed": "7"}
    return train_once(tmp_path_factory, "tiny", {"rl.training.stop.training_iteration": "8", **settings})


@pytest.fixture(scope="session")
def exported_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of reacher after a few tiny iterations, its policy exported; not to be written to."""
    settings = {"rl.training.checkpoint_freq": "1", "rl.training.config.seed": "8", "rl.training.export": "true"}
    return train_once(tmp_path_factory, "exported", {"rl.training.stop.training_iteration": "8", **settings})


@pytest.fixture(scope="session")
def server(exported_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers that serve the trained reacher."""
    from tests.servers import started

    with started(tmp_path_factory.mktemp("serve"), str(exported_results), "--workers", "2") as running:
        running.wait_until(200)
        yield running


@pytest.fixture(scope="session")
def policy(exported_results: Path) -> Policy:
    """The policy that was trained, from its checkpoint."""
    from runtime.artifacts.manifest import read_manifest
    from runtime.artifacts.policy_file import read_policy

    folder = exported_results / "model"
    return read_policy(folder / "checkpoint", settings=read_manifest(folder))


@pytest.fixture(scope="session")
def trained_car(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The results folder of a short training, not to be written to, and what it printed."""
    folder = tmp_path_factory.mktemp("deepracer")
    done = run_smrl(
        *("train", "--preset", "deepracer", "--out", "results", "rl.training.stop.training_iteration=2"),
        *("rl.training.config.num_env_runners=0", *SHORT_RACES),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder / "results", done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
