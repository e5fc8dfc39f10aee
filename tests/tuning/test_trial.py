"""The thread that runs the training jobs of a tuning's process."""

from __future__ import annotations

import threading

import pytest

from runtime.tuning.trial import _Thread


def test_all_jobs_of_a_process_run_in_one_thread_also_after_one_has_failed() -> None:
    """malloc keeps freed memory for the thread that had it: a new thread a job took 400 MB more each time."""
    seen: list[int] = []
    thread = _Thread()
    thread.submit(lambda: seen.append(threading.get_ident())).result(timeout=60)
    with pytest.raises(ZeroDivisionError, match="zero"):
        thread.submit(lambda: seen.append(1 // 0)).result(timeout=60)
    thread.submit(lambda: seen.append(threading.get_ident())).result(timeout=60)
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()
    assert len(seen) == 2
