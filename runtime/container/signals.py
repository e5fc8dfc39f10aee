"""Requests to stop: SIGTERM, SIGHUP and Ctrl-C, from a job's first line to the end of its process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

# SageMaker kills a container 120 s after SIGTERM, spot machines included; a job is to be done within 30.
_GRACE_S = 12.0
# `timeout -s INT` signals its child and then the whole group: SIGINTs that follow each other this fast are one Ctrl-C.
_ONE_CTRL_C_S = 0.5
_STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
INTERRUPTED = 130  # as shells say of a program that a Ctrl-C has ended
_AT_ONCE_S = 1.0  # that a second Ctrl-C leaves to what an exception ends in good order
_SHOW_CURSOR = b"\x1b[?25h"  # which a live display hides


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread when a stop request interrupts the current work.

    A KeyboardInterrupt, so that no library's `except Exception` swallows it, and because Ray's calls into C++ let no
    other exception of a signal handler out.
    """


@dataclass(frozen=True)
class Phase:
    """Phase of a job, which decides how it responds to a stop request.

    Attributes:
        answer: Text about what a stop request does now, shown at the first signal.
        has_grace: Whether a part that may be interrupted may still run for the grace.
        is_interruptible: Whether a stop interrupts everywhere, not only in the parts that say so.
    """

    answer: str
    has_grace: bool = True
    is_interruptible: bool = False


# A start that may yet find a checkpoint to resume; one that has found its own; and one that has none.
LOOKING = Phase("still starting; ending now, with the model of the last checkpoint if there is one", has_grace=False)
RESUMING = Phase("still starting; ending now, with the model of the last checkpoint", has_grace=False)
STARTING = Phase("nothing has been trained yet; ending now", has_grace=False, is_interruptible=True)
WORKING = Phase(f"ending what is under way within {_GRACE_S:g} s, then writing the results")
TRAINING = Phase(f"ending the iteration within {_GRACE_S:g} s, then writing checkpoint, model and video")
SAVING = Phase("the results are being written; the job ends with them")
SUPPORTING = Phase("this host runs until the head node has saved")


def write_line(text: str) -> None:
    """Writes a line to stderr at once, as a signal handler may."""
    with contextlib.suppress(OSError):  # of a terminal that is gone
        os.write(2, f"smrl: {text}\n".encode())  # buffered streams are not to be written to by a signal handler


def end_now(code: int = INTERRUPTED) -> NoReturn:
    """Ends the process where it stands: files appear whole or not at all, and Ray's processes end with it."""
    if os.isatty(1):
        with contextlib.suppress(OSError):
            os.write(1, _SHOW_CURSOR)
    os._exit(code)


class StopRequest:
    """Remembers SIGTERM, SIGHUP and SIGINT, from construction on.

    A running iteration may finish within the grace; then `Interrupted` is raised where it stands. A second Ctrl-C
    ends the process within about a second.

    Attributes:
        signal_name: The first signal, or None.
        tell: Shows a line at once, from within a signal handler; on stderr, unless a display does it.

    Args:
        phase: Phase in which the job starts.
        grace_s: Seconds that a part may still run after a signal.
        one_ctrl_c_s: Seconds within which two SIGINTs count as one.
    """

    signal_name: str | None = None
    tell: Callable[[str], None] = staticmethod(write_line)

    def __init__(
        self, phase: Phase = WORKING, *, grace_s: float = _GRACE_S, one_ctrl_c_s: float = _ONE_CTRL_C_S
    ) -> None:
        self._phase = phase
        self._grace_s = grace_s
        self._one_ctrl_c_s = one_ctrl_c_s
        self._may_interrupt = False
        self._insists = False
        self._deferrals = 0
        self._signaled_at = 0.0
        self._before = {number: signal.getsignal(number) for number in (*_STOPS, signal.SIGALRM)}
        # `nohup smrl train` has SIGHUP ignored on purpose.
        self._taken = [one for one in _STOPS if one != signal.SIGHUP or self._before[one] != signal.SIG_IGN]
        self.arm()

    @property
    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self.signal_name is not None

    def begin(self, phase: Phase) -> None:
        """Begins another phase of the job.

        Raises:
            Interrupted: A stop was requested before, and ends this phase.
        """
        self._phase = phase
        if self.is_set and phase.is_interruptible:
            raise Interrupted

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.is_set:
            self.signal_name = signal.Signals(number).name
            self._signaled_at = time.monotonic()
            again = "; a second Ctrl-C ends at once" if number == signal.SIGINT else ""
            self.tell(f"{self.signal_name}: {self._phase.answer}{again}")
            if self._may_interrupt:
                self._start_timer()
            elif self._phase.is_interruptible and not self._deferrals:
                raise Interrupted
        elif number == signal.SIGINT and time.monotonic() - self._signaled_at >= self._one_ctrl_c_s:
            self._insist()

    def _insist(self) -> None:
        if self._insists or self._deferrals:  # the exception has not ended it yet, or would crash Ray's C++ code
            end_now()
        self._insists = True
        self._signaled_at = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, _AT_ONCE_S, _AT_ONCE_S)
        raise KeyboardInterrupt

    def _start_timer(self) -> None:
        # Again and again: an exception that is raised inside a destructor or a C callback is swallowed there.
        signal.setitimer(signal.ITIMER_REAL, self._grace_s if self._phase.has_grace else 0.001, 1.0)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self._insists:
            end_now()
        if self._may_interrupt and not self._deferrals:
            raise Interrupted

    def __enter__(self) -> StopRequest:
        """Begins a part that may be interrupted: an iteration, not the writing of its results."""
        if self.is_set and not self._phase.has_grace:
            raise Interrupted
        self._may_interrupt = True
        if self.is_set:
            self._start_timer()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Ends it.

        Raises:
            Interrupted: It was interrupted inside Ray, which raises exceptions of its own for that.
        """
        self._may_interrupt = False
        if not self._insists:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # a script's ray.init takes the signal
            self.signal_name = self.signal_name or signal.Signals.SIGTERM.name
            raise Interrupted from None
        if kind is KeyboardInterrupt and self.is_set and not self._insists:
            raise Interrupted from None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defers signals' exceptions, which would crash Ray's C++ code; a stop request takes effect after the block.

        Raises:
            Interrupted: A stop was requested meanwhile, and ends this phase.
        """
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
            self.arm()
        if self.is_set and self._phase.is_interruptible:
            raise Interrupted

    def arm(self) -> None:
        """Takes the signals; to be done again after a script's `ray.init`, which takes SIGTERM for itself."""
        for number in self._taken:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)

    def release(self) -> None:
        """Gives the signals back."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """Ignores requests to stop from now on: all is done, and the process is about to end.

        Python gives the signals that it handles back to the kernel a while before its process ends, which would then
        end by them; those that are ignored stay so. Ctrl-C still ends a process that does not end by itself.
        """
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in self._taken:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)
