"""The only reader of the process environment and of /opt/ml: where a job's inputs and outputs are, and on what machine.

Source: sagemaker-training 5.1.4 and the SageMaker training contract.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from runtime.errors import PlatformError, Problems

_OPT_ML = "/opt/ml"
_FAILURE_USEFUL_CHARS = 1024
_GPU_TIMEOUT_S = 20
_USERS_SCRIPT = "SMRL_USERS_SCRIPT"
_HYPERPARAMETERS = "hyperparameters.json"
CONFIG = "config.json"  # in the data folder: a job's settings, each with its source
_TRUE, _FALSE = ("1", "true"), ("", "0", "false")
# Content types that the server answers in.
ANSWER_TYPES = ("application/json", "application/jsonlines", "text/csv", "application/x-npy")
# Names that SageMaker and its SDK put among the hyperparameters for themselves.
PLATFORM_PREFIXES = ("sagemaker_", "_tuning_objective_metric", "default_user_module_name")


@dataclass(frozen=True)
class Layout:
    """Where a job writes.

    Attributes:
        root: Folder that the last screen shows; the base folder in a container.
        model: Model directory.
        data: metrics.jsonl, learning curve, TensorBoard events, evaluation.json.
        videos: mp4 files.
        checkpoints: Checkpoints.
        intermediate: What notebooks read while a job runs.
    """

    root: Path
    model: Path
    data: Path
    videos: Path
    checkpoints: Path
    intermediate: Path

    @property
    def deepracer(self) -> Path:
        """What DeepRacer's tools read, in their own layout."""
        return self.data / "deepracer"

    @classmethod
    def of_results(cls, root: Path) -> Layout:
        """The layout of a results folder on a laptop."""
        return cls(root, root / "model", root, root / "videos", root / "checkpoints", root)


@dataclass(frozen=True)
class Container:
    """What the platform tells a job.

    Attributes:
        base: `/opt/ml` or what stands for it; None on a laptop.
        hyperparameters: Raw values as they arrived, without the platform's own.
        hyperparameters_source: Where they were read, for messages.
        channels: Input channels by name.
        hosts: Sorted names of all hosts.
        current_host: This host's name.
        num_cpus: CPUs that this process may use.
        num_gpus: GPUs of this host.
        memory_bytes: Memory that this process may use, what is in use already included.
        s3_endpoint: URL of the S3 service, None for AWS's own.
        user_args: Arguments that the toolkit made from the hyperparameters; they repeat them and are not parsed.
        network_interface: Name of the network interface that the hosts reach each other by.
        instance_group: Name of this host's group in a heterogeneous cluster.
        token: What the hosts of a job know each other by.
    """

    base: Path | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters_source: str = _HYPERPARAMETERS
    channels: Mapping[str, Path] = field(default_factory=dict)
    hosts: tuple[str, ...] = ("localhost",)
    current_host: str = "localhost"
    num_cpus: int = 1
    num_gpus: int = 0
    memory_bytes: float = math.inf
    s3_endpoint: str | None = None
    user_args: tuple[str, ...] = ()
    network_interface: str = ""
    instance_group: str = ""
    token: str = ""

    @property
    def is_master(self) -> bool:
        """Whether this host is the one that trains and writes the model."""
        return self.current_host == self.hosts[0]

    @property
    def layout(self) -> Layout | None:
        """Where a job in this container writes; None on a laptop."""
        if self.base is None:
            return None
        output = self.base / "output"
        intermediate = output / "intermediate"
        return Layout(
            self.base, self.base / "model", output / "data", intermediate, self.base / "checkpoints", intermediate
        )

    def find_input(self, name: str) -> Path | None:
        """A file or folder as named, a channel of that name, or one in a channel or beside the code; None if absent."""
        if name in self.channels and not Path(name).exists():
            return self.channels[name].resolve()
        folders = [Path(), *self.channels.values()]
        if self.base is not None:
            folders.append(self.base / "code")
        return next(((folder / name).resolve() for folder in folders if (folder / name).exists()), None)

    def write_failure(self, reason: str) -> None:
        """Writes SageMaker's failure file; its first line is the reason. Does nothing on a laptop."""
        if self.base is None:
            return
        try:
            path = self.base / "output" / "failure"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(reason[:_FAILURE_USEFUL_CHARS] + "\n", encoding="utf-8")
        except OSError as error:
            # The disk may be what failed; the reason is on stderr as well.
            sys.stderr.write(f"output/failure: could not be written: {error}\n")


