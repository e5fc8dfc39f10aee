"""The command `smrl report`: writes the report of a results folder, or a comparison of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runtime.container.layout import Layout
from runtime.errors import PlatformError, UserError
from runtime.files import write_text
from runtime.outputs.console import Reporter
from runtime.outputs.result import JobResult
from runtime.report.comparison import render_comparison
from runtime.report.page import render_report
from runtime.report.results import read_results

FILE = "report.html"


def run_report(places: Sequence[Path], out: Path | None) -> Path:
    """`smrl report`: the page of a results folder, or a comparison of several.

    Args:
        places: Results folders.
        out: File to write; the folder's report.html, or comparison.html here, if None.

    Raises:
        UserError: A folder holds no results.
        PlatformError: The file cannot be written.
    """
    for place in places:
        if not place.is_dir():
            raise UserError(f"report: got {str(place)!r}; expected a results folder, as smrl train leaves one.")
    runs = [read_results(Layout.of_results(place)) for place in places]
    text = render_report(runs[0]) if len(runs) == 1 else render_comparison(runs)
    target = out or (places[0] / FILE if len(runs) == 1 else Path("comparison.html"))
    _write(target, text)
    return target


def finish(result: JobResult | None) -> None:
    """Ends a job: writes its report, or the report of the training that it evaluated, and prints the summary.

    Args:
        result: Result of the job; None on a host that has none.
    """
    if result is None:
        return
    summary = result.summary
    if result.layout is not None:
        result.reporter.show_phase("writing the report")
        page = write_report(result.layout, result.reporter)
        summary = summary if page is None else replace(summary, facts={**summary.facts, "report": str(page)})
    result.reporter.finish(summary)


def write_report(layout: Layout, reporter: Reporter) -> Path | None:
    """Writes a job's report at its end; an error is only noted, as the report must not fail the job."""
    try:
        target = layout.data / FILE
        _write(target, render_report(read_results(layout)))
    except Exception as error:
        reporter.note(f"no report: {type(error).__name__}: {error}")
        return None
    return target


def _write(target: Path, text: str) -> None:
    try:
        write_text(target, text)
    except OSError as error:
        raise PlatformError(f"{target}: could not be written: {error.strerror or error}.") from None
