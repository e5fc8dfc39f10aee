"""Hosts that find each other: who is let in, what is said of those that stay away, what a learner's death costs."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

import psutil
import pytest

from runtime.cluster.connection import HEARTBEAT_S, PORT, Connection, find_own_address
from runtime.cluster.head_node import Head
from runtime.cluster.machines import Machines
from runtime.cluster.worker_node import run_worker_node
from runtime.container.layout import Container, read_container
from runtime.container.signals import Interrupted, StopRequest
from runtime.errors import PlatformError, UserError
from runtime.settings.schema import JobConfig
from tests.conftest import BIN, ROOT, TINY, OptMl, clean_environment

HOST = Container(
    hosts=("localhost", "second", "third"),
    current_host="localhost",
    network_interface="lo",
    token="ab" * 32,
    num_cpus=4,
)


NODES = {"127.0.0.1", "second", "third"}.copy


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    """A stop request, its signals given back in the end."""
    request = StopRequest()
    yield request
    request.release()


@pytest.fixture
def in_background() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture
def notes() -> list[str]:
    """What is said."""
    return []


def call(host: str, *, token: str = HOST.token, cpus: int = 2) -> Connection:
    """What a host does to come."""
    connection = Connection(socket.create_connection(("127.0.0.1", PORT), timeout=5))
    connection.authenticate_as_worker(token.encode())
    connection.send(host=host, cpus=cpus, gpus=1, group="runners")
    return connection


def wait_for_end(connection: Connection) -> str:
    """What a host is told of the end; it stays."""
    while True:
        message = connection.receive(5)
        if "end" in message:
            connection.send(acknowledged=True)
            return str(message["end"])


def wait_until(condition: Any, timeout_s: float = 10) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_hosts_are_let_in_counted_lost_and_told_of_the_end(
    notes: list[str], stop: StopRequest, in_background: ThreadPoolExecutor
) -> None:
    with Head(HOST, "127.0.0.1", "10.0.0.1:7", notes.append, NODES) as head:
        second, third = call("second"), call("third", cpus=8)
        assert second.receive(5) == {"ray": "10.0.0.1:7"}
        head.wait_for_workers(5, stop)
        assert head.machines == Machines(14, 2, 3, cpus_elsewhere=(2, 8), gpus_elsewhere=2, reserved_cpus=1)
        assert notes[-1] == "3 hosts, 14 CPUs, 2 GPUs"
        assert any("third of group runners connected: 8 CPUs, 1 GPUs" in note for note in notes)
        third.close()
        wait_until(lambda: head.machines.hosts == 2)
        assert head.take_events() == [("host_lost", "third: its connection was closed")]
        again = call("third")
        wait_until(lambda: head.machines.hosts == 3)
        assert head.take_events() == [("host_rejoined", "third: it reconnected")]
        again.send(rejoined="Ray had ended there with exit code -9")
        deadline = time.monotonic() + 10
        while not (events := head.take_events()):
            assert time.monotonic() < deadline
        assert events == [("host_rejoined", "third: Ray had ended there with exit code -9")]
        ends = [in_background.submit(wait_for_end, connection) for connection in (second, again)]
    assert [one.result(10) for one in ends] == ["done", "done"]
    for connection in (second, again):  # as long as the head's process lives, which still writes its results
        until = time.monotonic() + 2 * HEARTBEAT_S
        while time.monotonic() < until:
            assert connection.receive(0.1) == {}
        connection.close()


def test_a_failed_job_tells_its_hosts_why(notes: list[str], in_background: ThreadPoolExecutor) -> None:
    head = Head(HOST, "127.0.0.1", "10.0.0.1:7", notes.append, NODES)
    with head:
        heard = in_background.submit(wait_for_end, call("second"))
        wait_until(lambda: notes)
        fault = PlatformError("the disk is full\nand more")
        head.__exit__(PlatformError, fault, None)
    assert heard.result(10) == "failed: the disk is full"


def test_a_host_stays_until_the_heads_process_is_gone(
    notes: list[str], stop: StopRequest, in_background: ThreadPoolExecutor
) -> None:
    """The SDK's local mode stops every host as soon as one has ended."""
    listener = socket.create_server(("127.0.0.1", PORT))
    with listener:
        second = replace(HOST, current_host="second")
        staying = in_background.submit(
            run_worker_node, second, stop, timeout_s=20, object_store_bytes=1, note=notes.append
        )
        connection = Connection(listener.accept()[0])
        connection.authenticate_as_head(HOST.token.encode())
        assert connection.receive(5)["host"] == "second"
        connection.send(end="done")
        while "acknowledged" not in connection.receive(5):
            pass
        connection.send()  # a heartbeat
        assert connection.receive(5) == {}
        assert not staying.done()
        assert notes[-1] == "training has ended; waiting until localhost has written its results"
        connection.close()
        staying.result(20)
        assert notes[-1] == "localhost has ended: done"


