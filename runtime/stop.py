"""When a job ends: its stop criteria, and the platform's request to stop."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType

# SageMaker kills a container 120 s after SIGTERM, spot machines included; a job is to be done within 30.
_GRACE_S = 12.0


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread when an iteration outlasts the grace after a stop request.

    A KeyboardInterrupt, so that no library's `except Exception` swallows it, and because Ray's calls into C++ let no
    other exception of a signal handler out.
    """


class StopRequest:
    """Remembers SIGTERM and SIGINT, from construction on.

    A running iteration may finish within the grace; then `Interrupted` is raised where it stands. A second SIGINT
    interrupts at once.

    Args:
        grace_s: Seconds that a part may still run after a signal.
    """

    def __init__(self, *, grace_s: float = _GRACE_S) -> None:
        self._grace_s = grace_s
        self.signal_name: str | None = None
        self._may_interrupt, self._insists = False, False
        handlers = {signal.SIGTERM: self._on_signal, signal.SIGINT: self._on_signal, signal.SIGALRM: self._on_alarm}
        self._handlers = handlers
        self._before = {number: signal.getsignal(number) for number in handlers}
        self.arm()

    @property
    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self.signal_name is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_set and number == signal.SIGINT:
            self._insists = True
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
        if self._may_interrupt:
            self._start_timer()

    def _start_timer(self) -> None:
        # Again and again: an exception that is raised inside a destructor or a C callback is swallowed there.
        signal.setitimer(signal.ITIMER_REAL, self._grace_s, 1.0)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self._may_interrupt:
            raise Interrupted

    def __enter__(self) -> StopRequest:
        """Begins a part that may be interrupted: an iteration, not the writing of its results."""
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
        signal.setitimer(signal.ITIMER_REAL, 0)
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # ray.init takes the signal for itself
            self.signal_name = self.signal_name or signal.Signals.SIGTERM.name
            raise Interrupted from None
        if kind is KeyboardInterrupt and self.is_set and not self._insists:
            raise Interrupted from None

    def arm(self) -> None:
        """Takes the signals; to be done again after `ray.init`, whose C++ side takes SIGTERM for itself."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def release(self) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def reached(stop: Mapping[str, float], row: Mapping[str, float], *, episodes_of_mean: int) -> str | None:
    """The first criterion that a row of metrics meets, in words, or None.

    Args:
        stop: Criteria.
        row: Metrics of an iteration.
        episodes_of_mean: A mean return counts once it is of that many episodes; few may just be lucky.
    """
    for name, limit in stop.items():
        if name == "episode_reward_mean" and row.get("episodes_total", 0) < episodes_of_mean:
            continue
        if name in row and row[name] >= limit:
            return f"{name} {row[name]:g} reached {limit:g}"
    return None
