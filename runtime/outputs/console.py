"""Console output of a job as plain lines; `panel` is the live display of a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.container.program import write_stdout
from runtime.container.signals import write_line
from runtime.outputs.metrics import metric_line


@dataclass(frozen=True)
class Summary:
    """The last screen of a job.

    Attributes:
        headline: Result of the job, in one line.
        facts: Name and value of each further line: returns, steps, seconds, places.
        next_command: Command to suggest next.
        values: The same for programs: names and numbers, for --json and summary.json.
    """

    headline: str
    facts: Mapping[str, str] = field(default_factory=dict)
    next_command: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The lines of the screen."""
        width = max((len(name) for name in self.facts), default=0)
        facts = [f"  {name:<{width}}  {value}" for name, value in self.facts.items()]
        return [self.headline, *facts, *([f"next: {self.next_command}"] if self.next_command else [])]


class Reporter:
    """Plain lines: metrics on stdout, remarks on stderr."""

    def note(self, text: str) -> None:
        """Prints a remark of one line."""
        sys.stderr.write(f"smrl: {text}\n")
        sys.stderr.flush()

    def answer(self, text: str) -> None:
        """Shows at once what a stop request does; called by a signal handler, which must not write to a stream."""
        write_line(text)

    def detail(self, text: str) -> None:
        """Prints what only those want to know who ask for it: nothing here."""

    def show_phase(self, name: str) -> None:
        """Shows what the job does now, as "training", in a live display; prints nothing."""

    def show_earlier(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Shows the rows of the job before it was resumed in a live display; prints nothing."""

    def row(self, row: dict[str, float]) -> None:
        """Prints the metrics of an iteration."""
        self.line(metric_line(row))

    def log(self, text: str) -> None:
        """Prints a line for programs that parse the log; a live display omits it."""
        self.line(text)

    def line(self, text: str) -> None:
        """Prints a line of results."""
        write_stdout(text + "\n")

    def finish(self, summary: Summary) -> None:
        """Shows the last screen."""
        self.line("")
        for line in summary.lines():
            self.line(line)

    def close(self) -> None:
        """Ends the display, after an error too."""


def quiet_ray() -> None:
    """Silences Ray's remarks below errors; call it after Ray's import, which sets the levels."""
    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
