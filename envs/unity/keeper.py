"""Runs a player and ends it, and everything it started, when its own parent is gone, however that came.

A program of its own, `python keeper.py COMMAND…`, because nothing inside a process outlives its SIGKILL. The parent
holds the other end of standard input; when that closes, the player is killed with all that descends from it. If the
keeper itself is killed, the kernel kills the player, though not what a wrapper script started beside it. The player's
exit status becomes its own.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CANNOT_RUN = 126


def _die_with_keeper() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Runs the command until it ends, or until standard input closes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its death repeats the player's, which had its own chance
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the player leaves behind becomes ours
    try:
        # The hook is safe here: this process has one thread.
        player = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_die_with_keeper)
    except OSError as error:
        sys.stderr.write(
            f"{sys.argv[1]} cannot be run: {error.strerror}, of the file or of the program that it names\n"
        )
        sys.exit(_CANNOT_RUN)
    ended = os.pidfd_open(player.pid)
    ready, _, _ = select.select([ended, sys.stdin], [], [])
    if ended not in ready:
        player.kill()
    status = player.wait()
    _kill_descendants()
    if status < 0:
        with contextlib.suppress(OSError):  # of SIGKILL, which has no other handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _kill_descendants() -> None:
    """Kills our children until there are none: those of a killed one become ours."""
    while True:
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    """By their parents: the kernel's own list of children is empty in some containers."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


if __name__ == "__main__":
    main()
