"""Runs a player and ends it, and everything it started, when its own parent is gone, however that came.

A program of its own, `python keeper.py COMMAND…`, because nothing inside a process outlives its SIGKILL. The parent
holds the other end of standard input; when that closes, the player's process group is killed. The kernel kills the
player if the keeper itself is. The exit status is the player's.
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


def _die_with_keeper() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Runs the command until it ends, or until standard input closes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its death repeats the player's, which had its own chance
    # The hook is safe here: this process has one thread.
    player = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_die_with_keeper)
    ended = os.pidfd_open(player.pid)
    ready, _, _ = select.select([ended, sys.stdin], [], [])
    if ended not in ready:
        _kill_group(player.pid)
    status = player.wait()
    _kill_group(player.pid)  # what a wrapper script left behind
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
