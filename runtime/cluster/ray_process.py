"""Ray on a worker node, as a process that is restarted when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import psutil

from runtime.cluster.connection import Connection, find_own_address
from runtime.container.layout import Container
from runtime.container.scratch import ray_folder
from runtime.errors import PlatformError

_RESTARTS, _LASTED_S = 5, 600.0  # in a row, none of which lasted this long
_ENDS_WITHIN_S = 5.0


class RayNode:
    """Ray on this host, as a process of its own."""

    def __init__(self, container: Container, ray_address: str, object_store_bytes: int) -> None:
        self._command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            "--include-log-monitor=false",
            *(f"--address={ray_address}", f"--node-ip-address={find_own_address(container)}"),
            *(f"--node-name={container.current_host}", f"--num-cpus={container.num_cpus}"),
            *(f"--num-gpus={container.num_gpus}", f"--object-store-memory={object_store_bytes}"),
            f"--temp-dir={ray_folder()}",
        ]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the node
        self._restarts = 0
        self._start()

    def _start(self) -> None:
        self._started = time.monotonic()
        # In its own session: a signal for the job's process group must not end Ray, which the head node needs to save.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._said, stderr=subprocess.STDOUT, start_new_session=True
        )

    def restart_if_ended(self, connection: Connection, note: Callable[[str], None]) -> None:
        """Restarts Ray if it has ended: after a kill, or because the head node took this host for lost.

        Raises:
            PlatformError: It has ended too often.
        """
        code = self._process.poll()
        if code is None:
            return
        has_lasted = time.monotonic() - self._started > _LASTED_S
        self._restarts = 1 if has_lasted else self._restarts + 1
        if self._restarts > _RESTARTS:
            why = f"Ray has ended {self._restarts} times, last with exit code {code}: {self._last_words()}"
            with contextlib.suppress(OSError):
                connection.send(failed=why)
            raise PlatformError(f"{why}; expected it to run as long as the job.")
        note(f"Ray has ended here with exit code {code}; restarting it")
        self._end_processes()
        self._start()
        with contextlib.suppress(OSError):
            connection.send(rejoined=f"Ray had ended there with exit code {code}")

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().splitlines() if line.strip()]
        return " / ".join(lines[-3:])

    def _end_processes(self) -> None:
        mine = [one for one in psutil.process_iter(["pid"]) if _is_in_session(one.pid, self._process.pid)]
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for process in mine:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal_number)
            _, mine = psutil.wait_procs(mine, timeout=_ENDS_WITHIN_S)

    def close(self) -> None:
        """Ends Ray on this host."""
        self._end_processes()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)
        self._said.close()


def _is_in_session(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except OSError:
        return False
