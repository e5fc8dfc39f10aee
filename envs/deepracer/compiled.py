"""numba's compiler with a type: the compiled function is called as the one in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])


def exact(function: _Function) -> _Function:
    """Compiles at the first call, with Python's own arithmetic; kept on disk for the next process."""
    return cast(_Function, njit(cache=True)(function))


def fast(function: _Function) -> _Function:
    """The same, but sums may be taken in another order, so that they fill the processor's vectors: for pictures."""
    return cast(_Function, njit(cache=True, fastmath=True)(function))
