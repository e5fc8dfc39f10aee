"""The models of a multi-model endpoint: loaded and unloaded by name, in every worker at once.

A file a model in a folder that the workers share is the truth; each worker loads a policy when it is first asked for it
and forgets it when its file is gone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import psutil

from runtime.errors import UserError
from runtime.serving.requests import RequestError
from runtime.serving.served_policy import ServedPolicy, load_policy

_SUFFIX = ".json"
_LONGEST_NAME = 200  # a file's name has 255 bytes
_SESSION_COST = 4  # memory of a session by its file's size, about; measured at 2-3 for policies


@dataclass
class _Loaded:
    version: tuple[int, int]
    policy: ServedPolicy


class Registry:
    """This worker's view of the models.

    Args:
        folder: Shared by the workers; exists.
        memory_mb: What all models together may take, in MB; None for what the machine has left.
    """

    def __init__(self, folder: Path, *, memory_mb: float | None) -> None:
        self._folder, self._memory_mb = folder, memory_mb
        self._loaded: dict[str, _Loaded] = {}

    def load(self, name: str, url: str) -> None:
        """Loads a model.

        Args:
            name: What it is called from now on.
            url: Folder of the model directory.

        Raises:
            RequestError: 409 if the name is taken, 507 if memory does not suffice, 400 if there is no policy.
        """
        path = self._path(name)
        if path.exists():
            raise RequestError(409, f"model_name: got {name!r}, which is loaded; expected another. DELETE it first.")
        self._check_memory(Path(url))
        try:
            policy = load_policy(Path(url))
        except UserError as error:
            raise RequestError(400, f"url: {error}") from None
        except MemoryError:
            raise RequestError(507, f"model {name!r}: no memory is left to load it. Unload others.") from None
        aside = self._folder / f"aside-{os.getpid()}"
        aside.write_text(json.dumps({"url": url}))
        try:
            os.link(aside, path)  # whole at once, and only if nobody was faster
        except FileExistsError:
            raise RequestError(409, f"model_name: got {name!r}, which was loaded meanwhile.") from None
        finally:
            aside.unlink()
        self._loaded[name] = _Loaded(_version(path), policy)

    def unload(self, name: str) -> None:
        """Forgets a model.

        Raises:
            RequestError: 404, there is none of that name.
        """
        self._loaded.pop(name, None)
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise _no_such(name) from None

    def get(self, name: str) -> ServedPolicy:
        """The policy of a model.

        Raises:
            RequestError: 404, there is none of that name.
        """
        try:
            version = _version(self._path(name))
        except FileNotFoundError:
            self._loaded.pop(name, None)
            raise _no_such(name) from None
        loaded = self._loaded.get(name)
        if loaded is None or loaded.version != version:
            try:
                policy = load_policy(Path(self.url_of(name)))
            except UserError as error:
                raise RequestError(404, f"model {name!r}: {error}") from None
            loaded = self._loaded[name] = _Loaded(version, policy)
        return loaded.policy

    def url_of(self, name: str) -> str:
        """Where a model was loaded from.

        Raises:
            RequestError: 404, there is none of that name.
        """
        try:
            return str(json.loads(self._path(name).read_text())["url"])
        except FileNotFoundError:
            raise _no_such(name) from None

    def names(self) -> list[str]:
        """Of all models, sorted."""
        return sorted(unquote(path.name[1:].removesuffix(_SUFFIX)) for path in self._folder.glob(f"*{_SUFFIX}"))

    def _path(self, name: str) -> Path:
        file = quote(name, safe="")
        if not name or len(file) > _LONGEST_NAME:
            raise RequestError(400, f"model_name: got {len(name)} characters; expected 1 to {_LONGEST_NAME}.")
        return self._folder / f"_{file}{_SUFFIX}"  # the underscore keeps "." and ".." from being folders

    def _check_memory(self, place: Path) -> None:
        need = _megabytes(place)
        if self._memory_mb is None:
            left = psutil.virtual_memory().available / 2**20
        else:
            left = self._memory_mb - sum(_megabytes(Path(self.url_of(name))) for name in self.names())
        if need > left:
            raise RequestError(
                507, f"url: got a model that needs {need:.1f} MB; {left:.1f} MB are left. Unload others."
            )


def _version(path: Path) -> tuple[int, int]:
    """Of a model's file: another one of the same name differs in time, though perhaps not in inode."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _megabytes(place: Path) -> float:
    sizes = [path.stat().st_size for path in place.rglob("*.onnx")]
    return _SESSION_COST * sum(sizes) / 2**20


def _no_such(name: str) -> RequestError:
    return RequestError(404, f"model {name!r}: it is not loaded.")
