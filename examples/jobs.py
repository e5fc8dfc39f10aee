"""One job, three places: what the notebooks beside this file run on this machine, in Docker, or on SageMaker.

Every place takes the same job: an entry point (`train`, `evaluate`, `tune`), hyperparameters, and input channels; and
gives back the same folder, which is what SageMaker has below /opt/ml: `model/`, `output/data/`, `output/intermediate/`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ENTRYPOINTS = Path(__file__).resolve().parent.parent / "entrypoints"
SMRL = [sys.executable, "-m", "runtime.cli"]
# What the SDK of 2020 gave to jobs of its Ray toolkit; SageMaker finds the metrics of a job by these.
METRICS = [
    {"Name": name, "Regex": rf"{name}: ([-+]?[0-9]*[.]?[0-9]+([eE][-+]?[0-9]+)?)"}
    for name in ("episode_reward_mean", "episode_reward_max", "Mean Reward")
]
_START_S = 60.0
_LOG = "log"

Hyperparameters = Mapping[str, Any]
# Channel to a local path, or to an s3:// URL on SageMaker.
Inputs = Mapping[str, str | Path]


class Process(Protocol):
    """A job that runs, with the methods of subprocess.Popen."""

    def poll(self) -> int | None:
        """Returns its exit code, or None while it runs."""

    def wait(self) -> int:
        """Waits for its end; returns its exit code."""

    def terminate(self) -> None:
        """Lets it save what it has and end."""


@dataclass(frozen=True)
class Job:
    """A job that has ended, or that runs while a notebook goes on.

    Attributes:
        name: Of the job.
        folder: What is below /opt/ml.
        model: What another job takes as its `model` channel, and what is served: a path, or an s3:// URL.
        process: Of a job that was not waited for.
    """

    name: str
    folder: Path
    model: str | Path
    process: Process | None = None

    @property
    def data(self) -> Path:
        """metrics.jsonl and report.html of a training or a tuning, evaluation.json of an evaluation."""
        return self.folder / "output" / "data"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Metrics, a row for each iteration; without the one that a running job is writing."""
        whole, _, _ = (self.data / "metrics.jsonl").read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def videos(self) -> list[Path]:
        """The job's videos, oldest first."""
        return sorted(self.folder.glob("output/**/*.mp4"), key=lambda path: path.stat().st_mtime)

    def refresh(self) -> bool:
        """Prints how far the job is, and shows its mean return by steps; returns whether it still runs.

        Raises:
            RuntimeError: The job failed; with the end of what it printed.
        """
        is_running = self.process is not None and self.process.poll() is None
        self._raise_if_failed()
        rows = self.metrics if (self.data / "metrics.jsonl").is_file() else []
        scored = [row for row in rows if "episode_reward_mean" in row]
        iteration = f", iteration {rows[-1]['training_iteration']:.0f}" if rows else ""
        mean = f", mean return {scored[-1]['episode_reward_mean']:.2f}" if scored else ""
        print(f"{self.name} {'runs' if is_running else 'has ended'}{iteration}{mean}")
        if scored:
            import matplotlib.pyplot as plt

            _, axes = plt.subplots(figsize=(8, 3))
            axes.plot([row["timesteps_total"] for row in scored], [row["episode_reward_mean"] for row in scored])
            axes.set_xlabel("environment steps")
            axes.set_ylabel("mean return")
            plt.show()
        return is_running

    def wait(self) -> None:
        """Waits for the end of the job.

        Raises:
            RuntimeError: The job failed; with the end of what it printed.
        """
        if self.process is not None:
            self.process.wait()
        self._raise_if_failed()

    def stop(self) -> None:
        """Lets the job save what it has, and waits for its end."""
        if self.process is not None:
            self.process.terminate()
        self.wait()

    def _raise_if_failed(self) -> None:
        if self.process is not None and self.process.poll():
            log = self.folder / _LOG
            words = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
            raise RuntimeError(f"{self.name} has failed:\n{words}")

    def show(self, *names: str) -> None:
        """Shows pictures of output/data by their names, the learning curve if none is named, and the latest video."""
        from IPython.display import Image, Video, display

        for name in names or ("learning_curve.png",):
            for path in sorted(self.data.glob(f"**/{name}")):
                display(Image(str(path), width=720))
        for path in self.videos[-1:]:
            display(Video(str(path), embed=True, width=360))
        report = self.data / "report.html"  # of a training; an evaluation's folder has no such page
        print(f"all of it: {report if report.is_file() else self.data}")


class Endpoint(Protocol):
    """A policy that answers."""

    def predict(self, request: Mapping[str, Any]) -> Any:
        """Sends a JSON request and returns the JSON answer."""

    def close(self) -> None:
        """Ends it."""


