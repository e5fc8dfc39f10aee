"""A job's container: the platform's settings, and the folders that the job reads and writes.

Source: sagemaker-training 5.1.4 and the SageMaker training contract.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.container.hardware import count_cpus, count_gpus, measure_memory
from runtime.errors import PlatformError

_OPT_ML = "/opt/ml"
_FAILURE_USEFUL_CHARS = 1024
_HYPERPARAMETERS = "hyperparameters.json"
CONFIG = "config.json"  # in the data folder: the job's settings, each with its source
SUMMARY = "summary.json"  # beside it: the last screen of a training that has ended
# Names that SageMaker and its SDK put among the hyperparameters for themselves.
PLATFORM_PREFIXES = ("sagemaker_", "_tuning_objective_metric", "default_user_module_name")


@dataclass(frozen=True)
class Layout:
    """The folders that a job writes to.

    Attributes:
        root: Folder that the last screen shows; the base folder in a container.
        model: Model directory.
        data: metrics.jsonl, learning curve, TensorBoard events, evaluation.json.
        videos: mp4 files.
        checkpoints: Checkpoints.
        intermediate: Folder that notebooks read while a job runs.
    """

    root: Path
    model: Path
    data: Path
    videos: Path
    checkpoints: Path
    intermediate: Path

    @property
    def deepracer(self) -> Path:
        """Folder of the files that DeepRacer's tools read, in their own layout."""
        return self.data / "deepracer"

    @classmethod
    def of_results(cls, root: Path) -> Layout:
        """Returns the layout of a results folder on a laptop."""
        return cls(root, root / "model", root, root / "videos", root / "checkpoints", root)


@dataclass(frozen=True)
class Container:
    """The platform's settings of a job.

    Attributes:
        base: `/opt/ml` or its replacement; None on a laptop.
        hyperparameters: Raw values as they arrived, without the platform's own.
        hyperparameters_source: Source of the hyperparameters, for messages.
        channels: Input channels by name.
        hosts: Sorted names of all hosts.
        current_host: This host's name.
        num_cpus: CPUs that this process may use.
        num_gpus: GPUs of this host.
        is_for_gpus: Whether this is the image for GPUs, or another container that is to get some.
        memory_bytes: Memory that this process may use, including what it uses already.
        s3_endpoint: URL of the S3 service, None for AWS's own.
        user_args: Arguments that the toolkit made from the hyperparameters; they repeat them and are not parsed.
        network_interface: Name of the network interface that connects the hosts.
        instance_group: Name of this host's group in a heterogeneous cluster.
        token: Secret that the hosts of a job authenticate each other with.
        command: Words of the command that started this process; empty in a notebook.
        job_name: SageMaker's name of the training job; empty elsewhere.
    """

    base: Path | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters_source: str = _HYPERPARAMETERS
    channels: Mapping[str, Path] = field(default_factory=dict)
    hosts: tuple[str, ...] = ("localhost",)
    current_host: str = "localhost"
    num_cpus: int = 1
    num_gpus: int = 0
    is_for_gpus: bool = False
    memory_bytes: float = math.inf
    s3_endpoint: str | None = None
    user_args: tuple[str, ...] = ()
    network_interface: str = ""
    instance_group: str = ""
    token: str = ""
    command: tuple[str, ...] = ()
    job_name: str = ""

    @property
    def is_master(self) -> bool:
        """Whether this is the head node, which trains and writes the model."""
        return self.current_host == self.hosts[0]

    @property
    def layout(self) -> Layout | None:
        """The folders that a job in this container writes to; None on a laptop."""
        if self.base is None:
            return None
        output = self.base / "output"
        intermediate = output / "intermediate"
        return Layout(
            self.base, self.base / "model", output / "data", intermediate, self.base / "checkpoints", intermediate
        )

    def find_input(self, name: str) -> Path | None:
        """Finds an input: a path, a channel's name, or a file in a channel or beside the code; None if absent."""
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
            # The reason is on stderr as well, and may be that this very folder cannot be written to.
            if f"{self.base}/" not in reason.partition("\n")[0]:
                sys.stderr.write(f"output/failure: could not be written: {error}\n")


def read_container() -> Container:
    """Reads what the platform tells this job.

    Raises:
        PlatformError: A configuration file of the container is missing or broken.
    """
    env = os.environ
    base = find_base()
    if base is None:
        return Container(
            num_cpus=count_cpus(),
            num_gpus=count_gpus(),
            memory_bytes=measure_memory(),
            s3_endpoint=env.get("S3_ENDPOINT_URL"),
            command=_read_command(sys.argv),
        )
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
        num_cpus=count_cpus(),
        num_gpus=count_gpus(),
        is_for_gpus=env.get("NVIDIA_VISIBLE_DEVICES", "void") not in ("", "void", "none"),
        memory_bytes=measure_memory(),
        s3_endpoint=env.get("S3_ENDPOINT_URL"),
        user_args=tuple(_parse(env, "SM_USER_ARGS") or ()),
        network_interface=resources.get("network_interface_name") or "",
        instance_group=resources.get("current_group_name") or env.get("SM_CURRENT_INSTANCE_GROUP") or "",
        job_name=env.get("TRAINING_JOB_NAME", ""),
        token=env.get("RAY_AUTH_TOKEN") or _derive_token(env, hosts, values),
        command=_read_command(sys.argv),
    )


def has_users_program() -> bool:
    """Whether SageMaker's toolkit has a user's script to run, or code without one, which it then reports."""
    if os.environ.get("SAGEMAKER_PROGRAM") or os.environ.get("SAGEMAKER_SUBMIT_DIRECTORY"):
        return True
    base = find_base()
    with contextlib.suppress(PlatformError):  # a file that is not JSON, which the job itself reports
        values = None if base is None else _read_json(base / "input" / "config" / _HYPERPARAMETERS)
        return bool(values and (values.get("sagemaker_program") or values.get("sagemaker_submit_directory")))
    return False


def find_base() -> Path | None:
    """`/opt/ml`, or the folder that replaces it; None on a laptop."""
    if base := os.environ.get("SAGEMAKER_BASE_DIR"):
        return Path(base)
    if model := os.environ.get("SM_MODEL_DIR"):
        return Path(model).parent
    return Path(_OPT_ML) if Path(_OPT_ML).is_dir() else None


def _read_command(argv: Sequence[str]) -> tuple[str, ...]:
    """Returns a command that can be typed again."""
    program = Path(argv[0]) if argv else Path()
    if program.name in ("smrl", "cli.py", "smrl.py"):
        return ("smrl", *argv[1:])
    if program.suffix != ".py" or program.name.startswith("ipykernel"):
        return ()
    return ("python", str(program), *argv[1:])


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
    """Derives a token of 64 hexadecimal digits that all hosts of this job share and no other job has.

    Anyone who knows the job's ARN and hyperparameters can derive it; set RAY_AUTH_TOKEN to use a secret instead.
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
