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
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MANIFEST_URL = "https://storage.googleapis.com/mlagents-test-environments/1.0.0/manifest.yaml"
_TIMEOUT_S = 30.0
_BLOCK = 1 << 20
_TRIES = 3
_REMEDY = "mount the executable as the train channel, or give file_name"


@dataclass(frozen=True)
class Scene:
    """A scene that is here.

    Attributes:
        executable: Its player.
        arguments: What the manifest adds to its command line.
    """

    executable: Path
    arguments: tuple[str, ...]


class Registry:
    """Scenes by name.

    Args:
        url: Of the manifest; a path serves as well.
        cache_folder: Where downloads are kept; `~/.cache/smrl/unity` if None, or a temporary folder where that cannot
            be written.
    """

    def __init__(self, url: str = MANIFEST_URL, cache_folder: str | Path | None = None) -> None:
        self._url = url
        self._folder = _default_cache() if cache_folder is None else Path(cache_folder)

    def fetch(self, name: str) -> Scene:
        """The scene, downloaded unless it is here.

        Raises:
            ValueError: There is no such scene, or it cannot be had.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            entry = self._find(name, self._read_manifest(name))
            url = entry.get("linux_url")
            if not isinstance(url, str):
                raise ValueError(f"env_name: {name} has no Linux build in {self._url}; {_REMEDY}.")
            target = self._folder / f"{name}-{_digest(url)}"
            with _locked(target.with_suffix(".lock")):
                if not target.is_dir():
                    self._download(name, url, target, sha256=entry.get("linux_sha256"))
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"env_name: {name} cannot be downloaded: {_reason(error)}; {_REMEDY}.") from None
        arguments = tuple(map(str, entry.get("additional_args") or ()))
        return Scene(_find_player(target, name), arguments)

    def _read_manifest(self, name: str) -> dict[str, dict[str, Any]]:
        """Entries by name; the last one that was read serves where the network does not."""
        kept = self._folder / f"manifest-{_digest(self._url)}.yaml"
        try:
            if "://" in self._url:
                with urllib.request.urlopen(self._url, timeout=_TIMEOUT_S) as answer:
                    text = answer.read().decode("utf-8")
                _write_whole(kept, text)
            else:
                text = Path(self._url).read_text(encoding="utf-8")
        except OSError as error:
            if not kept.is_file():
                raise ValueError(
                    f"env_name: {name} cannot be downloaded: {self._url}: {_reason(error)}; {_REMEDY}."
                ) from None
            text = kept.read_text(encoding="utf-8")
        try:
            found = yaml.safe_load(text)["environments"]
            return {key: dict(value) for entry in found for key, value in entry.items()}
        except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError):
            raise ValueError(
                f"registry_url: got {self._url!r}, which is no manifest; expected YAML with `environments`, a list of "
                "one name each with its linux_url."
            ) from None

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
        """Downloads and unpacks; a download that was cut short is gone on with."""
        part = target.with_suffix(".zip.part")
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
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self._folder))
        try:
            with zipfile.ZipFile(part) as archive:
                archive.extractall(aside)
            aside.chmod(0o755)
            aside.rename(target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        part.unlink()


def _resume(url: str, part: Path) -> str | None:
    """Downloads what is missing of a file; the server's MD5 of the whole, where it says one."""
    tag_file = part.with_suffix(".tag")
    begin = part.stat().st_size if part.is_file() and tag_file.is_file() else 0
    request = urllib.request.Request(url)
    if begin:  # If-Range: the rest, if the file is still the same one; else all of it
        request.add_header("Range", f"bytes={begin}-")
        request.add_header("If-Range", tag_file.read_text(encoding="ascii"))
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # all of it is here already, or too much
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
    """Refuses a download that is not what was announced; it is dropped, as no rest of it would mend it.

    Raises:
        ValueError: A checksum is another one, or the archive is damaged.
    """
    why_not = None
    with part.open("rb") as file:
        if md5 is not None and base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode() != md5:
            why_not = "its MD5 is not the one that the server announced"
        file.seek(0)
        if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256.lower():
            why_not = "its SHA-256 is not the manifest's"
    if why_not is None:
        try:
            with zipfile.ZipFile(part) as archive:
                damaged = archive.testzip()
            why_not = f"{damaged} in it is damaged" if damaged else None
        except zipfile.BadZipFile:
            why_not = "it is no zip archive"
    if why_not is not None:
        part.unlink()
        raise ValueError(f"env_name: got a download of {url} that cannot be used: {why_not}. Try again, or {_REMEDY}.")


def _find_player(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob("*.x86_64"))
    if len(found) != 1:
        raise ValueError(
            f"env_name: got {len(found)} .x86_64 files in the archive of {name} ({folder}); expected one. Give the one "
            "to run as file_name."
        )
    return found[0]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes; it goes with its holder, however that ends."""
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / "smrl-unity"
    return folder
