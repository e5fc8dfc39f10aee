"""Console output of a job: plain lines in a pipe or container, a live display in a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.container.signals import write_line
from runtime.outputs.metrics import metric_line

# Of an iteration in an environment, and of one on logged data.
_REFRESHES_PER_S = 4
_RETURNS = ("episode_reward_mean", "estimated_return")


@dataclass(frozen=True)
class Summary:
    """The last screen of a job.

    Attributes:
        headline: Result of the job, in one line.
        facts: Name and value of each further line: returns, steps, seconds, places.
        next_command: Command to suggest next.
    """

    headline: str
    facts: Mapping[str, str] = field(default_factory=dict)
    next_command: str = ""


class Reporter:
    """Plain lines: metrics on stdout, remarks on stderr."""

    def note(self, text: str) -> None:
        """Prints a remark of one line."""
        sys.stderr.write(f"smrl: {text}\n")
        sys.stderr.flush()

    def answer(self, text: str) -> None:
        """Shows at once what a stop request does; called by a signal handler, which must not write to a stream."""
        write_line(text)

    def row(self, row: dict[str, float]) -> None:
        """Prints the metrics of an iteration."""
        self.line(metric_line(row))

    def log(self, text: str) -> None:
        """Prints a line for programs that parse the log; a live display omits it."""
        self.line(text)

    def line(self, text: str) -> None:
        """Prints a line of results."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def finish(self, summary: Summary) -> None:
        """Shows the last screen."""
        width = max((len(name) for name in summary.facts), default=0)
        self.line("")
        self.line(summary.headline)
        for name, value in summary.facts.items():
            self.line(f"  {name:<{width}}  {value}")
        if summary.next_command:
            self.line(f"next: {summary.next_command}")

    def close(self) -> None:
        """Ends the display, after an error too."""


class LiveReporter(Reporter):
    """A rich display: progress towards each stop criterion, and the latest metrics.

    Args:
        title: Above the display.
        stop: Stop criteria.
    """

    def __init__(self, title: str, stop: Mapping[str, float]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._title = title
        self._stop = stop
        self._returns: list[float] = []
        self._row: dict[str, float] = {}
        self._answer: str | None = None
        self._live = Live(
            get_renderable=self._panel, console=self._console, refresh_per_second=_REFRESHES_PER_S, transient=True
        )
        self._live.start()

    def note(self, text: str) -> None:
        """Prints a remark above the live display."""
        self._console.print(f"smrl: {text}", style="dim", highlight=False, markup=False)

    def answer(self, text: str) -> None:
        """Shows the answer below the live display from its next refresh on, which would overwrite a printed line."""
        self._answer = text
        if not self._live.is_started:
            super().answer(text)

    def log(self, text: str) -> None:
        """Does nothing, as people read the live display."""

    def row(self, row: dict[str, float]) -> None:
        """Redraws the display."""
        for name in _RETURNS:
            if name in row:
                self._returns.append(row[name])
        self._row = row
        self._live.refresh()

    def _panel(self) -> Any:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = self._row
        table = Table.grid(padding=(0, 2))
        seconds = row.get("time_total_s", 0.0)
        unit = "updates" if "updates" in row else "steps"
        speed = row.get("updates", row.get("timesteps_total", 0)) / seconds if seconds else 0.0
        table.add_row("iteration", f"{row.get('training_iteration', 0):,}", f"{speed:,.0f} {unit}/s")
        for name in (*_RETURNS, "episode_len_mean", "entropy", "kl", "loss"):
            if name in row:
                table.add_row(name, f"{row[name]:,.2f}", _sparkline(self._returns) if name in _RETURNS else "")
        for name, limit in self._stop.items():
            now = row.get(name)
            start = min(self._returns, default=0.0) if name in _RETURNS else 0.0
            done = 0.0 if now is None else (now - start) / max(limit - start, 1e-9)
            bar = ProgressBar(total=1.0, completed=min(max(done, 0.0), 1.0), width=30)
            table.add_row(f"stop at {name}", "" if now is None else f"{now:,.1f} / {limit:,.0f}", bar)
        content = table if row else "starting Ray and the environments …"
        return Panel(content, title=self._title, title_align="left", subtitle=self._answer, subtitle_align="left")

    def finish(self, summary: Summary) -> None:
        """Replaces the display by the last screen."""
        self.close()
        super().finish(summary)

    def close(self) -> None:
        """Ends the display."""
        self._live.stop()


def _sparkline(values: list[float], width: int = 30) -> str:
    recent = values[-width:]
    low, high = min(recent), max(recent)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / ((high - low) or 1.0))] for value in recent)


def make_reporter(title: str, stop: Mapping[str, float], *, in_container: bool) -> Reporter:
    """Makes a live display in a terminal; plain lines in a pipe, and in a container even with a terminal."""
    return LiveReporter(title, stop) if sys.stdout.isatty() and not in_container else Reporter()


def quiet_ray() -> None:
    """Silences Ray's remarks below errors; call it after Ray's import, which sets the levels."""
    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
