"""The two kinds of expected failure, and the list that gathers problems before anything heavy starts."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T", bound=BaseException)


class JobError(Exception):
    """An expected failure with a message for a person; `exit_code` is the process's."""

    exit_code = 1


class UserError(JobError):
    """The person who started the job can fix it: a hyperparameter, a file, a script."""

    exit_code = 2


class PlatformError(JobError):
    """The container or machine is at fault: a missing config file, a full disk."""

    exit_code = 3


class RemoteError(Exception):
    """An exception of another process, in that process's words.

    Args:
        reason: Its type and message.
        trace: Its traceback.
    """

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(reason, trace)
        self.reason = reason

    def __str__(self) -> str:
        """The reason, and the traceback below it."""
        return "\n".join(self.args)


def find_cause(error: BaseException, kind: type[T]) -> T | None:
    """The first exception of a kind among an exception and what caused it, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, kind):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def describe_root(error: BaseException) -> str:
    """Type and message of the exception that started a chain; RLlib wraps an environment's in one without a word."""
    while (cause := _cause_of(error)) is not None:
        error = cause
    if isinstance(error, RemoteError):
        return error.reason
    message = str(error).strip()
    if not message and error.__traceback__ is not None:  # as of a bare assert: its line says more than nothing
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{place.line} ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {message}"


def _cause_of(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence naming the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


class Problems:
    """Gathers every problem of an input, to be raised as one error.

    Args:
        what: The input, for the headline.
    """

    def __init__(self, what: str = "this job's settings") -> None:
        self._what = what
        self._lines: list[str] = []

    def add(self, where: str, got: Any, source: str, *, expected: str, remedy: str = "") -> None:
        """Notes a value that breaks a rule: where, what came from where, the rule, what to do."""
        remedy = f" {remedy.strip()}" if remedy else ""
        self._lines.append(f"{where}: got {got!r} from {source}; expected {expected}.{remedy}")

    def add_line(self, line: str) -> None:
        """Notes a problem that is no single value's."""
        self._lines.append(line)

    def raise_if_any(self) -> None:
        """Raises one error with a line for each problem.

        Raises:
            UserError: Anything was noted.
        """
        if len(self._lines) == 1:
            raise UserError(self._lines[0])
        if self._lines:
            listed = "\n".join(f"  {line}" for line in self._lines)
            raise UserError(f"{len(self._lines)} problems with {self._what}:\n{listed}")
