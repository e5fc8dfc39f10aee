"""Ray on a worker node, as a process that is restarted when it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import psutil

from runtime.cluster.address import find_own_address
from runtime.cluster.head_node import GROUP
from runtime.container.layout import Container
from runtime.container.scratch import ray_folder
from runtime.errors import PlatformError

_RESTARTS, _LASTED_S = 5, 600.0  # in a row, none of which lasted this long
_ENDS_WITHIN_S = 5.0
_LABEL = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?")  # that Ray accepts


class RayNode:
    """Ray on this host, as a process of its own. A context manager; leaving it ends Ray.

    Args:
        container: This host's container.
        object_store_bytes: Memory of Ray's object store.
        note: Prints a line.
    """

    def __init__(self, container: Container, object_store_bytes: int, note: Callable[[str], None]) -> None:
        self._container, self._object_store_bytes, self._note = container, object_store_bytes, note
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the node
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = 0

    def __enter__(self) -> RayNode:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Ends Ray on this host."""
        self._end_processes()
        self._said.close()

    @property
    def has_ended(self) -> bool:
        """Whether Ray has been started and does not run any more."""
        return self._process is not None and self._process.poll() is not None

    def start(self, address: str) -> None:
        """Starts Ray unless it runs: after a kill, or after the head node took this host for lost, it starts again.

        Args:
            address: Host and port of the head node's Ray.

        Raises:
            PlatformError: It has ended too often, or has another token than the head node.
        """
        if self._process is not None:
            if not self.has_ended:
                return
            self._check_end(self._process.returncode)
            self._end_processes()
        self._started = time.monotonic()
        # In its own session: a signal for the job's process group must not end Ray, which the head node needs to save.
        self._process = subprocess.Popen(
            self._command(address),
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _command(self, address: str) -> list[str]:
        container = self._container
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            "--include-log-monitor=false",
            *(f"--address={address}", f"--node-ip-address={find_own_address(container)}"),
            *(f"--node-name={container.current_host}", f"--num-cpus={container.num_cpus}"),
            *(f"--num-gpus={container.num_gpus}", f"--object-store-memory={self._object_store_bytes}"),
            *([f"--labels={GROUP}={container.instance_group}"] if _LABEL.fullmatch(container.instance_group) else []),
            f"--temp-dir={ray_folder()}",
        ]

    def _check_end(self, code: int) -> None:
        """Notes that Ray has ended with an exit code, and decides whether it may start again."""
        words = self._last_words()
        if "InvalidAuthToken" in words:
            raise PlatformError(
                f"{self._container.hosts[0]}: it runs another job, or this one with other hyperparameters; expected "
                "the same on every host."
            )
        has_lasted = time.monotonic() - self._started > _LASTED_S
        self._restarts = 1 if has_lasted else self._restarts + 1
        if self._restarts > _RESTARTS:
            raise PlatformError(
                f"Ray has ended {self._restarts} times, last with exit code {code}: {words}; expected it to run as "
                "long as the job."
            )
        self._note(f"Ray has ended here with exit code {code}; restarting it")

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().splitlines() if line.strip()]
        return " / ".join(lines[-3:])

    def _end_processes(self) -> None:
        if self._process is None:
            return
        mine = [one for one in psutil.process_iter(["pid"]) if _is_in_session(one.pid, self._process.pid)]
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for process in mine:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal_number)
            _, mine = psutil.wait_procs(mine, timeout=_ENDS_WITHIN_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)


def _is_in_session(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except OSError:
        return False
