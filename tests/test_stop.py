from __future__ import annotations

import contextlib
import signal
import sys
import time

import pytest

from runtime.stop import Interrupted, StopRequest


@pytest.fixture
def request_() -> StopRequest:
    return StopRequest(grace_s=0.05)


@pytest.fixture(autouse=True)
def _release(request_: StopRequest):  # type: ignore[no-untyped-def]
    yield
    request_.release()


def test_a_signal_is_remembered_and_interrupts_nothing_at_once(request_: StopRequest) -> None:
    with request_:
        signal.raise_signal(signal.SIGTERM)
    assert request_.is_set
    assert request_.signal_name == "SIGTERM"


def test_a_part_that_outlasts_the_grace_is_interrupted_even_if_it_swallows_once(request_: StopRequest) -> None:
    def work() -> None:
        deadline = time.monotonic() + 10
        with request_:
            signal.raise_signal(signal.SIGTERM)
            with contextlib.suppress(Interrupted):  # as a C callback or a destructor would
                while time.monotonic() < deadline:
                    pass
            while time.monotonic() < deadline:
                pass

    with pytest.raises(Interrupted, match=r"^$"):
        work()


def test_nothing_is_interrupted_outside_of_such_a_part(request_: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    with request_:
        signal.raise_signal(signal.SIGTERM)
    until = time.monotonic() + 0.15
    while time.monotonic() < until:
        pass


def test_a_second_ctrl_c_is_a_keyboard_interrupt(request_: StopRequest) -> None:
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        signal.raise_signal(signal.SIGINT)


def test_rays_own_answer_to_a_stop_is_an_interruption(request_: StopRequest) -> None:
    with pytest.raises(Interrupted), request_:
        sys.exit(signal.SIGTERM)  # as ray.init does
    assert request_.signal_name == "SIGTERM"


def test_a_part_that_waits_for_ray_is_interrupted(request_: StopRequest) -> None:
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        request_.arm()
        late = ray.remote(lambda: time.sleep(60)).remote()
        began = time.monotonic()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), request_:
            ray.get(late)
        assert time.monotonic() - began < 30
    finally:
        ray.shutdown()


def test_the_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inner = StopRequest()
    assert signal.getsignal(signal.SIGTERM) is not before
    inner.release()
    assert signal.getsignal(signal.SIGTERM) == before