class Place(Protocol):
    """Where jobs run.

    Attributes:
        folder: Where they leave their folders.
    """

    folder: Path

    def run(
        self, entry: str, hyperparameters: Hyperparameters, inputs: Inputs | None = None, *, wait: bool = True
    ) -> Job:
        """Runs a job, `train`, `evaluate` or `tune`; to its end, or starts it alone if not `wait`."""

    def tune(self, words: Mapping[str, Any]) -> Job:
        """Runs a tuning job in the words of SageMaker's CreateHyperParameterTuningJob; the best training's results."""

    def serve(self, model: str | Path) -> Endpoint:
        """Serves a model."""

    def transform(self, model: str | Path, records: Path, folder: Path) -> Path:
        """Answers every line of a file, each with its input; returns the file of answers."""


def choose(where: str, **options: Any) -> Place:
    """`here`, `docker` (image) or `sagemaker` (image, role, instance_type).

    Raises:
        ValueError: There is no such place.
    """
    if where == "here":
        return Here(**options)
    if where == "docker":
        return Docker(**options)
    if where == "sagemaker":
        from sagemaker_jobs import SageMaker

        return SageMaker(**options)
    raise ValueError(f"where: got {where!r}; expected 'here', 'docker' or 'sagemaker'")


def smrl(*words: str | Path) -> str:
    """Runs a command of smrl on this machine, as `collect`; returns what it printed.

    Raises:
        RuntimeError: It failed, with its own words.
    """
    done = subprocess.run([*SMRL, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


class Here:
    """This machine, without a container.

    Args:
        folder: Where jobs leave their folders.
    """

    def __init__(self, folder: str | Path = "results/notebooks") -> None:
        self.folder = Path(folder).resolve()

    def run(
        self, entry: str, hyperparameters: Hyperparameters, inputs: Inputs | None = None, *, wait: bool = True
    ) -> Job:
        """Runs an entry point over a folder that stands for /opt/ml."""
        name, base = _new_folder(self.folder, entry)
        _write_config(base, hyperparameters, inputs or {})
        for channel, path in (inputs or {}).items():
            _link(base / "input" / "data" / channel, Path(path).resolve())
        environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(base)}
        command = [sys.executable, str(ENTRYPOINTS / f"{entry}.py")]
        return _run(name, base, command, environment, wait=wait)

    def tune(self, words: Mapping[str, Any]) -> Job:
        """Trials side by side on this machine."""
        return self.run("tune", {"tuning": json.dumps(words)})

    def serve(self, model: str | Path) -> Endpoint:
        """Starts `smrl serve` on a free port."""
        port = _free_port()
        command = [*SMRL, "serve", str(model), "--port", str(port), "--workers", "1"]
        return LocalEndpoint(port, subprocess.Popen(command, stdout=subprocess.DEVNULL))

    def transform(self, model: str | Path, records: Path, folder: Path) -> Path:
        """Runs `smrl transform`."""
        smrl("transform", model, "--input", records, "--output", folder, "--join", "input")
        return folder / f"{records.name}.out"


class Docker:
    """This machine, in the image, with a folder mounted as /opt/ml.

    Args:
        image: The image's tag, as `make image` gives it.
        folder: Where jobs leave their folders.
    """

    def __init__(self, image: str = "smrl:cpu", folder: str | Path = "results/notebooks") -> None:
        self.image, self.folder = image, Path(folder).resolve()
        _find_image(image)

    def run(
        self, entry: str, hyperparameters: Hyperparameters, inputs: Inputs | None = None, *, wait: bool = True
    ) -> Job:
        """`docker run IMAGE train`, with the config files that SageMaker writes."""
        name, base = _new_folder(self.folder, entry)
        _write_config(base, hyperparameters, inputs or {})
        mounts = ["-v", f"{base}:/opt/ml"]
        for channel, path in (inputs or {}).items():
            target = f"/opt/ml/input/data/{channel}"
            own = Path(path).resolve()
            mounts += ["-v", f"{own}:{target}{'/' + own.name if own.is_file() else ''}:ro"]
        command = ["docker", "run", "--rm", "--shm-size=1g", "--stop-timeout=120", *mounts, self.image, entry]
        return _run(name, base, command, wait=wait)

    def tune(self, words: Mapping[str, Any]) -> Job:
        """Trials side by side in one container."""
        return self.run("tune", {"tuning": json.dumps(words)})

    def serve(self, model: str | Path) -> Endpoint:
        """`docker run IMAGE serve` on a free port."""
        port = _free_port()
        mount = f"{Path(model).resolve()}:/opt/ml/model:ro"
        command = [
            "docker",
            "run",
            "--rm",
            "--init=false",
            "-p",
            f"127.0.0.1:{port}:8080",
            "-v",
            mount,
            self.image,
            "serve",
        ]
        return LocalEndpoint(port, subprocess.Popen(command, stdout=subprocess.DEVNULL))

    def transform(self, model: str | Path, records: Path, folder: Path) -> Path:
        """`docker run IMAGE transform`."""
        folder.mkdir(parents=True, exist_ok=True)
        mounts = [f"{Path(model).resolve()}:/model:ro", f"{records.resolve()}:/in/{records.name}:ro"]
        mounts.append(f"{folder.resolve()}:/out")
        words = ["transform", "/model", "--input", f"/in/{records.name}", "--output", "/out", "--join", "input"]
        _follow(["docker", "run", "--rm", *itertools.chain(*(("-v", mount) for mount in mounts)), self.image, *words])
        return folder / f"{records.name}.out"


def _find_image(image: str) -> None:
    """Asks Docker for an image before a job wants it.

    Raises:
        RuntimeError: There is no Docker, no daemon, or no such image.
    """
    try:
        done = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeError("where = 'docker': there is no program docker; install Docker, or use 'here'") from None
    if done.returncode:
        raise RuntimeError(f"where = 'docker': {done.stderr.strip()}; `make image` builds smrl:cpu")


class LocalEndpoint:
    """A server on this machine."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self._url, self._process = f"http://127.0.0.1:{port}", process
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError("the server did not start; its own words are above")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/ping", timeout=2) as reply:
                return bool(reply.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def predict(self, request: Mapping[str, Any]) -> Any:
        """Sends a JSON request and returns the JSON answer."""
        body, headers = json.dumps(request).encode(), {"Content-Type": "application/json"}
        call = urllib.request.Request(f"{self._url}/invocations", data=body, headers=headers)
        try:
            with urllib.request.urlopen(call, timeout=60) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            raise ValueError(f"the endpoint answered {error.code}: {error.read().decode()}") from None

    def close(self) -> None:
        """Ends the server."""
        self._process.terminate()
        self._process.wait(30)


def pack(*files: Path) -> bytes:
    """A .tar.gz of files, side by side."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for file in files:
            tar.add(file, arcname=file.name)
    return archive.getvalue()


def new_name(entry: str) -> str:
    """A job's name that SageMaker takes, too."""
    return f"smrl-{entry}-{time.strftime('%Y-%m-%d-%H-%M-%S')}"


def _new_folder(parent: Path, entry: str) -> tuple[str, Path]:
    stem = new_name(entry)
    for number in itertools.count(1):
        name = stem if number == 1 else f"{stem}-{number}"
        with contextlib.suppress(FileExistsError):
            (parent / name).mkdir(parents=True)
            return name, parent / name
    raise AssertionError("unreachable")


def _write_config(base: Path, hyperparameters: Hyperparameters, inputs: Inputs) -> None:
    """The files that SageMaker writes; every hyperparameter is a text there."""
    config = base / "input" / "config"
    config.mkdir(parents=True)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in hyperparameters.items()}
    (config / "hyperparameters.json").write_text(json.dumps(texts))
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "localhost", "hosts": ["localhost"]}))
    (config / "inputdataconfig.json").write_text(json.dumps({channel: {} for channel in inputs}))


