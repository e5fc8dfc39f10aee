"""Typed decorators for numba, with a disk cache that is invalidated by every change of our own code."""

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
    """Compiles at the first call, with Python's own arithmetic, and caches the code on disk."""
    return _compile(function)


def fast(function: _Function) -> _Function:
    """As `exact`, but sums may be reordered, so that the compiler can vectorize them; for pictures."""
    return _compile(function, fastmath=True)


def without_gil(function: _Function) -> _Function:
    """As `exact`, for code that runs in several threads; a division by zero gives inf or NaN."""
    return _compile(function, nogil=True, error_model="numpy")


def fused_without_gil(function: _Function) -> _Function:
    """As `without_gil`, but with fused multiply-add; for networks."""
    return _compile(function, nogil=True, error_model="numpy", fastmath={"contract"})


def is_kept(function: Callable[..., Any]) -> bool:
    """Whether the disk cache holds the function as compiled from the current code."""
    cache = cast(Any, function)._cache
    return isinstance(cache, FunctionCache) and bool(cache._cache_file._load_index())


def _compile(function: _Function, **options: Any) -> _Function:
    dispatcher = numba.njit(**options)(function)
    with contextlib.suppress(RuntimeError):  # no writable folder for a cache
        dispatcher.enable_caching()
        # numba checks only the modification time of the function's own file, and an image's layers round it.
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
