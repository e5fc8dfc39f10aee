"""Finds what a job resumes from: its own checkpoints, the checkpoint it was asked to restore, or a channel.

A job that resumes from nothing may begin with the network of another training, its warm start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.artifacts.checkpoint import checkpoints_in
from runtime.artifacts.model_directory import open_model
from runtime.artifacts.trust import check_checkpoint
from runtime.container.layout import Container, Layout
from runtime.errors import UserError
from runtime.settings.schema import JobConfig

# Where a job, and an evaluation, look for a model.
CHANNELS = ("checkpoint", "model")


@dataclass(frozen=True)
class Start:
    """The checkpoint that a job resumes from.

    Attributes:
        checkpoint: Its folder, or None for a job that starts afresh.
        is_same_job: Whether the checkpoint is the job's own, so that its clock continues as well.
        warm_start: Folder of the checkpoint whose network a job that starts afresh begins with, or None.
    """

    checkpoint: Path | None
    is_same_job: bool = False
    warm_start: Path | None = None


def find_start(config: JobConfig, container: Container, layout: Layout, scratch: Path) -> Start:
    """Finds the checkpoint to resume from: the job's own, else the one it was asked to restore, else a channel's.

    Raises:
        UserError: There is no checkpoint where one was named, or its pickles could run code.
    """
    start = _find(config, container, layout, scratch)
    for checkpoint in filter(None, (start.checkpoint, start.warm_start)):
        check_checkpoint(checkpoint, trust=config.trust_checkpoint, setting="rl.training.trust_checkpoint")
    return start


def _find(config: JobConfig, container: Container, layout: Layout, scratch: Path) -> Start:
    own = checkpoints_in(layout.checkpoints)
    if own:
        return Start(own[-1], is_same_job=True)
    if config.restore is not None:
        where = f"rl.training.restore (from {config.sources['restore']})"
        return Start(_open(Path(config.restore), where, scratch))
    for name in CHANNELS:
        if name in container.channels:
            return Start(_open(container.channels[name], f"channel {name}", scratch))
    if config.warm_start is not None:
        where = f"rl.training.warm_start (from {config.sources['warm_start']})"
        return Start(None, warm_start=_open(Path(config.warm_start), where, scratch))
    return Start(None)


def _open(place: Path, where: str, scratch: Path) -> Path:
    if place.is_dir() and not any(place.iterdir()):
        raise UserError(f"{where}: got nothing in {place}; expected a checkpoint. Leave it out to start afresh.")
    try:
        return open_model(place, scratch=scratch)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
