"""The manifest of a model directory, and how to find one; imports nothing heavy, as `serve` starts with it."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import FORKS_END_WITHIN_S, lock, write_json

MANIFEST = "manifest.json"


def find_model_directory(place: Path) -> Path:
    """Finds the model directory that a path refers to.

    Raises:
        UserError: It is none, and holds none.
    """
    for folder in (place, place / "model"):
        if (folder / MANIFEST).is_file():
            return folder
    what = "which has no manifest.json" if place.exists() else "which does not exist"
    raise UserError(
        f"model: got {str(place)!r}, {what}; expected a model directory or a results folder, or of smrl export a "
        "checkpoint of RLlib's new API stack."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a model directory.

    Raises:
        UserError: There is none, or it is broken.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model: got {str(folder)!r}, whose {MANIFEST} cannot be read ({error}); expected a model directory that a "
            "training job wrote."
        ) from None
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: got {type(manifest).__name__}; expected a JSON object.")
    return manifest


def list_policies(manifest: Mapping[str, Any]) -> list[str]:
    """Lists the policies of several agents, each with a model directory of its own below; none where one agent acts."""
    return list(manifest.get("policies", {}))


def note_exports(
    folder: Path,
    exports: list[dict[str, Any]],
    signatures: dict[str, Any],
    *,
    checkpoint: str,
    not_exported: str = "",
    training_observations: dict[str, Any] | None = None,
) -> None:
    """Writes into the manifest what was exported from which checkpoint, or why nothing was.

    Args:
        folder: The model directory.
        exports: An entry a file.
        signatures: Inputs and outputs of each signature that the files have.
        checkpoint: Name of the checkpoint below the model directory.
        not_exported: Why there are none.
        training_observations: Mean and deviation of each input at the export, and where they are clipped; None if
            the policy has no observation filter.
    """
    noted: dict[str, Any] = {
        "exported_checkpoint": checkpoint,
        "exports": exports,
        "signatures": signatures,
        "training_observations": training_observations,
    }
    manifest = {name: value for name, value in read_manifest(folder).items() if name != "not_exported"}
    write_json(folder / MANIFEST, manifest | noted | ({"not_exported": not_exported} if not_exported else {}))


def largest_difference(exports: list[dict[str, Any]]) -> float:
    """Largest difference of exported files from the policy, over all formats and outputs."""
    return max(float(max(export["parity"]["largest_difference"].values())) for export in exports)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds a model directory for one writer; the lock goes with the process, however it ends.

    A process that was killed has forks which hold the lock a moment longer: it waits for them.

    Raises:
        UserError: Another process is writing to it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(folder, timeout_s=FORKS_END_WITHIN_S))
        except BlockingIOError:
            raise UserError(f"{folder}: got a folder that another process is writing to; wait for its end.") from None
        yield


def unpack(archive: Path, scratch: Path) -> Path:
    """Unpacks a model.tar.gz into an empty folder, and returns that.

    Raises:
        UserError: It is broken, or reaches outside the folder.
    """
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:  # Python's own filter came with 3.11.4 alone
                    _unpack_member(tar, member, scratch.resolve())
            while stream.read(2**20):  # to its end, where gzip's checksum is
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"model: got {str(archive)!r}, which cannot be unpacked ({error}); expected a model.tar.gz."
        ) from None
    return scratch


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    target = (root / member.name).resolve()
    if not target.is_relative_to(root) or not (member.isfile() or member.isdir()):
        raise tarfile.TarError(f"{member.name!r} is no plain file or folder below its root")
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # of a plain file there is one
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
