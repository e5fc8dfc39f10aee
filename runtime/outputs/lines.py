"""Other amounts of console output than the usual one: less, more, or for programs."""

from __future__ import annotations

import json
import sys

from runtime.container.program import write_stdout
from runtime.outputs.console import Reporter, Summary


class QuietReporter(Reporter):
    """Prints the last screen alone."""

    def note(self, text: str) -> None:
        """Prints nothing."""

    def row(self, row: dict[str, float]) -> None:
        """Prints nothing."""

    def log(self, text: str) -> None:
        """Prints nothing."""

    def line(self, text: str) -> None:
        """Prints nothing."""

    def finish(self, summary: Summary) -> None:
        """Prints the last screen, without the empty line that sets it off."""
        write_stdout("\n".join(summary.lines()) + "\n")


class VerboseReporter(Reporter):
    """Prints details too: the settings with their sources, and the phases."""

    def detail(self, text: str) -> None:
        """Prints a remark."""
        self.note(text)

    def show_phase(self, name: str) -> None:
        """Prints a remark when the phase is another one."""
        if name != self._phase:
            self._phase = name
            self.note(f"{name} …")

    _phase = ""


class JsonReporter(Reporter):
    """Prints the last screen as a JSON object on stdout, and everything else on stderr.

    Args:
        is_quiet: Whether everything else is left out.
    """

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet

    def note(self, text: str) -> None:
        """Prints a remark of one line."""
        if not self._is_quiet:
            super().note(text)

    def line(self, text: str) -> None:
        """Prints a line of results."""
        if not self._is_quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def finish(self, summary: Summary) -> None:
        """Prints the object."""
        described = {"headline": summary.headline, **(summary.values or summary.facts)}
        write_stdout(json.dumps(described) + "\n")
