"""What a job leaves to the command that ran it."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.container.paths import Layout
from runtime.outputs.console import Reporter, Summary

CONFIG = "config.json"  # of a training: its resolved settings with their sources


@dataclass(frozen=True)
class JobResult:
    """A job that has ended well.

    Attributes:
        summary: The last screen, not shown yet.
        reporter: Shows it.
        layout: Where the job wrote.
    """

    summary: Summary
    reporter: Reporter
    layout: Layout
