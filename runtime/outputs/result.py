"""The result that a job returns to the command that ran it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.container.layout import Layout
from runtime.outputs.console import Reporter, Summary


@dataclass(frozen=True)
class JobResult:
    """The result of a successful job.

    Attributes:
        summary: The last screen, not shown yet.
        reporter: Shows it.
        layout: Results folder whose page shall be written, or written again; None for none.
    """

    summary: Summary
    reporter: Reporter
    layout: Layout | None


# Ends a job as its command does; None where there is nothing to show.
Finish = Callable[[JobResult | None], None]


def show_summary(result: JobResult | None) -> None:
    """Shows the last screen, and writes no page."""
    if result is not None:
        result.reporter.finish(result.summary)