def read_container() -> Container:
    """Reads where we run.

    Raises:
        PlatformError: A configuration file of the container is missing or broken.
    """
    env = os.environ
    base = find_base()
    if base is None:
        cpus, gpus = _usable_cpus(), _usable_gpus(env)
        endpoint = env.get("S3_ENDPOINT_URL")
        return Container(num_cpus=cpus, num_gpus=gpus, memory_bytes=usable_memory(), s3_endpoint=endpoint)
    values, source = _read_hyperparameters(base, env)
    resources = _read_json(base / "input/config/resourceconfig.json") or _parse(env, "SM_RESOURCE_CONFIG") or {}
    hosts = tuple(sorted(resources.get("hosts") or ["localhost"]))
    return Container(
        base=base,
        hyperparameters={name: value for name, value in values.items() if not name.startswith(PLATFORM_PREFIXES)},
        hyperparameters_source=source,
        channels=_find_channels(base, env),
        hosts=hosts,
        current_host=resources.get("current_host") or env.get("SM_CURRENT_HOST") or hosts[0],
        num_cpus=_usable_cpus(),
        num_gpus=_usable_gpus(env),
        memory_bytes=usable_memory(),
        s3_endpoint=env.get("S3_ENDPOINT_URL"),
        user_args=tuple(_parse(env, "SM_USER_ARGS") or ()),
        network_interface=resources.get("network_interface_name") or "",
        instance_group=resources.get("current_group_name") or env.get("SM_CURRENT_INSTANCE_GROUP") or "",
        token=env.get("RAY_AUTH_TOKEN") or _derive_token(env, hosts, values),
    )


@dataclass(frozen=True)
class ServingEnvironment:
    """What the platform tells a server.

    Attributes:
        model: Model directory; None on a laptop.
        is_multi_model: Whether models are loaded by name.
        port: To listen on.
        workers: Processes; the CPUs if the platform does not say.
        default_accept: Content type of answers where the client does not say.
        max_body_bytes: Of a request: SageMaker's own limits, 25 MB in real time and 100 MB in batch, if it says none.
        timeout_s: For one request.
        access_log: Whether to print a line a request.
        models_mb: Memory for the models of a multi-model endpoint: half of what is left, if nobody says.
    """

    model: Path | None
    is_multi_model: bool
    port: int
    workers: int
    default_accept: str
    max_body_bytes: int
    timeout_s: float
    access_log: bool
    models_mb: float


def read_serving_environment() -> ServingEnvironment:
    """Reads how to serve.

    Raises:
        UserError: Variables hold what they must not; all of them are named.
    """
    env, base, problems = os.environ, find_base(), Problems()

    def number(name: str, default: float, *, low: float, high: float = math.inf, whole: bool = False) -> float:
        text = env.get(name) or str(default)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value) or (whole and value % 1):
            kind, most = "a whole number" if whole else "a number", "" if math.isinf(high) else f" and at most {high:g}"
            problems.add(name, text, "the environment", expected=f"{kind} of at least {low:g}{most}")
            return default
        return value

    def flag(name: str) -> bool:
        text = env.get(name, "").lower()
        if text not in _TRUE + _FALSE:
            problems.add(name, text, "the environment", expected="true or false")
        return text in _TRUE

    accept = env.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "")
    if accept not in ("", "*/*", *ANSWER_TYPES):
        problems.add(
            "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
            accept,
            "the environment",
            expected=f"one of {', '.join(ANSWER_TYPES)}",
        )
    usual_mb = 100 if flag("SAGEMAKER_BATCH") else 25

    serving = ServingEnvironment(
        model=None if base is None else base / "model",
        is_multi_model=flag("SAGEMAKER_MULTI_MODEL"),
        port=int(number("SAGEMAKER_BIND_TO_PORT", 8080, low=1, high=65535, whole=True)),
        workers=int(number("SAGEMAKER_MODEL_SERVER_WORKERS", _usable_cpus(), low=1, whole=True)),
        default_accept=accept,
        # 0 is SageMaker's word for no limit; a request is held in memory here, so there is one.
        max_body_bytes=int((number("SAGEMAKER_MAX_PAYLOAD_IN_MB", 0, low=0) or usual_mb) * 2**20),
        timeout_s=number("SAGEMAKER_MODEL_SERVER_TIMEOUT", 60, low=0.001),
        access_log=flag("SMRL_ACCESS_LOG"),
        models_mb=number("SMRL_MODELS_MB", 0, low=0) or _free_mb() / 2,
    )
    problems.raise_if_any()
    return serving


