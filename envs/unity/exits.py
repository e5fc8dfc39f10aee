"""What is done when the program ends, before Python waits for the threads of its thread pools.

`atexit` comes after that wait since Python 3.9, and a thread of a gRPC server that waits for a player's next message
never ends by itself: a program that forgot to close its environment would hang.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

_functions: list[Callable[[], object]] = []
_is_registered = False


def register(function: Callable[[], object]) -> Callable[[], object]:
    """Has a function called when the program ends, as `atexit.register`, but earlier."""
    global _is_registered
    if not _is_registered:
        threading._register_atexit(_run)  # type: ignore[attr-defined]  # what concurrent.futures itself uses
        _is_registered = True
    _functions.append(function)
    return function


def unregister(function: Callable[[], object]) -> None:
    """Takes it back."""
    while function in _functions:
        _functions.remove(function)


def _run() -> None:
    while _functions:
        try:
            _functions.pop()()
        except Exception:  # the others are called all the same
            traceback.print_exc()
