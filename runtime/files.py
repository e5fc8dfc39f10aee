"""Atomic writes, and locks that end with their process.

Every write here goes the same way: into a hidden file or folder beside the target, flushed to the disk (fsync), renamed
over the target, and then the parent folder is flushed too. If the process is killed or the machine loses power at any
point, the target is either what it was before or the complete new version, and once the call returns, the new version
is on the disk. Checkpoints, manifests and reports are small compared with the work behind them, so nothing skips the
flush. Hidden leftovers of a killed process are removed by `sweep`.

Two processes that write the same target need a lock: they would share its hidden name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# Longest time in which the forks of a killed process end, which have inherited its locks.
FORKS_END_WITHIN_S = 5.0

_WRITING = "writing"
_REMOVING = "removing"
_REPLACED = "replaced"
_POLL_S = 0.1
# Arguments of Linux's renameat2(2).
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with writing_aside(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes an indented JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_line(path: Path, line: str) -> None:
    """Appends a line of UTF-8 text and flushes it; a kill may leave a partial last line, see `drop_partial_line`."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _flush(path.parent)


def drop_partial_line(path: Path) -> None:
    """Removes a last line that a kill cut short, so that the next one starts on a line of its own."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


@contextlib.contextmanager
def writing_aside(path: Path) -> Iterator[Path]:
    """Yields a hidden path to write a file or folder at, which replaces the target when the block ends.

    If the block raises, what it wrote is removed and the target stays as it was.

    Args:
        path: The target; its parent folder must exist.
    """
    aside = path.with_name(f".{path.name}.{_WRITING}")
    _remove(aside)  # left by a killed process
    try:
        yield aside
        if aside.is_dir():
            flush_tree(aside)
            replace_folder(aside, path)
        else:
            _flush(aside)
            replace_file(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the disk may be what failed
            _remove(aside)
        raise


@contextlib.contextmanager
def folder_aside(parent: Path, name: str) -> Iterator[Path]:
    """Yields a new hidden folder for files that are then moved out one by one; it is removed when the block ends."""
    with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=f".{_WRITING}", dir=parent) as aside:
        yield Path(aside)


def replace_file(source: Path, target: Path) -> None:
    """Renames a flushed file, over the target if that exists."""
    os.replace(source, target)
    _flush(target.parent)


def replace_folder(source: Path, target: Path) -> None:
    """Renames a flushed folder, over the target if that exists.

    An existing target is exchanged in one step where the file system can (Linux: ext4, XFS, Btrfs, tmpfs). Elsewhere it
    takes two renames; if the process is killed between them, `sweep` puts the old folder back.
    """
    if not _exchange(source, target):
        replaced = _rename_hidden(target, _REPLACED) if target.exists() else None
        os.rename(source, target)
        source = replaced or source
    _flush(target.parent)
    if source.exists():
        remove_folder(source)


def remove_folder(folder: Path) -> None:
    """Removes a folder; it is renamed first, so that a kill leaves no partial folder under its name."""
    shutil.rmtree(_rename_hidden(folder, _REMOVING), ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes left half-written or half-removed in a folder, and completes their replacements."""
    for leftover in folder.glob(f".*.{_REPLACED}"):
        target = leftover.with_name(leftover.name.removeprefix(".").removesuffix(f".{_REPLACED}"))
        if target.exists():
            remove_folder(leftover)
        else:
            os.rename(leftover, target)
    for leftover in (*folder.glob(f".*.{_REMOVING}"), *folder.glob(f".*.{_WRITING}")):
        _remove(leftover)


def flush_tree(folder: Path) -> None:
    """Flushes a folder and everything below it to the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # SageMaker's uploader adds marker files and removes them
                _flush(Path(parent) / name)
        _flush(Path(parent))


@contextlib.contextmanager
def lock(path: Path, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Holds an exclusive lock on a file or folder; the kernel releases it when the process ends, however it ends.

    Args:
        path: A folder, or a file, which is created if absent.
        timeout_s: Longest wait in seconds while another process holds the lock.

    Raises:
        BlockingIOError: Another process still holds it.
    """
    handle = os.open(path, os.O_RDONLY) if path.is_dir() else os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + timeout_s
        while not _try_to_lock(handle):
            if time.monotonic() >= deadline:
                raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process", str(path))
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock on a file that exists."""
    try:
        with lock(path):
            return False
    except BlockingIOError:
        return True


def make_writable(folder: Path) -> None:
    """Makes a folder if there is none, and finds out whether files can be written there.

    Raises:
        OSError: They cannot; its file name is the folder's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def lock_open_file(file: IO[Any]) -> None:
    """Locks an open file until it is closed.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    if not _try_to_lock(file.fileno()):
        raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process", file.name)


def _try_to_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two paths in one step; False if one is absent or the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _rename_hidden(folder: Path, suffix: str) -> Path:
    hidden = folder.with_name(f".{folder.name}.{suffix}")
    _remove(hidden)  # left by a killed process
    os.rename(folder, hidden)
    return hidden


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
