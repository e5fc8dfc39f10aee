"""The images' entry point: `smrl-init WORD …`, where WORD is what SageMaker or a person asks a container for.

As process 1 of a container nobody else passes signals on or buries orphans: Ray leaves some, and process 1 gets no
signal that it has no handler for. So this process starts the job, hands it every signal, and reaps until it ends.

`train` is SageMaker's toolkit where a script of the user's is to run, and our own training otherwise; `serve`,
`evaluate` and every other command of smrl are smrl's; `health` is for HEALTHCHECK.

It imports little, and what is heavier only once signals are held: until then process 1 is deaf.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence

COMMANDS = (
    "train",
    "resume",
    "list",
    "serve",
    "evaluate",
    "collect",
    "join",
    "ope",
    "deploy-gate",
    "rollback-check",
    "transform",
    "export",
    "tracks",
    "reward-check",
    "check-env",
    "presets",
    "tune",
    "report",
    "watch",
    "run",
    "completion",
    "examples",
    "smrl",
)
# Not handed on: what the kernel says of a fault in this very process, and of its children and its terminal.
_OWN = {"SIGCHLD", "SIGTTIN", "SIGTTOU", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS", "SIGABRT"}
_UNBLOCKABLE = {"SIGKILL", "SIGSTOP"}
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
_HEALTH_TIMEOUT_S = 2
_KILLED = 128  # added to a signal's number, as shells do
_CANNOT_RUN = 126
_OK = 200


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what a container was asked for; returns its exit code."""
    held = _hold_signals()
    from runtime.container.hardware import count_oom_kills
    from runtime.container.serving_settings import serving_port
    from runtime.errors import UserError

    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["health"]:
        return check_health(serving_port(), is_server=_is_server())
    provide_home()
    try:
        command = find_command(words)
    except UserError as error:
        sys.stderr.write(f"smrl: error: {error}\n")
        return error.exit_code
    killed_before, began = count_oom_kills(), time.time()
    code = run(command, held)
    if code and (killed := count_oom_kills() - killed_before) > 0:
        report_out_of_memory(killed, since=began)
    return code


def provide_home() -> None:
    """Has Ray and matplotlib keep their files in the temporary folder where the user's own cannot be written.

    A user that the image does not know (`docker run --user`) has `/`, and a read-only root has no writable one.
    """
    import tempfile

    if not os.access(os.path.expanduser("~"), os.W_OK):
        with contextlib.suppress(FileNotFoundError):  # no folder at all can be written to
            os.environ["HOME"] = tempfile.gettempdir()


def report_out_of_memory(killed: int, *, since: float) -> None:
    """Says on stderr and on the failure file's first line that memory ran out, as a killed process cannot.

    Args:
        killed: Number of processes that the kernel has killed for it.
        since: When the command started, in seconds since 1970; an older failure file is another job's.
    """
    from runtime.container.hardware import measure_memory
    from runtime.container.layout import Container, find_base

    reason = (
        f"memory: got {killed} process(es) killed by the kernel's out-of-memory killer; expected all of this container "
        f"to fit into {measure_memory() / 1e9:.1f} GB. Give it more memory, or use fewer env runners or a smaller "
        "train_batch_size."
    )
    sys.stderr.write(f"smrl: error: {reason}\n")
    container = Container(base=find_base())
    told = ""
    if container.base is not None:
        with contextlib.suppress(OSError, UnicodeError):
            file = container.base / "output" / "failure"
            told = file.read_text(encoding="utf-8") if file.stat().st_mtime >= since else ""
    container.write_failure(f"{reason}\n{told}".rstrip())


def _hold_signals() -> set[int]:
    """Keeps signals waiting until they are asked for; what is held."""
    forwarded = {number for number in signal.valid_signals() if getattr(number, "name", "") not in _OWN | _UNBLOCKABLE}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*forwarded, signal.SIGCHLD, signal.SIGTTOU})
    return set(map(int, forwarded))


def find_command(words: Sequence[str]) -> list[str]:
    """Returns the program and its arguments for the words after the image's name.

    Raises:
        UserError: There is no such command.
    """
    import shutil

    from runtime.container.layout import has_users_program
    from runtime.errors import UserError

    first, *rest = words or ["smrl", "--help"]
    here = os.path.dirname(sys.executable)
    if first == "train" and not rest and has_users_program():
        return [f"{here}/train"]
    if first in COMMANDS:
        return [f"{here}/smrl", *(rest if first == "smrl" else [first, *rest])]
    program = shutil.which(first)
    if program is None:
        raise UserError(f"{first}: got a word that is no command here; expected one of {', '.join(COMMANDS)}.")
    return [program, *rest]


def run(command: Sequence[str], held: set[int]) -> int:
    """Runs a program as process 1 should: passes signals on, reaps what is orphaned, and repeats its exit code.

    Args:
        command: The program and its arguments.
        held: Numbers of the signals that are blocked, and to be passed on. They are waited for, as a handler may run
            too late: after the last look at it and before the wait for a child.
    """
    job = os.fork()
    if job == 0:
        _become(command)
    with contextlib.suppress(OSError):
        os.setpgid(job, job)  # the job does the same; either may be first
    while True:
        number = signal.sigwait({*held, signal.SIGCHLD})
        if number != signal.SIGCHLD:
            with contextlib.suppress(OSError):
                os.kill(job, number)
                if number in _ENDING:
                    os.kill(job, signal.SIGCONT)  # a job that was stopped from a terminal could not end
            continue
        while (ended := _reap()) is not None:
            pid, code = ended
            if pid == job:
                return code if code >= 0 else _KILLED - code


def _become(command: Sequence[str]) -> None:
    """Turns this process into the job: a group of its own, which has the terminal if there is one, and no mask."""
    try:
        os.setpgid(0, 0)
        if os.isatty(0):
            with contextlib.suppress(OSError):
                os.tcsetpgrp(0, os.getpid())  # SIGTTOU is blocked still
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and a program expects
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], list(command))
    except OSError as error:
        sys.stderr.write(f"smrl: error: {command[0]} cannot be run: {error.strerror}\n")
    finally:
        os._exit(_CANNOT_RUN)


def _reap() -> tuple[int, int] | None:
    """Reaps an ended child; returns it and its exit code (negative for a signal), or None if no child has ended."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


def _is_server() -> bool:
    """Whether this container was asked to serve."""
    with contextlib.suppress(OSError), open("/proc/1/cmdline", "rb") as file:
        return b"serve" in file.read().split(b"\0")
    return False


def check_health(port: int, *, is_server: bool) -> int:
    """Returns 0 if the server answers /ping or the container does not serve, as in training; else 1."""
    if not is_server:
        return 0
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/ping")
        return 0 if connection.getresponse().status == _OK else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
