"""run.json: the command of a training, its machine and versions, and whether and why it has ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

from runtime.container.layout import Container
from runtime.errors import PlatformError, UserError
from runtime.files import write_json

FILE = "run.json"
State = Literal["running", "finished", "failed"]
_VERSIONED = ("smrl", "ray", "torch", "gymnasium", "numpy")


@dataclass(frozen=True)
class RunRecord:
    """What run.json holds.

    Attributes:
        state: State of the training.
        reason: Why it ended.
        command: Command that started it; empty where a notebook did.
        started: Start as UTC time of ISO 8601.
        ended: End, likewise; empty while it runs.
        machine: The machine in words.
        versions: Versions of Python and the main packages.
        host: Name of the host that trains.
        pid: Its process there.
    """

    state: State
    started: str
    reason: str = ""
    command: str = ""
    ended: str = ""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    pid: int = 0

    @property
    def was_killed(self) -> bool:
        """Whether it says that it runs while its process is gone; only its own host can tell."""
        return self.state == "running" and self.host == socket.gethostname() and not _is_alive(self.pid)


class Recording:
    """A training that is being recorded.

    Attributes:
        reason: Why it ended, to be set before the end.
    """

    reason: str = ""


@contextlib.contextmanager
def recording_run(folder: Path, container: Container) -> Iterator[Recording]:
    """Writes run.json at the start of a training and at its end.

    Args:
        folder: The results folder's data.
        container: Container of the job.

    Raises:
        PlatformError: The file cannot be written.
    """
    record = RunRecord(
        state="running",
        started=_now(),
        command=shlex.join(container.command),
        machine=_describe_machine(container),
        versions={"python": platform.python_version(), **_find_versions()},
        host=socket.gethostname(),
        pid=os.getpid(),
    )
    _write(folder, record)
    recording = Recording()
    try:
        yield recording
    except BaseException as error:
        with contextlib.suppress(PlatformError):  # the error itself is the news
            _write(folder, replace(record, state="failed", reason=_describe_error(error), ended=_now()))
        raise
    _write(folder, replace(record, state="finished", reason=recording.reason, ended=_now()))


def read_run_record(folder: Path) -> RunRecord | None:
    """Reads run.json; returns None where there is none, as in results of an earlier version."""
    try:
        return RunRecord(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(folder: Path, record: RunRecord) -> None:
    try:
        write_json(folder / FILE, asdict(record))
    except OSError as error:
        raise PlatformError(f"{folder / FILE}: could not be written: {error.strerror or error}.") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _describe_machine(container: Container) -> str:
    parts = [_count(container.num_cpus, "CPU core")]
    if container.num_gpus:
        parts.append(_count(container.num_gpus, "GPU"))
    if math.isfinite(container.memory_bytes):
        parts.append(f"{container.memory_bytes / 2**30:.1f} GiB of memory")
    if len(container.hosts) > 1:
        parts.append(f"each of {len(container.hosts)} hosts")
    return f"{', '.join(parts)}, {platform.system()} on {platform.machine()}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")


def _describe_error(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    if text and isinstance(error, UserError | PlatformError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _find_versions() -> dict[str, str]:
    """Returns the versions of what is installed; smrl itself may be a bare folder."""
    versions = {}
    for name in _VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
