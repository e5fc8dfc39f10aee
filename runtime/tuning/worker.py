"""A process that runs training jobs one after the other, forked from the tuning's process with all of its imports."""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from runtime.container.forked import leave_job
from runtime.container.scratch import remove_own_folders

# Runs one training job: gets its config, and the connection to the tuning.
RunJob = Callable[[dict[str, Any], Connection], None]
_END_WITHIN_S = 10.0


class Worker:
    """A fork of this process, which runs training jobs until it is closed.

    It has a session of its own, so signals for the tuning do not reach it, and the kernel kills it when the tuning's
    process ends. What its first job has loaded and compiled, the jobs after it need not.

    Args:
        run_job: Runs a training job. Its libraries must run on the threads that they start in the worker, as the
            threads of this process do not exist in a fork.
    """

    def __init__(self, run_job: RunJob) -> None:
        context = get_context("fork")
        self.connection, others = context.Pipe()
        self._process = context.Process(target=_run_jobs, args=(run_job, others, self.connection, os.getpid()))
        self._process.start()
        others.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, message: Any) -> None:
        """Sends the config of the next job, or the answer to a message of the one that runs."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died, which `receive` shows
            self.connection.send(message)

    def receive(self) -> Any:
        """Receives the next message of the job that runs.

        Raises:
            EOFError: The process has died.
        """
        try:
            return self.connection.recv()
        except ConnectionResetError:
            raise EOFError from None

    def close(self, *, at_once: bool = False) -> None:
        """Ends the process.

        Args:
            at_once: Whether to kill it; otherwise it ends by itself, as it runs no job, and removes its files.
        """
        self.send(None)  # as workers that were forked later hold this end of the connection open too
        self.connection.close()
        if not at_once:
            self._process.join(_END_WITHIN_S)
        self._process.kill()
        self._process.join()
        self._process.close()


def _run_jobs(run_job: RunJob, connection: Connection, others: Connection, parent: int) -> None:
    """Runs jobs until the tuning has no more, and ends the process."""
    leave_job()
    others.close()
    if os.getppid() != parent:  # it ended before the kernel knew that this process ends with it
        os._exit(1)
    import torch

    torch.set_num_threads(1)  # a fork has none of the threads that PyTorch has started
    try:
        while (config := connection.recv()) is not None:
            run_job(config, connection)
    except BaseException:
        traceback.print_exc()  # into the log of the job
        os._exit(1)
    threading._shutdown()  # type: ignore[attr-defined]  # what Python itself calls to wait for threads
    remove_own_folders()
    os._exit(0)  # nothing that the tuning has registered for its own end runs here
