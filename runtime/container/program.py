"""Runs a command's main function as a program: from the process's start to its end."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_PIPE_CLOSED = 141  # as shells say of a program that SIGPIPE has ended


def run_program(main: Callable[[], int]) -> NoReturn:
    """Runs a program's main function and ends the process with its exit code.

    At the end nothing is freed, which takes a second or two where RLlib is imported. A pipe whose reader has ended, as
    that of `| head -1`, ends a program that only prints, without a word.
    """
    codes: list[int] = []

    def end() -> None:
        for code in codes:
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    atexit.register(end)  # the first to be registered is the last to run
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        code = _PIPE_CLOSED
    codes.append(code)
    sys.exit(code)


def write_stdout(text: str) -> None:
    """Writes text to stdout at once; nowhere once the reader of a pipe is gone, which ends no job."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()


def _drop_stdout() -> None:
    """Sends nowhere what has yet to be printed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