@pytest.mark.parametrize(
    ("host", "token", "message"),
    [("second", "cd" * 32, "it has another job's token"), ("eighth", HOST.token, "'eighth' is no host of this job")],
)
def test_strangers_are_turned_away(host: str, token: str, message: str, notes: list[str]) -> None:
    with Head(HOST, "127.0.0.1", "10.0.0.1:7", notes.append, NODES) as head:
        # By the head before the end of the greeting, or after it.
        with pytest.raises((EOFError, OSError, AuthenticationError)):
            call(host, token=token).receive(5)
        wait_until(lambda: any(message in note for note in notes))
        assert head.machines.hosts == 1


def test_hosts_that_do_not_come_are_all_named_and_so_are_those_that_fail(notes: list[str], stop: StopRequest) -> None:
    message = r"second \(which has connected\), third: not in Ray's cluster after 1 s; expected every host"
    with Head(HOST, "127.0.0.1", "10.0.0.1:7", notes.append, set) as head:
        second = call("second")
        wait_until(lambda: notes)
        with pytest.raises(PlatformError, match=message):
            head.wait_for_workers(1.0, stop)
        second.close()
    message = "hosts that could not join: third: Ray has ended 6 times"
    with Head(HOST, "127.0.0.1", "10.0.0.1:7", notes.append, NODES) as head:
        third = call("third")
        third.send(failed="Ray has ended 6 times")
        with pytest.raises(PlatformError, match=message):
            head.wait_for_workers(20, stop)
        third.close()


def test_a_stop_ends_the_waiting_on_both_sides(notes: list[str], stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted), Head(HOST, "127.0.0.1", "10.0.0.1:7", notes.append, NODES) as head:
        head.wait_for_workers(20, stop)
    second = replace(HOST, current_host="second")
    with pytest.raises(Interrupted):
        run_worker_node(second, stop, timeout_s=20, object_store_bytes=10**8, note=notes.append)


def test_a_port_that_is_taken_is_named(notes: list[str]) -> None:
    message = rf"localhost: port {PORT} of 127\.0\.0\.1 cannot be listened on"
    with Head(HOST, "127.0.0.1", "", notes.append, NODES), pytest.raises(PlatformError, match=message):
        Head(HOST, "127.0.0.1", "", notes.append, NODES)


def test_a_host_of_another_job_says_so(notes: list[str], stop: StopRequest) -> None:
    with Head(HOST, "127.0.0.1", "", notes.append, NODES):
        other = replace(HOST, current_host="second", token="cd" * 32)
        with pytest.raises(
            PlatformError, match="localhost: it runs another job, or this one with other hyperparameters"
        ):
            run_worker_node(other, stop, timeout_s=20, object_store_bytes=10**8, note=notes.append)


def test_an_address_is_of_the_named_interface_or_of_the_name() -> None:
    assert find_own_address(HOST) == "127.0.0.1"
    with pytest.raises(
        PlatformError, match=r"nowhere: got no address: network interface eth77 of resourceconfig\.json"
    ):
        find_own_address(Container(hosts=("nowhere",), current_host="nowhere", network_interface="eth77"))


def test_a_token_is_a_jobs_own_and_the_same_on_its_hosts(opt_ml: OptMl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(opt_ml.base))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)

    def token(host: str, job: str, **values: str) -> str:
        opt_ml.write(values)
        resources = {"current_host": host, "hosts": ["algo-2", "algo-1"]}
        (opt_ml.base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources))
        monkeypatch.setenv("TRAINING_JOB_ARN", job)
        return read_container().token

    first = token("algo-1", "arn:1", preset="reacher")
    assert first == token("algo-2", "arn:1", preset="reacher")
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    assert len({first, token("algo-1", "arn:2", preset="reacher"), token("algo-1", "arn:1", preset="hopper")}) == 3
    monkeypatch.setenv("RAY_AUTH_TOKEN", "one of their own")
    assert read_container().token == "one of their own"


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ({"preset": "cartpole-bcq"}, 1, "a job that runs BCQ uses one alone. Set instance_count to 1."),
        ({"preset": "reacher", "rl_cluster_type": "secondary"}, 0, "one job has GPU and CPU hosts today"),
        ({"preset": "reacher", "rl_cluster_type": "tertiary"}, 1, "expected one of primary, secondary"),
    ],
)
def test_what_several_hosts_are_not_for(values: dict[str, str], code: int, message: str, opt_ml: OptMl) -> None:
    opt_ml.write({"sagemaker_program": "train.py", **values})
    hosts = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "lo"}
    (opt_ml.base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(hosts))
    opt_ml.environment["SM_STUDIO_LOCAL_MODE"] = "true"  # the toolkit waits for names to resolve otherwise
    opt_ml.add_code(ROOT / "entrypoints" / "train.py")
    done = opt_ml.run()
    assert done.code == code
    assert message in (opt_ml.failure if code else done.log)


