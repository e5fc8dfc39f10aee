"""The context that a job passes to its parts: container, layout, reporter, stop request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.artifacts.resume import Start
from runtime.container.layout import Container, Layout
from runtime.container.signals import StopRequest
from runtime.outputs.console import Reporter
from runtime.outputs.tracking import Tracking
from runtime.policies.spaces import Spaces

# Writes the model directory from a checkpoint, the policy's spaces, and what the manifest shall say besides.
WriteModel = Callable[[Path, Spaces, Mapping[str, Any]], None]


@dataclass(frozen=True)
class RunContext:
    """The surroundings of one run of a job.

    Attributes:
        container: The job's container.
        layout: Folders that the job writes to.
        reporter: Shows the job's progress.
        stop: The request to stop.
        scratch: An empty folder that is removed at the end of the job.
        start: The checkpoint that the job resumes from, if any.
        write_model: Writes the model directory; unused in an evaluation.
        ray_options: Additional arguments of ray.init from a launcher.
        tracking: Sends metrics to an experiment tracker; None in an evaluation.
    """

    container: Container
    layout: Layout
    reporter: Reporter
    stop: StopRequest
    scratch: Path
    start: Start = field(default_factory=lambda: Start(None))
    write_model: WriteModel | None = None
    ray_options: Mapping[str, Any] | None = None
    tracking: Tracking | None = None
