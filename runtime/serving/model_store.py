"""The models of a multi-model endpoint, which are loaded and unloaded by name in all workers.

One file per model, in a folder that the workers share, defines which models are loaded. Each worker loads a policy at
its first request, and drops it at the next invocation of any model after the file is gone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from runtime.errors import UserError
from runtime.serving.observations import RequestError
from runtime.serving.served_policy import ServedPolicy, load_policy

_PREFIX = "model-"
_SUFFIX = ".json"
_LONGEST_FILE = 200  # a file's name has 255 bytes
_SESSION_COST = 4  # memory of a session by its file's size, about; 2-3 was measured for policies


@dataclass
class _Loaded:
    version: tuple[int, int]
    policy: ServedPolicy


class Registry:
    """This worker's view of the models.

    Args:
        folder: Existing folder that the workers share.
        workers: Number of workers that will hold each model.
        memory_mb: Memory limit of all models together, in MB.
    """

    def __init__(self, folder: Path, *, workers: int, memory_mb: float) -> None:
        self._folder = folder
        self._workers = workers
        self._memory_mb = memory_mb
        self._loaded: dict[str, _Loaded] = {}

    def load(self, name: str, url: str) -> None:
        """Loads a model.

        Args:
            name: Name of the model in later requests.
            url: Path of the model directory.

        Raises:
            RequestError: 409 if the name is taken, 507 if memory does not suffice, 400 if there is no policy.
        """
        path = self._path(name)
        if path.exists():
            raise RequestError(409, f"model_name: got {name!r}, which is loaded; expected another. DELETE it first.")
        try:
            policy = load_policy(Path(url))
            cost = self._workers * _SESSION_COST * _file_bytes(Path(url)) / 2**20
        except (UserError, OSError, ValueError) as error:
            raise RequestError(400, f"url: {error}"[:1000]) from None
        except MemoryError:
            raise RequestError(507, f"model {name!r}: no memory is left to load it. Unload others.") from None
        left = self._memory_mb - sum(found["mb"] for found in self._files().values())
        if cost > left:
            raise RequestError(
                507, f"url: got a model that needs {cost:.1f} MB; {left:.1f} MB are left. Unload others."
            )
        aside = self._folder / f"aside-{os.getpid()}"
        aside.write_text(json.dumps({"url": url, "mb": cost}))
        try:
            version = _version(aside)
            os.link(aside, path)  # atomic, and fails if another worker was faster
        except FileExistsError:
            raise RequestError(409, f"model_name: got {name!r}, which was loaded meanwhile.") from None
        finally:
            aside.unlink()
        self._loaded[name] = _Loaded(version, policy)

    def unload(self, name: str) -> None:
        """Unloads a model.

        Raises:
            RequestError: 404, there is none of that name.
        """
        self._loaded.pop(name, None)
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise _no_such(name) from None

    def get(self, name: str) -> ServedPolicy:
        """Returns the policy of a model; loads it if this worker has not loaded it yet.

        Raises:
            RequestError: 404, there is none of that name.
        """
        if (policy := self.find(name)) is not None:
            return policy
        try:
            path = self._path(name)
            version = _version(path)
            url = json.loads(path.read_text())["url"]
            policy = load_policy(Path(url))
        except (UserError, FileNotFoundError) as error:
            raise RequestError(404, f"model {name!r}: {error}") from None
        self._loaded[name] = _Loaded(version, policy)
        return policy

    def find(self, name: str) -> ServedPolicy | None:
        """Returns the policy of a model if this worker has loaded it; drops those that other workers have unloaded.

        Raises:
            RequestError: 404, there is none of that name.
        """
        for known in list(self._loaded):
            try:
                is_current = _version(self._path(known)) == self._loaded[known].version
            except FileNotFoundError:
                is_current = False
            if not is_current:
                del self._loaded[known]
        if name in self._loaded:
            return self._loaded[name].policy
        if not self._path(name).exists():
            raise _no_such(name)
        return None

    def describe(self) -> list[dict[str, str]]:
        """Returns the name and url of every model, by name."""
        return [{"modelName": name, "modelUrl": found["url"]} for name, found in sorted(self._files().items())]

    def _files(self) -> dict[str, Any]:
        """Returns the contents of every model's file, by name; models that are being unloaded are left out."""
        found: dict[str, Any] = {}
        for path in self._folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            try:
                found[unquote(path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX))] = json.loads(path.read_text())
            except FileNotFoundError:
                continue
        return found

    def _path(self, name: str) -> Path:
        try:
            file = quote(name, safe="")
        except UnicodeEncodeError:
            file = ""
        if not file or len(file) > _LONGEST_FILE:
            raise RequestError(
                400, f"model_name: got {len(file)} bytes, escaped as in a URL; expected 1 to {_LONGEST_FILE}."
            )
        return self._folder / f"{_PREFIX}{file}{_SUFFIX}"


def _version(path: Path) -> tuple[int, int]:
    """Version of a model's file; a later file of the same name differs in time, though perhaps not in inode."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _file_bytes(place: Path) -> int:
    return sum(path.stat().st_size for folder in (place, place / "model") for path in folder.glob("*.onnx"))


def _no_such(name: str) -> RequestError:
    return RequestError(404, f"model {name!r}: it is not loaded.")
