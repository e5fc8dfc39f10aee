"""Expected failures of a job, and a collector that reports all problems of an input at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T", bound=BaseException)


class JobError(Exception):
    """An expected failure whose message is for the user; `exit_code` is the exit code of the process.

    Attributes:
        trace: Traceback of the user's code that failed, for the failure file; empty if the message says all.
    """

    exit_code = 1
    trace = ""


class UserError(JobError):
    """The person who started the job can fix it: a hyperparameter, a file, a script."""

    exit_code = 2


class PlatformError(JobError):
    """A failure of the container or machine: a missing config file, a full disk."""

    exit_code = 3


class RemoteError(Exception):
    """An exception of another process, as text.

    Args:
        reason: Type and message of the exception.
        trace: Traceback of the exception.
    """

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(reason, trace)
        self.reason = reason

    def __str__(self) -> str:
        """Formats the reason, with the traceback below it."""
        return "\n".join(self.args)


def find_cause(error: BaseException, kind: type[T]) -> T | None:
    """Returns the first exception of a type in an exception's chain of causes, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, kind):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def describe_root(error: BaseException) -> str:
    """Describes the root cause by type and message, as RLlib wraps an environment's exception without its message."""
    while (cause := _cause_of(error)) is not None:
        error = cause
    if isinstance(error, RemoteError):
        return error.reason
    message = str(error).strip()
    if not message and error.__traceback__ is not None:  # as with a bare assert: show its source line
        import traceback  # here, and difflib below: `smrl --help` takes no longer than Python's own start

        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{place.line} ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {message}"


def _cause_of(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns a sentence that suggests the closest known word; empty if none is close."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


class Problems:
    """Gathers every problem of an input, to be raised as one error.

    Args:
        what: Name of the input, for the first line of the error.
    """

    def __init__(self, what: str = "this job's settings") -> None:
        self._what = what
        self._lines: list[str] = []

    def add(self, where: str, got: Any, source: str, *, expected: str, remedy: str = "") -> None:
        """Adds a value that breaks a rule: where it is set, the value and its source, the rule, and the remedy."""
        remedy = f" {remedy.strip()}" if remedy else ""
        self._lines.append(f"{where}: got {got!r} from {source}; expected {expected}.{remedy}")

    def add_line(self, line: str) -> None:
        """Adds a problem that does not concern a single value."""
        self._lines.append(line)

    def raise_if_any(self) -> None:
        """Raises one error with a line for each problem.

        Raises:
            UserError: A problem was added.
        """
        if len(self._lines) == 1:
            raise UserError(self._lines[0])
        if self._lines:
            listed = "\n".join(f"  {line}" for line in self._lines)
            raise UserError(f"{len(self._lines)} problems with {self._what}:\n{listed}")
