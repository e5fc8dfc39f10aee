"""What one run of a job has at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.artifacts.resume import Start
from runtime.container.layout import Container, Layout
from runtime.container.signals import StopRequest
from runtime.outputs.console import Reporter
from runtime.policies.spaces import Spaces

# Writes the model directory from a checkpoint, the policy's spaces, and what the manifest shall say besides.
WriteModel = Callable[[Path, Spaces, Mapping[str, Any]], None]


@dataclass(frozen=True)
class RunContext:
    """What one run of a job has at hand.

    Attributes:
        container: Where the job runs.
        layout: Where it writes.
        reporter: Shows what it does.
        stop: The request to stop.
        scratch: An empty folder that goes with the job.
        start: The checkpoint that it resumes from, if any.
        write_model: Writes the model directory; an evaluation has none.
        ray_options: A launcher's arguments of ray.init.
    """

    container: Container
    layout: Layout
    reporter: Reporter
    stop: StopRequest
    scratch: Path
    start: Start = field(default_factory=lambda: Start(None))
    write_model: WriteModel | None = None
    ray_options: Mapping[str, Any] | None = None
