"""The images' entry point: `smrl-init WORD …`, where WORD is what SageMaker or a person asks a container for.

As process 1 of a container nobody else passes signals on or buries orphans: Ray leaves some, and process 1 gets no
signal that it has no handler for. So this process starts the job, hands it every signal, and reaps until it ends.

`train` is SageMaker's toolkit where a script of the user's is to run, and our own training otherwise; `serve`,
`evaluate` and every other command of smrl are smrl's; `health` is for HEALTHCHECK.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from runtime.container import has_users_program, serving_port
from runtime.errors import UserError

COMMANDS = ("train", "serve", "evaluate", "collect", "transform", "export", "tracks", "reward-check", "presets", "smrl")
_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_HEALTH_TIMEOUT_S = 2
_KILLED = 128  # added to a signal's number, as shells do


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what a container was asked for; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["health"]:
        return check_health(serving_port())
    try:
        command = find_command(words)
    except UserError as error:
        sys.stderr.write(f"smrl: error: {error}\n")
        return error.exit_code
    return run(command)


def find_command(words: Sequence[str]) -> list[str]:
    """The program and its arguments for the words after the image's name.

    Raises:
        UserError: There is no such command.
    """
    first, *rest = words or ["smrl", "--help"]
    here = Path(sys.executable).parent
    if first == "train" and not rest and has_users_program():
        return [str(here / "train")]
    if first in COMMANDS:
        return [str(here / "smrl"), *(rest if first == "smrl" else [first, *rest])]
    program = shutil.which(first)
    if program is None:
        raise UserError(f"{first}: got a word that is no command here; expected one of {', '.join(COMMANDS)}.")
    return [program, *rest]


def run(command: Sequence[str]) -> int:
    """Runs a program as process 1 should: passes signals on, reaps what is orphaned, and repeats its exit code."""
    numbers = {getattr(signal, name) for name in _FORWARDED}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # one that comes before the child is there waits for it
    child = subprocess.Popen(
        command, process_group=0, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ())
    )
    _give_terminal(child.pid)

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    for number in numbers:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            code = child.returncode = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _KILLED - code


def _give_terminal(group: int) -> None:
    """Lets the job have the terminal, if there is one, so that Ctrl-C comes to it once and not through us as well."""
    if not sys.stdin or not sys.stdin.isatty():
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.tcsetpgrp(sys.stdin.fileno(), group)


def check_health(port: int) -> int:
    """0 where nothing is served, as in training, or what is served answers /ping; else 1."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=_HEALTH_TIMEOUT_S):
            return 0
    except urllib.error.HTTPError:
        return 1
    except urllib.error.URLError as error:
        return 0 if isinstance(error.reason, ConnectionRefusedError) else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