def _link(channel: Path, path: Path) -> None:
    """A channel is a folder; a single file becomes its only one."""
    if path.is_dir():
        channel.parent.mkdir(parents=True, exist_ok=True)
        channel.symlink_to(path)
    else:
        channel.mkdir(parents=True)
        (channel / path.name).symlink_to(path)


def _follow(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs a job and prints its lines as they come.

    Raises:
        RuntimeError: It failed.
    """
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in _thin(process.stdout or ()):
            print(line, end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"{Path(command[-1]).name} ended with {process.returncode}; its own words are above")


def _run(name: str, base: Path, command: list[str], environment: Mapping[str, str] | None = None, *, wait: bool) -> Job:
    """Runs a job to its end; or starts it, with its lines in a file, so that interrupting a cell does not stop it."""
    if wait:
        _follow(command, environment)
        return Job(name, base, base / "model")
    with (base / _LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Job(name, base, base / "model", process)


def _thin(lines: Any) -> Iterator[str]:
    """All lines but most of an iteration's, of which a notebook shows one in two seconds."""
    shown = 0.0
    for line in lines:
        if line.startswith("training_iteration:"):
            if time.monotonic() - shown < 2:
                continue
            shown = time.monotonic()
            line = " ".join(line.split()[:10]) + "\n"
        yield line


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
