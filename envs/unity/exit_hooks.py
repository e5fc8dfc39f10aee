"""Runs functions at the interpreter's exit, before Python joins the threads of its thread pools.

Since Python 3.9 `atexit` runs after that join, and a gRPC thread that waits for a player's next message never ends by
itself: a program that forgot to close its environment would hang.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

_functions: list[Callable[[], object]] = []
_is_registered = False


def register(function: Callable[[], object]) -> Callable[[], object]:
    """Registers a function to call at exit, as `atexit.register`, but earlier."""
    global _is_registered
    if not _is_registered:
        threading._register_atexit(_run)  # type: ignore[attr-defined]  # what concurrent.futures itself uses
        _is_registered = True
    _functions.append(function)
    return function


def unregister(function: Callable[[], object]) -> None:
    """Removes a registered function."""
    while function in _functions:
        _functions.remove(function)


def _run() -> None:
    while _functions:
        try:
            _functions.pop()()
        except Exception:  # the other functions must still run
            traceback.print_exc()
