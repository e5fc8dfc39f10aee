"""A job's temporary folder: locked while its process lives, and removed by the next start if that was killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

from runtime.container.environment_variables import find_ray_root
from runtime.errors import PlatformError
from runtime.files import lock_open_file

_PREFIX = "smrl-"
_LOCK = ".lock"
_MARK = "scratch folder of smrl\n"
_held: dict[tuple[int, Path], tuple[Path, IO[str]]] = {}  # by process, as forks inherit it, and by the folder above
# Of a socket's path 107 bytes; below its root Ray adds "/session_<26 digits>_<process>/sockets/plasma_store".
_LONGEST_RAY_FOLDER = 107 - 66


def scratch_folder(root: Path | None = None) -> Path:
    """Returns this process's folder for temporary files, created at the first call and removed at exit.

    What processes that were killed have left is removed when a folder is made.

    Args:
        root: Parent folder; None for the system's temporary folder.
    """
    root = Path(tempfile.gettempdir()) if root is None else root
    key = os.getpid(), root
    if key not in _held:
        remove_dead_folders(root)
        _held[key] = _make(root)
        atexit.register(_remove, key)
    return _held[key][0]


def ray_folder() -> Path:
    """Returns the folder for Ray's sessions, whose path must be short enough for Unix sockets."""
    root = find_ray_root()
    folder = scratch_folder(root) / "ray"
    if root is None and len(os.fsencode(folder)) > _LONGEST_RAY_FOLDER:
        folder = scratch_folder(Path("/tmp")) / "ray"  # a folder of our own in it
    return folder


def _make(root: Path) -> tuple[Path, IO[str]]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        aside = folder / f"{_LOCK}.new"
        lock = aside.open("w")
        lock.write(_MARK)
        lock.flush()
    except OSError as error:
        raise PlatformError(
            f"{root}: got a temporary folder that cannot be written to ({error.strerror or error}); expected room for "
            "this job's files. Free some, or set TMPDIR (RAY_TMPDIR for Ray's) to another folder."
        ) from None
    lock_open_file(lock)
    aside.rename(folder / _LOCK)  # which nobody can find unlocked while we live
    return folder, lock


def _remove(key: tuple[int, Path]) -> None:
    if key[0] != os.getpid():
        return  # a fork's parent's
    folder, lock = _held.pop(key, (None, None))
    if folder is None or lock is None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def remove_own_folders() -> None:
    """Removes this process's folders, for an end that Python does not see."""
    for key in list(_held):
        _remove(key)


def remove_dead_folders(root: Path) -> None:
    """Removes scratch folders of this user's whose processes are gone, known by a lock that nobody holds."""
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another start is at it, or it is somebody else's
            if not _is_ours(folder.lstat()):
                continue
            handle = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(handle, encoding="utf-8", errors="replace") as lock:
                lock_open_file(lock)
                if lock.read(len(_MARK)) == _MARK:
                    shutil.rmtree(folder, ignore_errors=True)


def _is_ours(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
