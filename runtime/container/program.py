"""Runs a command's main function as a program: from the process's start to its end."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def run_program(main: Callable[[], int]) -> NoReturn:
    """Runs a program's main function and ends the process with its exit code.

    At the end nothing is freed, which takes a second or two where RLlib is imported.
    """
    codes: list[int] = []

    def end() -> None:
        for code in codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    atexit.register(end)  # the first to be registered is the last to run
    codes.append(main())
    sys.exit(codes[0])
