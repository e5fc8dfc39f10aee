"""Supervises a Unity player and kills its process tree when the parent process exits, SIGKILL included.

Runs as a separate program, `python player_supervisor.py COMMAND…`, because no code inside a process runs after its
SIGKILL. The parent holds the other end of standard input; when that closes, the player and all its descendants are
killed. If the supervisor itself is killed, the kernel kills the player, but not what a wrapper script started beside
it. The supervisor exits with the player's exit status.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CANNOT_RUN = 126


def _die_with_supervisor() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Runs the command until it exits, or until standard input closes."""
    # This process ends by the player's signal; the player itself may have dumped core before.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the player become our children
    try:
        # The hook is safe here: this process has one thread.
        player = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_die_with_supervisor)
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
    """Kills our children until none is left; the children of a killed one become ours."""
    while True:
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Process ids whose parent is this process: the kernel's own list of children is empty in some containers."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


if __name__ == "__main__":
    main()
