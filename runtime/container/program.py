"""Runs a command's main function as a program: from the process's start to its end."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable
from typing import NoReturn

# Allocations until a collection of the youngest objects, and such collections until one of older objects.
_GC_THRESHOLDS = (100_000, 50, 50)


def run_program(main: Callable[[], int]) -> NoReturn:
    """Runs a program's main function and ends the process with its exit code.

    Python's garbage collector runs rarely: imports make millions of objects and no garbage, and searching them takes
    a fifth of the imports' time. At the end nothing is freed, which takes a second or two where RLlib is imported.
    """
    gc.set_threshold(*_GC_THRESHOLDS)
    codes: list[int] = []

    def end() -> None:
        for code in codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    atexit.register(end)  # the first to be registered is the last to run
    codes.append(main())
    sys.exit(codes[0])
