"""numba's compiler, with types, and with a cache on disk that notices every change of our own code."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

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


def is_kept(function: Callable[..., Any]) -> bool:
    """Whether a compiled function of today's code is on disk."""
    cache = cast(Any, function)._cache
    return isinstance(cache, FunctionCache) and bool(cache._cache_file._load_index())


def _compile(function: _Function, **options: Any) -> _Function:
    dispatcher = numba.njit(**options)(function)
    with contextlib.suppress(RuntimeError):  # there is no place for a cache that can be written
        dispatcher.enable_caching()
        # numba asks for the time of a function's own file, which an image's layers round, and of no other file.
        dispatcher._cache._cache_file._source_stamp = _stamp(Path(function.__code__.co_filename).parent)
    return cast(_Function, dispatcher)


@functools.cache
def _stamp(folder: Path) -> str:
    """Digest of every file that compiled code of a folder may come from: those that name this module."""
    found = hashlib.sha256()
    for path in sorted({*folder.glob("*.py"), *_HERE.rglob("*.py")}):
        text = path.read_bytes()
        if b"envs.compiled" in text:
            found.update(text)
    return found.hexdigest()
