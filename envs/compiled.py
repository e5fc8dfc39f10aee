"""Typed decorators for numba, with a disk cache that is invalidated by every change of our own code."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

_Function = TypeVar("_Function", bound=Callable[..., Any])
_HERE = Path(__file__).resolve().parent


def exact(function: _Function) -> _Function:
    """Compiles at the first call, with Python's own arithmetic, and caches the code on disk."""
    return _compile(function)


def fast(function: _Function) -> _Function:
    """Compiles as `exact` does, but may reorder sums to vectorize them; for pictures."""
    return _compile(function, fastmath=True)


def without_gil(function: _Function) -> _Function:
    """Compiles as `exact` does, for code that runs in several threads; a division by zero gives inf or NaN."""
    return _compile(function, nogil=True, error_model="numpy")


def fused_without_gil(function: _Function) -> _Function:
    """Compiles as `without_gil` does, but with fused multiply-add; for networks."""
    return _compile(function, nogil=True, error_model="numpy", fastmath={"contract"})


def is_kept(function: Callable[..., Any]) -> bool:
    """Whether the disk cache has the function compiled from the current code."""
    cache = cast(Any, function)._cache
    return isinstance(cache, _DiskCache) and any(file._load_index() for file in cache.files)


class _DiskCache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's cache on disk, which also reads the folder of the code where only another can be written to.

    An image's kernels are compiled when it is built. numba alone looks where it can write, which for a user other than
    root, or with a read-only root, is not there.
    """

    _cache_file: IndexDataCacheFile

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        folder = Path(function.__code__.co_filename).parent
        # numba checks only the modification time of the function's own file, and an image's layers round it.
        self._cache_file._source_stamp = _stamp(folder)
        self.files = [self._cache_file]
        if (beside := str(folder / "__pycache__")) != self._cache_path:
            self.files.append(IndexDataCacheFile(beside, self._impl.filename_base, _stamp(folder)))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The function as compiled for a signature; None if no file has it."""
        for file in self.files:
            self._cache_file = file
            if (found := super().load_overload(sig, target_context)) is not None:
                break
        self._cache_file = self.files[0]  # which is written to
        return found


def _compile(function: _Function, **options: Any) -> _Function:
    dispatcher = numba.njit(**options)(function)
    with contextlib.suppress(RuntimeError):  # no writable folder for a cache
        dispatcher._cache = _DiskCache(function)
    return cast(_Function, dispatcher)


@functools.cache
def _stamp(folder: Path) -> str:
    """Digests all files of a folder that may contain compiled code: those that import this module."""
    found = hashlib.sha256()
    for path in sorted({*folder.glob("*.py"), *_HERE.rglob("*.py")}):
        text = path.read_bytes()
        if b"envs.compiled" in text:
            found.update(text)
    return found.hexdigest()
