"""Unity's registry of example scenes: a manifest of names and URLs, and a cache of what was downloaded from it.

Source of the manifest's form: mlagents_envs 0.28.0, `registry/unity_env_registry.py`.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import fcntl
import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MANIFEST_URL = "https://storage.googleapis.com/mlagents-test-environments/1.0.0/manifest.yaml"
_TIMEOUT_S = 30.0
_BLOCK = 1 << 20
_TRIES = 3
BUILD_SUFFIXES = (".x86_64", ".x86")
_REMEDY = "mount the executable as the train channel, or give file_name"


@dataclass(frozen=True)
class Scene:
    """A downloaded scene.

    Attributes:
        executable: The player's file.
        arguments: Command-line arguments that the manifest adds.
    """

    executable: Path
    arguments: tuple[str, ...]


class Registry:
    """Downloads scenes by name.

    Args:
        url: URL or path of the manifest.
        cache_folder: Folder of downloads; if None, `~/.cache/smrl/unity`, or a temporary folder where that is not
            writable.
    """

    def __init__(self, url: str = MANIFEST_URL, cache_folder: str | Path | None = None) -> None:
        self._url = url
        self._folder = _default_cache() if cache_folder is None else Path(cache_folder).expanduser()

    def fetch(self, name: str) -> Scene:
        """Returns the scene; downloads it if it is not in the cache.

        Raises:
            ValueError: There is no such scene, or it cannot be had.
        """
        try:
            with contextlib.suppress(PermissionError):
                self._folder.mkdir(parents=True, exist_ok=True)
            entry = self._find(name, self._read_manifest(name))
            url, sha256 = entry.get("linux_url"), entry.get("linux_sha256")
            if url is None:
                raise ValueError(f"env_name: {name} has no Linux build in {self._url}; {_REMEDY}.")
            if not isinstance(url, str) or "://" not in url or not isinstance(sha256, str | None):
                raise ValueError(
                    f"registry_url: got linux_url {url!r} and linux_sha256 {sha256!r} of {name} in {self._url}; "
                    "expected a URL, and a checksum in quotes or none."
                )
            target = self._folder / f"{name.replace('/', '-')}-{_digest(url + (sha256 or ''))}"
            if not target.is_dir():  # the cache may be another user's, and read-only
                with _locked(_beside(target, "lock")):
                    if not target.is_dir():
                        self._download(name, url, target, sha256=sha256)
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"env_name: {name} cannot be downloaded: {_reason(error)}; {_REMEDY}.") from None
        arguments = entry.get("additional_args") or ()
        if not isinstance(arguments, list) or not all(isinstance(word, str | int | float) for word in arguments):
            raise ValueError(f"registry_url: got additional_args {arguments!r} of {name}; expected a list of words.")
        arguments = tuple(map(str, arguments))
        return Scene(_find_player(target, name), arguments)

    def _read_manifest(self, name: str) -> dict[str, dict[str, Any]]:
        """Reads the manifest's entries by name; falls back to the cached manifest without a network."""
        kept = self._folder / f"manifest-{_digest(self._url)}.yaml"
        try:
            if "://" not in self._url:
                return _parse(Path(self._url).read_text(encoding="utf-8", errors="replace"), self._url)
            with urllib.request.urlopen(self._url, timeout=_TIMEOUT_S) as answer:
                text = answer.read().decode("utf-8", "replace")
            found = _parse(text, self._url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if kept.is_file():
                return _parse(kept.read_text(encoding="utf-8"), str(kept))
            if isinstance(error, OSError | http.client.HTTPException):
                raise ValueError(
                    f"env_name: {name} cannot be downloaded: {self._url}: {_reason(error)}; {_REMEDY}."
                ) from None
            raise
        with contextlib.suppress(OSError):  # the cache may be read-only
            _write_whole(kept, text)
        return found

    def _find(self, name: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
        if name in entries:
            return entries[name]
        lower = {key.lower(): key for key in entries}
        close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
        hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
        raise ValueError(
            f"env_name: got {name!r}; expected a scene of {self._url}: {', '.join(sorted(entries))}.{hint}"
        )

    def _download(self, name: str, url: str, target: Path, *, sha256: str | None) -> None:
        """Downloads and unpacks a scene; resumes a download that was interrupted."""
        part = _beside(target, "part")
        for left in reversed(range(_TRIES)):
            try:
                checksum = _resume(url, part)
                break
            except urllib.error.HTTPError:
                raise
            except (OSError, http.client.HTTPException):
                if not left:
                    raise
        _check(part, url, checksum, sha256)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=self._folder))
        try:
            with zipfile.ZipFile(part) as archive:
                archive.extractall(aside)
            _find_player(aside, name)
            aside.chmod(0o755)
            aside.rename(target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            part.unlink()
            raise
        part.unlink()


def _resume(url: str, part: Path) -> str | None:
    """Downloads the missing rest of a file; returns the server's MD5 of the whole file, if it sends one."""
    tag_file = _beside(part, "tag")
    begin = part.stat().st_size if part.is_file() and tag_file.is_file() else 0
    request = urllib.request.Request(url)
    if begin:  # If-Range: the rest, if the file is still the same one; else all of it
        request.add_header("Range", f"bytes={begin}-")
        request.add_header("If-Range", tag_file.read_text(encoding="ascii"))
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # the file is complete already, or too long
            tag_file.unlink(missing_ok=True)
            return _resume(url, part)
        raise
    with answer:
        is_rest = answer.status == http.client.PARTIAL_CONTENT
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if tag:
            tag_file.write_text(tag, encoding="ascii")
        length = answer.headers.get("Content-Length")
        got = 0
        with part.open("ab" if is_rest else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                got += len(block)
        if length is not None and got != int(length):
            raise http.client.IncompleteRead(b"", int(length) - got)
        hashes = ",".join(answer.headers.get_all("x-goog-hash") or ())
    tag_file.unlink(missing_ok=True)
    return next((part.strip()[4:] for part in hashes.split(",") if part.strip().startswith("md5=")), None)


def _check(part: Path, url: str, md5: str | None, sha256: str | None) -> None:
    """Rejects and deletes a download whose checksum or archive is wrong, as resuming it would not repair it.

    Raises:
        ValueError: A checksum differs, or the archive is damaged.
    """
    problem = None
    with part.open("rb") as file:
        if md5 is not None and base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode() != md5:
            problem = "its MD5 is not the one that the server announced"
        file.seek(0)
        if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256.lower():
            problem = "its SHA-256 is not the manifest's"
    if problem is None:
        try:
            with zipfile.ZipFile(part) as archive:
                damaged = archive.testzip()
            problem = f"{damaged} in it is damaged" if damaged else None
        except zipfile.BadZipFile:
            problem = "it is no zip archive"
        except (zlib.error, EOFError, RuntimeError, NotImplementedError) as error:  # damaged, encrypted, or too new
            problem = f"its archive cannot be read: {error}"
    if problem is not None:
        part.unlink()
        raise ValueError(f"env_name: got a download of {url} that cannot be used: {problem}. Try again, or {_REMEDY}.")


def _find_player(folder: Path, name: str) -> Path:
    found = find_builds(folder)
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found) or "nothing"
        raise ValueError(f"env_name: got {names} to run in the archive of {name}; expected one .x86_64 file.")
    return found[0]


def find_builds(folder: Path) -> list[Path]:
    """Returns Unity's Linux builds in a folder and its subfolders, sorted, without macOS's `._` files."""
    files = (path for suffix in BUILD_SUFFIXES for path in folder.rglob(f"*{suffix}") if path.is_file())
    return sorted(path for path in files if not path.name.startswith("._"))


def _parse(text: str, url: str) -> dict[str, dict[str, Any]]:
    try:
        found = yaml.safe_load(text)["environments"]
        return {str(key): dict(value) for entry in found for key, value in entry.items()}
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(
            f"registry_url: got {url!r}, which is no manifest; expected YAML with `environments`, a list of one name "
            "each with its linux_url."
        ) from None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes, which the kernel releases when the holder exits."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_whole(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as aside:
        aside.write(text)
    Path(aside.name).replace(path)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = str(reason) or type(error).__name__
    return f"HTTP {error.code} {text} for {error.url}" if isinstance(error, urllib.error.HTTPError) else text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _default_cache() -> Path:
    folder = Path.home() / ".cache" / "smrl" / "unity"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir()) / "smrl-unity"
