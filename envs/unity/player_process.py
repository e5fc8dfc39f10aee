"""Starts a Unity player under its supervisor, stops it, and reads its log when it fails."""

from __future__ import annotations

import contextlib
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_SUPERVISOR = Path(__file__).with_name("player_supervisor.py")
_LAST_LINES = 8
_TAIL_BYTES = 4000
_MACHINES = {"x86_64": 62, "aarch64": 183}
_OTHER_MACHINES = {3: "32-bit x86", 40: "32-bit ARM", **{number: name for name, number in _MACHINES.items()}}
_FORMATS = {b"MZ": "Windows", b"\xcf\xfa\xed\xfe": "macOS", b"\xca\xfe\xba\xbe": "macOS"}
_READ_EXECUTE = 0o555


class PlayerProcess:
    """The process of a running player, and of the supervisor that kills it if we die.

    Attributes:
        log: Log file of Unity.

    Args:
        executable: The player's file, checked by `check_executable`.
        arguments: Command-line arguments of the player.
        log: Log file that Unity writes; the program's standard output goes to a file beside it.
    """

    def __init__(self, executable: Path, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        self._console = log.with_suffix(".out")
        log.parent.mkdir(parents=True, exist_ok=True)
        with self._console.open("wb") as console:
            # -I -S: skips site packages, so that the supervisor starts in 20 ms.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISOR), str(executable.absolute()), *arguments],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at a terminal must reach us alone; we stop the player ourselves
            )

    @property
    def ending(self) -> str | None:
        """Describes how the player exited; None while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        if status >= 0:
            return f"ended with exit code {status}"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
        return f"was ended by signal {-status}"

    def end(self, *, grace_s: float) -> None:
        """Waits for a player that was asked to stop, then kills its process tree.

        Args:
            grace_s: Longest wait in seconds before the kill.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        stdin: IO[bytes] | None = self._process.stdin
        if stdin is not None:
            with contextlib.suppress(OSError):
                stdin.close()
        self._process.wait()
        with contextlib.suppress(OSError):
            if not self._console.stat().st_size:
                self._console.unlink()

    def last_lines(self) -> str:
        """Returns the last lines of the player's log, with its path, for an error message."""
        parts = []
        for path in (self.log, self._console):
            lines = _tail(path)
            if lines:
                parts.append(f"{path} ends:\n" + "\n".join(f"    {line}" for line in lines))
        return "\n".join(parts) or f"It wrote nothing to {self.log}."


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]


def check_executable(path: Path) -> None:
    """Makes a player's file executable, as a download from S3 is not, and rejects one that cannot run here.

    Raises:
        ValueError: The file is no program, is built for another machine, or its mode cannot be changed.
    """
    with path.open("rb") as file:
        head = file.read(20)
    if problem := _foreign_executable_reason(head):
        raise ValueError(f"{path}: got {problem}; expected a Linux build for {platform.machine()}.")
    mode = path.stat().st_mode
    if mode & _READ_EXECUTE == _READ_EXECUTE:
        return
    try:
        path.chmod(mode | _READ_EXECUTE)
    except OSError as error:
        raise ValueError(
            f"{path}: got a file that is not executable, and that cannot be made so ({error.strerror}); expected an "
            f"executable one. Run `chmod +x {path.name}` where it comes from, or mount its folder for writing."
        ) from None


def _foreign_executable_reason(head: bytes) -> str | None:
    if head.startswith(b"#!"):
        return None
    for magic, system in _FORMATS.items():
        if head.startswith(magic):
            return f"a build for {system}"
    if not head.startswith(b"\x7fELF") or len(head) < 20:
        return "a file that is no program"
    order = "<" if head[5] == 1 else ">"
    (machine,) = struct.unpack_from(f"{order}H", head, 18)
    if machine != _MACHINES.get(platform.machine(), machine):
        return f"a build for {_OTHER_MACHINES.get(machine, f'machine {machine}')}"
    return None
