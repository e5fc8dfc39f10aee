"""Runs a function in a fork of this process, which has imported already what the function needs.

A new process would take seconds to import torch and RLlib; a fork takes a few milliseconds, and a crash in a library's
C++ code ends the fork alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from runtime.errors import JobError, describe_root

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_MESSAGE_CHARS = 2000


class Fork(Generic[T]):
    """A function that runs in a fork of this process.

    The fork is killed when the thread that started it ends. Signals that are meant for the job do not reach it, and
    what it prints is shown only if it crashes.

    Args:
        what: What the function does, for messages, as "export".
        function: Function without arguments, whose result can be pickled. Its libraries must run on one thread, as
            the threads of this process do not exist in a fork.
    """

    def __init__(self, what: str, function: Callable[[], T]) -> None:
        self._what = what
        self._said = tempfile.TemporaryFile()  # noqa: SIM115, which kill() closes
        context = get_context("fork")
        self._results, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(function, sender, self._said.fileno()))
        self._process.start()
        sender.close()

    def result(self, *, timeout_s: float) -> T:
        """Waits for the function's result; to be called once.

        Args:
            timeout_s: Longest wait, after which the fork is killed.

        Raises:
            JobError: The function raised it, crashed, or did not end in time.
        """
        try:
            deadline = time.monotonic() + timeout_s
            if not self._results.poll(timeout_s):
                raise JobError(f"{self._what}: not done within {timeout_s:g} s.")
            try:
                result, error = self._results.recv()
            except EOFError:
                self._process.join(max(0.0, deadline - time.monotonic()))
                raise JobError(f"{self._what}: {self._describe_end()}") from None
        finally:
            self.kill()
        if error is not None:
            raise error
        found: T = result
        return found

    def kill(self) -> None:
        """Kills the fork if it runs."""
        self._process.kill()
        self._process.join()
        self._results.close()
        self._said.close()

    def _describe_end(self) -> str:
        self._said.seek(0)
        text = self._said.read().decode(errors="replace").strip()[-_MESSAGE_CHARS:]
        return f"its process ended with {self._process.exitcode}" + (f":\n{text}" if text else "")


def leave_job() -> None:
    """Makes a fork independent of the job that started it: it gets none of the job's signals, and ends with it.

    To be called in the fork. The job is the thread that forked; a Ctrl-C that is meant for it does not reach the fork.
    """
    os.setsid()
    # The kernel ends it with the job's process, whose locks it has inherited.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # the job's handlers are the job's


def _run(function: Callable[[], Any], results: Connection, said: int) -> None:
    """Runs the function and ends the process."""
    leave_job()
    os.dup2(said, 1)
    os.dup2(said, 2)
    try:
        try:
            results.send((function(), None))
        except JobError as error:
            results.send((None, type(error)(str(error))))
        except Exception as error:
            results.send((None, JobError(describe_root(error))))
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)  # nothing that the job has registered for its own end runs here
