"""The processes that run the training jobs of a tuning."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from runtime.tuning.worker import Worker

Starts = Callable[[], Worker]


@pytest.fixture
def start() -> Iterator[Starts]:
    """Starts workers, which are killed after the test."""
    made: list[Worker] = []

    def make() -> Worker:
        made.append(Worker(describe))
        return made[-1]

    yield make
    for worker in made:
        worker.close(at_once=True)


def describe(config: dict[str, Any], connection: Connection) -> None:
    """Sends the process and the session that the job runs in, and its config; or ends by a signal."""
    if "signal" in config:
        os.kill(os.getpid(), config["signal"])
    connection.send((os.getpid(), os.getsid(0), config))
    if config.get("waits"):
        connection.recv()


def test_all_jobs_of_a_worker_run_in_one_process_with_a_session_of_its_own(start: Starts) -> None:
    worker = start()
    seen = []
    for number in (1, 2):
        worker.send({"number": number})
        seen.append(worker.receive())
    assert seen == [(worker.pid, worker.pid, {"number": 1}), (worker.pid, worker.pid, {"number": 2})]
    assert worker.pid != os.getpid()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_dies_is_noticed_and_harms_no_other(start: Starts, number: int) -> None:
    dying, other = start(), start()
    other.send({"waits": True})
    dying.send({"signal": number})
    with pytest.raises(EOFError, match=r"^$"):
        dying.receive()
    dying.send({"number": 2})  # says nothing; the next one does
    assert other.receive()[0] == other.pid
    other.send("the answer")
    other.send({"number": 3})
    assert other.receive()[2] == {"number": 3}


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_closed_worker_is_gone_whether_it_runs_a_job_or_not(is_busy: bool) -> None:
    worker, later = Worker(describe), Worker(describe)  # the later one holds the first one's connection open as well
    worker.send({"waits": is_busy})
    pid = worker.receive()[0]
    worker.close(at_once=is_busy)
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(pid, 0)
    later.close()