@pytest.mark.slow
@pytest.mark.ray
def test_a_learner_that_dies_is_replaced_and_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    settings = [f"{name}={value}" for name, value in TINY.items()]
    command = [
        *(str(BIN / "smrl"), "train", "--preset", "reacher", "--out", "out", *settings),
        *("rl.training.config.num_learners=1", "rl.training.checkpoint_freq=2", "rl.training.config.seed=1"),
        *("rl.training.config.min_time_s_per_iteration=0.3", "rl.training.stop.training_iteration=1000"),
    ]
    metrics = tmp_path / "out" / "metrics.jsonl"

    def rows() -> list[dict[str, float]]:
        return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stdout=log, stderr=log)
    try:
        wait_until(lambda: len(rows()) >= 5 or process.poll() is not None, 120)
        learners = [p for p in psutil.Process(process.pid).children(recursive=True) if "_WrappedExec" in p.name()]
        assert len(learners) == 1
        learners[0].kill()
        log_now = tmp_path / "log"
        wait_until(lambda: "training_restarts: 1 (ActorDiedError" in log_now.read_text(), 60)
        wait_until(lambda: bool(rows()) and "training_restarts" in rows()[-1], 120)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    numbers = [row["training_iteration"] for row in rows()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert rows()[-1]["training_restarts"] == 1
    assert "resuming from" in (tmp_path / "log").read_text()


def test_machines_keep_a_cpu_for_learning_where_there_are_several() -> None:
    from runtime.environments.spec import EnvSpec
    from runtime.jobs.catalog import PLAIN
    from runtime.jobs.training import Request, resolve_config
    from runtime.ppo.rllib_config import count_env_runners, count_threads, fit_to_resources
    from runtime.ppo.settings import PPOSettings

    three = Machines(12, 1, 3, cpus_elsewhere=(4, 4), gpus_elsewhere=1, reserved_cpus=1)
    left = Machines(4, reserved_cpus=1, are_fewer=True)
    reacher, cart = EnvSpec("RoboschoolReacher-v1"), EnvSpec("CartPole-v1")

    def settings(**algorithm: Any) -> JobConfig:
        given = {f"rl.training.config.{name}": value for name, value in algorithm.items()}
        return resolve_config(Container(), Request({"preset": "reacher", **given}))

    assert count_env_runners(settings(), three, reacher) == 11
    assert count_env_runners(settings(num_learners=1), three, reacher) == 10
    assert count_env_runners(settings(num_cpus_per_env_runner=3), three, reacher) == 3  # one a host
    assert count_env_runners(settings(), Machines(12), reacher) == 0
    assert count_env_runners(settings(num_env_runners=4), three, reacher) == 4
    assert count_env_runners(settings(), left, cart) == 3
    assert count_env_runners(settings(num_learners=1), left, cart) == 2
    assert count_threads(settings(num_env_runners=0), reacher, three) == 4
    config = settings(num_env_runners=12)
    assert count_threads(config, reacher, three) == 1
    import gymnasium

    fitted, notes = fit_to_resources(config, PLAIN, gymnasium.make("RoboschoolReacher-v1").action_space, three)
    assert PPOSettings.of(fitted).num_env_runners == 11
    assert "12 env runners asked for, 11 used: 3 hosts have 12 CPUs, of which the first host learns on one" in notes
    # The GPU is on another host: so is the learner.
    of_learner = PPOSettings.of(fitted)
    assert (of_learner.num_learners, of_learner.num_gpus_per_learner) == (1, 1.0)
    two = config.replace({"config.num_gpus_per_learner": 2.0}, source="a test")
    with pytest.raises(UserError, match="expected at most 1, the GPUs that there are"):
        fit_to_resources(two, PLAIN, gymnasium.spaces.Discrete(2), three)
    # Two GPUs were there once.
    fitted, notes = fit_to_resources(two, PLAIN, gymnasium.spaces.Discrete(2), left)
    assert PPOSettings.of(fitted).num_gpus_per_learner == 0.0
    assert "2 GPUs asked for, 0 used: hosts have been lost" in notes
    assert PPOSettings.of(fitted).num_env_runners == 3
