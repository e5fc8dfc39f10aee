"""numba's compiler, with types, and with a cache on disk that notices every change of our own code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])
_HERE = Path(__file__).resolve().parent


def exact(function: _Function) -> _Function:
    """Compiles at the first call, with Python's own arithmetic; kept on disk for the next process."""
    return _compile(function)


def fast(function: _Function) -> _Function:
    """The same, but sums may be taken in another order, so that they fill the processor's vectors: for pictures."""
    return _compile(function, fastmath=True)


def without_gil(function: _Function) -> _Function:
    """As `exact`, for code that threads share a machine in; divisions by zero are those of floats."""
    return _compile(function, nogil=True, error_model="numpy")


def fused_without_gil(function: _Function) -> _Function:
    """The same, but a product and the sum that takes it may be rounded once: for networks."""
    return _compile(function, nogil=True, error_model="numpy", fastmath={"contract"})


def _compile(function: _Function, **options: Any) -> _Function:
    dispatcher = numba.njit(cache=True, **options)(function)
    # numba asks of a function's own file alone whether the cache is out of date, and not of those that it calls into.
    cache = dispatcher._cache._cache_file
    cache._source_stamp = cache._source_stamp, _stamp(Path(function.__code__.co_filename).parent)
    return cast(_Function, dispatcher)


def is_kept(function: Callable[..., Any]) -> bool:
    """Whether a compiled function of today's code is on disk."""
    return bool(cast(Any, function)._cache._cache_file._load_index())


@functools.cache
def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of every file that compiled code of a folder may come from: those that name this module."""
    files = [path for path in {*folder.glob("*.py"), *_HERE.rglob("*.py")} if b"envs.compiled" in path.read_bytes()]
    return tuple(sorted((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files))