def _free_mb() -> float:
    """Memory that is left, by the machine and by the cgroup's limit."""
    free = float(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # without cgroup v2, or without a limit ("max")
        cgroup = Path("/sys/fs/cgroup")
        most, used = ((cgroup / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        free = min(free, float(int(most) - int(used)))
    return free / 2**20


def has_users_program() -> bool:
    """Whether SageMaker's toolkit has something to run: a script's name, or code that lacks one, which it tells of."""
    if os.environ.get("SAGEMAKER_PROGRAM") or os.environ.get("SAGEMAKER_SUBMIT_DIRECTORY"):
        return True
    base = find_base()
    with contextlib.suppress(PlatformError):  # of a file that is not JSON, which the job itself tells of
        values = None if base is None else _read_json(base / "input" / "config" / _HYPERPARAMETERS)
        return bool(values and (values.get("sagemaker_program") or values.get("sagemaker_submit_directory")))
    return False


def serving_port() -> int:
    """The port that a server of this container listens on."""
    return _int(os.environ.get("SAGEMAKER_BIND_TO_PORT")) or 8080


def setdefault_environment(defaults: Mapping[str, str]) -> None:
    """Sets environment variables that are not set yet (thread counts, Ray's switches)."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def find_ray_root() -> Path | None:
    """Where RAY_TMPDIR wants Ray's files; None where it is not set."""
    root = os.environ.get("RAY_TMPDIR")
    return Path(root).absolute() if root else None


def in_users_script() -> bool:
    """Whether this process, or the one that started it, runs a user's script of 2020."""
    return _USERS_SCRIPT in os.environ


def mark_users_script() -> None:
    """Tells processes that this one starts (Ray's workers) that a user's script of 2020 runs."""
    os.environ[_USERS_SCRIPT] = "1"


def find_base() -> Path | None:
    """`/opt/ml` or what stands for it; None on a laptop."""
    if base := os.environ.get("SAGEMAKER_BASE_DIR"):
        return Path(base)
    if model := os.environ.get("SM_MODEL_DIR"):
        return Path(model).parent
    return Path(_OPT_ML) if Path(_OPT_ML).is_dir() else None


def _read_hyperparameters(base: Path, env: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    path = base / "input" / "config" / _HYPERPARAMETERS
    if path.is_file():
        return _read_json(path) or {}, _HYPERPARAMETERS
    if "SM_HPS" in env:
        return _parse(env, "SM_HPS") or {}, "SM_HPS"
    if path.parent.is_dir() and any(path.parent.iterdir()):
        raise PlatformError(
            f"{path}: got no file from the container; expected SageMaker's hyperparameters. "
            "Write {} there for a job without any."
        )
    return {}, _HYPERPARAMETERS


def _derive_token(env: Mapping[str, str], hosts: tuple[str, ...], values: Mapping[str, Any]) -> str:
    """The same on every host of a job and on no other's: 64 hexadecimal digits.

    Whoever knows the job's ARN and hyperparameters can work it out; a secret of one's own goes into RAY_AUTH_TOKEN.
    """
    job = env.get("TRAINING_JOB_ARN") or env.get("TRAINING_JOB_NAME") or ""
    return hashlib.sha256(json.dumps([job, hosts, values], sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlatformError(f"{path}: got a file that is not JSON ({error}); expected a JSON object.") from None
    if not isinstance(value, dict):
        raise PlatformError(f"{path}: got {type(value).__name__} from the container; expected a JSON object.")
    return value


def _parse(env: Mapping[str, str], name: str) -> Any:
    if not env.get(name):
        return None
    try:
        return json.loads(env[name])
    except ValueError as error:
        raise PlatformError(f"{name}: got text that is not JSON ({error}) from the environment.") from None


def _find_channels(base: Path, env: Mapping[str, str]) -> dict[str, Path]:
    data = base / "input" / "data"
    found = {path.name: path for path in sorted(data.iterdir()) if path.is_dir()} if data.is_dir() else {}
    for name in _parse(env, "SM_CHANNELS") or ():
        found[name] = Path(env.get(f"SM_CHANNEL_{name.upper()}", data / name))
    for name in _read_json(base / "input/config/inputdataconfig.json") or {}:
        found.setdefault(name, data / name)
    return found


def _usable_cpus() -> int:
    """CPUs by affinity and cgroup quota; SM_NUM_CPUS counts the host's and is wrong in a limited container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):  # without cgroup v2, affinity is all there is
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return count


def usable_memory() -> float:
    """Bytes that this process may use by the machine and by the cgroup's limit."""
    most = float(psutil.virtual_memory().total)
    with contextlib.suppress(OSError, ValueError):  # without cgroup v2, or without a limit ("max")
        most = min(most, float(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))))
    return most


def _usable_gpus(env: Mapping[str, str]) -> int:
    """What the toolkit counted, or NVIDIA's own list where no toolkit runs."""
    if "SM_NUM_GPUS" in env:
        return _int(env["SM_NUM_GPUS"])
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no driver, no GPU
        command = ["nvidia-smi", "--list-gpus"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True)
        return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return 0


def _int(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
