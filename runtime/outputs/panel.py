"""The live panel of a training in a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from runtime.outputs.console import Reporter, Summary
from runtime.outputs.forecast import Progress

if TYPE_CHECKING:
    from rich.console import ConsoleOptions

_REFRESHES_PER_S = 4
_WIDEST = 100  # columns
# Of an iteration in an environment, and of one on logged data.
_RETURNS = ("episode_reward_mean", "estimated_return")
_SHOWN = ("evaluation_reward_mean", "episode_len_mean", "entropy", "kl", "loss")


class LiveReporter(Reporter):
    """Shows what a job does, how fast, until when, and the latest metrics.

    Args:
        title: Above the panel.
        stop: Stop criteria by name.
        console: Terminal to draw on; this process's own if None.
    """

    def __init__(self, title: str, stop: Mapping[str, float], *, console: Console | None = None) -> None:
        self._console = console or Console()
        self._title = title
        self._stop = stop
        self._started = self._phase_started = self._row_at = self._refreshed = time.monotonic()
        self._phase = "starting"
        self._progress = Progress(stop, scores=_RETURNS)
        self._row: Mapping[str, float] = {}
        self._answer: str | None = None
        self._live = Live(
            get_renderable=self._panel, console=self._console, refresh_per_second=_REFRESHES_PER_S, transient=True
        )
        self._live.start()

    def note(self, text: str) -> None:
        """Prints a remark above the panel."""
        self._console.print(f"smrl: {text}", style="dim", highlight=False, markup=False)

    def answer(self, text: str) -> None:
        """Shows the answer in the panel from its next refresh on, which would overwrite a printed line."""
        self._answer = text
        if not self._live.is_started:
            super().answer(text)

    def log(self, text: str) -> None:
        """Does nothing, as people read the panel."""

    def show_phase(self, name: str) -> None:
        """Shows what the job does now."""
        if name != self._phase:
            self._phase = name
            self._phase_started = time.monotonic()
            self._refresh_if_due()

    def show_earlier(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Shows the returns of a resumed job, too."""
        self._progress.add_earlier(rows)

    def row(self, row: dict[str, float]) -> None:
        """Shows the metrics of an iteration."""
        self._progress.add(row)
        self._row = row
        self._row_at = time.monotonic()
        self._refresh_if_due()

    def _refresh_if_due(self) -> None:
        """Refreshes the panel, whose own thread waits while compiled code runs; iterations may be shorter than that."""
        now = time.monotonic()
        if now - self._refreshed >= 1 / _REFRESHES_PER_S:
            self._refreshed = now
            self._live.refresh()

    def _panel(self) -> Panel:
        parts: list[Any] = [self._headline()]
        if self._row:
            parts.append(self._metrics(self._row))
        if self._answer:
            parts.append(Text(self._answer, style="yellow"))
        return Panel(
            Group(*parts), title=self._title, title_align="left", width=min(self._console.width, _WIDEST), expand=True
        )

    def _headline(self) -> Text:
        """Phase and its time, elapsed time, and the time until the first stop criterion is met."""
        now = time.monotonic()
        line = Text(self._phase, style="bold", no_wrap=True, overflow="ellipsis")
        line.append(f" {_clock(now - self._phase_started)}   elapsed {_clock(now - self._started)}", style="not bold")
        ahead = None if self._answer else self._progress.forecast()
        if ahead is not None:
            left = _clock(max(ahead.seconds - (now - self._row_at), 0.0))
            about = "about " if ahead.is_trend else ""
            by = f"{ahead.criterion}, if its trend holds" if ahead.is_trend else ahead.criterion
            line.append(f"   ETA {about}{left} ({by})", style="not bold")
        return line

    def _metrics(self, row: Mapping[str, float]) -> Table:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, ratio=1)
        name, unit = ("updates", "updates") if "updates" in row else ("timesteps_total", "steps")
        pace = self._progress.per_second(name)
        table.add_row("iteration", f"{row.get('training_iteration', 0):,}", "")
        table.add_row(unit, f"{row.get(name, 0):,}", "" if pace is None else f"{pace:,.0f} {unit}/s")
        for name in _RETURNS:
            if name in row:
                table.add_row(name, f"{row[name]:,.2f}", _Sparkline(self._progress.returns))
                table.add_row("  best", f"{self._progress.best:,.2f}", "")
        for name in _SHOWN:
            if name in row:
                table.add_row(name, f"{row[name]:,.4g}", "")
        for name, limit in self._stop.items():
            now = row.get(name)
            table.add_row(f"stop: {name}", _towards(now, limit), ProgressBar(total=1.0, completed=self._done(name)))
        return table

    def _done(self, name: str) -> float:
        """Share of the way to a stop criterion; a return's way begins at the lowest one."""
        now = self._row.get(name)
        start = min(self._progress.returns, default=0.0) if name in _RETURNS else 0.0
        done = 0.0 if now is None else (now - start) / max(self._stop[name] - start, 1e-9)
        return min(max(done, 0.0), 1.0)

    def finish(self, summary: Summary) -> None:
        """Replaces the panel by the last screen."""
        self.close()
        super().finish(summary)

    def close(self) -> None:
        """Ends the panel."""
        self._live.stop()


class _Sparkline:
    """A curve of one line over the width that there is; its right end is the newest value."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Draws it."""
        yield Segment(sparkline(self._values, options.max_width))


def sparkline(values: Sequence[float], width: int) -> str:
    """Draws values as bars of one character.

    Args:
        values: Oldest first.
        width: Most characters; of more values, each character is the mean of some that follow each other.

    Returns:
        The bars from the lowest of them to the highest; the last one is of the newest values.
    """
    if not values or width < 1:
        return ""
    size = -(-len(values) // width)
    first = len(values) % size  # the oldest bar is of fewer, so that the newest is of as many as the others
    starts = [0, *range(first, len(values), size)] if first else list(range(0, len(values), size))
    means = [
        sum(values[start:end]) / (end - start) for start, end in zip(starts, [*starts[1:], len(values)], strict=True)
    ]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / ((high - low) or 1.0))] for mean in means)


def _towards(now: float | None, limit: float) -> str:
    """Formats a value and its limit alike."""
    places = ",.0f" if limit == round(limit) else ",.2f"
    return f"{'–' if now is None else format(now, places)} / {format(limit, places)}"


def _clock(seconds: float) -> str:
    """Formats a duration as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
