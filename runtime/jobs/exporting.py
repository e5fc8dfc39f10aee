"""The export at the end of a job, beside which the job records its video and draws its pictures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from runtime.artifacts.checkpoint import is_whole
from runtime.artifacts.manifest import list_policies, note_exports, only_writer, read_manifest
from runtime.container.forked import Fork
from runtime.container.imports import importing
from runtime.errors import JobError, UserError, describe_root
from runtime.jobs.catalog import CATALOG
from runtime.outputs.console import Reporter

# The largest networks take a minute or two. A job that was stopped has its checkpoint and model directory by then.
_TIMEOUT_S = 300.0


class Exporting:
    """Exports a model directory in a fork of this process, which leaving the block kills.

    After training on a GPU it exports in this process: a fork cannot use CUDA, which torch.export asks for its random
    numbers' state. A failure is only noted, as the model directory with its checkpoint is complete.

    Args:
        reporter: Shows the note.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._running: tuple[Path, Fork[str], ExitStack] | None = None

    def __enter__(self) -> Exporting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            _, fork, lock = self._running
            fork.kill()
            lock.close()

    def start(self, folder: Path) -> None:
        """Starts to export a model directory, after the end of the export before; another writer's is left alone."""
        self.finish()
        lock = ExitStack()
        try:
            lock.enter_context(only_writer(folder))
        except UserError as error:
            self._reporter.note(f"the policy is not exported: {error}")
            return
        if _has_used_gpu():
            with lock:
                self._note_end(folder, lambda: _export_here(folder))
            return
        self._running = folder, Fork("export", lambda: _export_in_fork(folder)), lock

    def finish(self) -> None:
        """Waits for the end of the export, if there is one."""
        if self._running is None:
            return
        folder, fork, lock = self._running
        self._running = None
        with lock:
            self._note_end(folder, lambda: fork.result(timeout_s=_TIMEOUT_S))

    def _note_end(self, folder: Path, wait: Callable[[], str]) -> None:
        """Notes how an export ended, which `wait` returns or raises."""
        try:
            missing = wait()
        except JobError as error:
            self._reporter.note(f"the policy is not exported: {error}")
            with contextlib.suppress(OSError):  # of a full disk; the manifest lists no exports then, as it did before
                note_exports(folder, [], {}, checkpoint="checkpoint", not_exported=str(error))
            return
        if missing:
            self._reporter.note(missing)


def export_all(
    folder: Path, *, checkpoint: str = "checkpoint", trust: bool = False
) -> tuple[list[dict[str, Any]], str]:
    """Exports the policy of a model directory in every format, those of its environment's family included.

    Args:
        folder: The model directory.
        checkpoint: Name of the checkpoint in the model directory, as `best`.
        trust: Whether pickles of an older checkpoint may be read.

    Returns:
        The entries of the manifest; and why the family's formats are missing, if they are.

    Raises:
        JobError: The policy cannot be exported, or a format does not agree with it.
    """
    with importing():  # torch and RLlib
        from runtime.export.exporter import export_model

    if policies := list_policies(read_manifest(folder)):
        return _export_policies(folder, policies, checkpoint=checkpoint, trust=trust), ""
    missing = _write_own_formats(folder, checkpoint)  # first, as a family's own networks may have no other format
    return export_model(folder, checkpoint=checkpoint, trust=trust), missing


def _export_policies(folder: Path, policies: list[str], *, checkpoint: str, trust: bool) -> list[dict[str, Any]]:
    """Exports each policy of several agents into its own model directory; the manifest above lists all files."""
    exports = [
        {**export, "file": f"{policy}/{export['file']}"}
        for policy in policies
        for export in export_all(folder / policy, checkpoint=checkpoint, trust=trust)[0]
    ]
    note_exports(folder, exports, {}, checkpoint=checkpoint)
    return exports


def _write_own_formats(folder: Path, checkpoint: str) -> str:
    """Writes the formats of the environment's family; returns why they are missing, if they are."""
    env = read_manifest(folder).get("env")
    try:
        if env and is_whole(folder / checkpoint):
            CATALOG.family_of(env).write_own_formats(folder / checkpoint, folder)
    except (JobError, OSError) as error:
        return str(error)
    return ""


def _has_used_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _export_in_fork(folder: Path) -> str:
    import torch

    torch.set_num_threads(1)  # a fork has none of the threads that PyTorch has started
    return export_all(folder)[1]


def _export_here(folder: Path) -> str:
    try:
        return export_all(folder)[1]
    except JobError:
        raise
    except Exception as error:  # as in a fork
        raise JobError(describe_root(error)) from error
