"""Hosts that find each other: who is counted, what is said of those that stay away, what a learner's death costs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from runtime.cluster.address import PORT, find_own_address
from runtime.cluster.head_node import HeadNode
from runtime.cluster.hosts import start_head_node
from runtime.cluster.machines import Machines
from runtime.cluster.worker_node import connect_to_head, run_worker_node
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
SECOND = replace(HOST, current_host="second")


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


def node(host: str, node_id: str, *, cpus: int = 2, why_dead: str = "", port: int = 0) -> dict[str, Any]:
    """A node as Ray lists it: dead ones have no resources."""
    has = {} if why_dead else {"CPU": float(cpus), "GPU": 1.0, "memory": 1e9}
    labels = {"ray.io/node-id": node_id, "group": "runners"}
    place = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
    known = {"NodeID": node_id, "NodeName": host, "Resources": has, "Labels": labels}
    return {**known, **place, "Alive": not why_dead, "DeathReasonMessage": why_dead}


def wait_until(condition: Any, timeout_s: float = 10) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_worker_nodes_are_counted_lost_and_join_again(notes: list[str], stop: StopRequest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as raylet:
        port = raylet.getsockname()[1]
        nodes = [node("10.0.0.1", "head"), node("second", "a", port=port), node("third", "b", cpus=8, port=port)]
        nodes.append(node("stranger", "s"))
        head = HeadNode(HOST, stop, notes.append, lambda: nodes)
        head.wait_for_workers(5)
        assert head.machines == Machines(14, 2, 3, cpus_elsewhere=(2, 8), gpus_elsewhere=2, reserved_cpus=1)
        assert notes == [
            "second of group runners connected: 2 CPUs, 1 GPUs (1 of 2)",
            "third of group runners connected: 8 CPUs, 1 GPUs (2 of 2)",
            "3 hosts, 14 CPUs, 2 GPUs",
        ]
        assert head.take_events() == []
        nodes[2] = node("third", "b", why_dead="received SIGTERM")
        left = Machines(6, 1, 2, cpus_elsewhere=(2,), gpus_elsewhere=1, reserved_cpus=1, are_fewer=True)
        assert head.machines == left
        assert head.take_events() == [("host_lost", "third: received SIGTERM")]
        nodes.append(node("third", "c", cpus=8, port=port))
        assert head.take_events() == [("host_rejoined", "third: it joined again")]
        # Its Ray ended, and was restarted before anybody looked.
        nodes[1] = node("second", "a", why_dead="health check failed")
        nodes.append(node("second", "d", port=port))
        assert head.take_events() == [
            ("host_lost", "second: health check failed"),
            ("host_rejoined", "second: it joined again"),
        ]
        assert head.machines.hosts == 3


def test_machines_wait_until_ray_has_noticed_that_a_host_is_gone(
    notes: list[str], stop: StopRequest, in_background: ThreadPoolExecutor
) -> None:
    nodes = [node("second", "a", port=1)]  # nothing listens there
    machines = in_background.submit(lambda: HeadNode(HOST, stop, notes.append, lambda: nodes).machines)
    assert not wait([machines], timeout=1.0).done
    nodes[0] = node("second", "a", why_dead="health check failed")
    assert machines.result(10).hosts == 1


def test_hosts_that_do_not_come_are_all_named_and_so_are_those_that_fail(notes: list[str], stop: StopRequest) -> None:
    head = HeadNode(HOST, stop, notes.append, lambda: [node("second", "a")])
    with pytest.raises(PlatformError, match=r"^third: not in Ray's cluster after 0\.3 s; expected every host of"):
        head.wait_for_workers(0.3)
    head = HeadNode(HOST, stop, notes.append, list, lambda: {"third": "no player", "second": "the disk is full"})
    with pytest.raises(PlatformError, match="hosts that could not join: second: the disk is full; third: no player"):
        head.wait_for_workers(20)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a hosts file of its own takes root")
def test_a_host_whose_name_has_gone_is_absent(tmp_path: Path) -> None:
    """Docker forgets the name of a container that has ended."""
    hosts = tmp_path / "hosts"
    hosts.touch()
    script = (
        "import sys; from pathlib import Path; from runtime.cluster.address import Presence\n"
        "hosts, presence = Path(sys.argv[1]), Presence()\n"
        "print(presence.absent_s('algo-2', 5.0))\n"  # it may yet start
        "hosts.write_text('127.0.0.1 algo-2\\n')\n"
        "print(presence.absent_s('algo-2', 7.0))\n"
        "hosts.write_text('')\n"
        "print(presence.absent_s('algo-2', 45.0))\n"
    )
    mounted = 'mount --bind "$1" /etc/hosts && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", mounted, "sh", str(hosts), sys.executable, script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.0", "0.0", "38.0"]


def test_a_worker_node_stays_until_the_heads_process_closes_its_port(
    notes: list[str], stop: StopRequest, in_background: ThreadPoolExecutor
) -> None:
    """The SDK's local mode stops every host as soon as one has ended."""
    listener = socket.create_server(("127.0.0.1", PORT))
    connection = connect_to_head(SECOND, stop, 20, notes.append)
    staying = in_background.submit(
        run_worker_node, SECOND, stop, connection, object_store_bytes=10**8, note=notes.append
    )
    first, _ = listener.accept()
    first.close()  # as Ray does with connections that send nothing
    second, _ = listener.accept()
    second.send(b"settings of HTTP/2")
    assert not staying.done()
    listener.close()
    second.close()
    staying.result(30)
    assert notes[0] == "second: connecting to the head node localhost"
    assert notes[-1] == "localhost has ended"


def test_a_stop_ends_the_waiting_on_both_sides(notes: list[str], stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        HeadNode(HOST, stop, notes.append, list).wait_for_workers(20)
    with pytest.raises(Interrupted):
        connect_to_head(SECOND, stop, 20, notes.append)


def test_a_head_node_that_is_not_found_is_named(notes: list[str], stop: StopRequest) -> None:
    with pytest.raises(PlatformError, match=rf"localhost: not found within 0.5 s at port {PORT}: Connection refused"):
        connect_to_head(SECOND, stop, 0.5, notes.append)


def test_a_port_that_is_taken_is_named(stop: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):  # which Ray would read in later tests
        monkeypatch.setenv(name, "")
    with (
        socket.create_server(("127.0.0.1", PORT)),
        pytest.raises(PlatformError, match=f"port {PORT}: cannot be listened on"),
    ):
        start_head_node(HOST, stop, None)


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


@pytest.mark.system
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
