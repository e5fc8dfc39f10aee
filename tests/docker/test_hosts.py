"""Training on three containers: hosts are killed, stopped and disconnected; the job ends when its first host does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.docker.containers import NAMES, Containers, containers, docker, find_compose

pytestmark = [pytest.mark.system, pytest.mark.slow]
FIRST, SECOND, THIRD = NAMES
JOB = {
    **TINY,
    "rl.training.config.train_batch_size": 1280,
    "rl.training.config.seed": 1,
    "rl.training.config.min_time_s_per_iteration": 0.5,
    "rl.training.checkpoint_freq": 1,
    "rl.training.stop.training_iteration": 1000,
    "rl.training.stop.episode_reward_mean": 1000,
    "rl.training.stop.timesteps_total": 1_000_000_000,  # the preset's are over in minutes
}


@pytest.fixture
def hosts(image: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Three hosts of a job, with further hyperparameters as the test's parameter; they are not started."""
    if not find_compose():
        pytest.skip("hosts are made by Docker Compose")
    with containers(tmp_path, image, {**JOB, **getattr(request, "param", {})}) as made:
        yield made


@pytest.mark.parametrize(
    "hosts", [{"rl.training.stop.training_iteration": 3, "rl.training.export": "true"}], indirect=True
)
def test_compose_stops_all_with_the_first_container_and_the_first_has_written_all(hosts: Containers) -> None:
    """As the SDK's local mode does with instance_count=3."""
    assert hosts.compose("up", "--abort-on-container-exit", *NAMES).wait(280) == 0, hosts.story()
    assert [hosts.exit_code(name) for name in NAMES] == [0, 0, 0], hosts.story()
    first = hosts.ml(FIRST)
    assert json.loads((first / "model" / "manifest.json").read_text())["exports"]
    assert (first / "output" / "data" / "report.html").exists()
    assert list((first / "output" / "intermediate").glob("*.mp4"))
    assert len(hosts.rows()) == 3
    for name in (SECOND, THIRD):
        assert f"{FIRST} has ended" in hosts.log(name)
        assert not (hosts.ml(name) / "model").exists()


def test_a_training_outlives_its_workers_and_resumes_after_its_head_node(hosts: Containers) -> None:
    hosts.start()
    hosts.wait_for(lambda: hosts.iterations() >= 2)
    hosts.disconnect(THIRD)
    time.sleep(20)
    hosts.reconnect(THIRD)
    before = hosts.iterations()
    hosts.wait_for(lambda: hosts.iterations() >= before + 2)
    docker("kill", hosts.ids[SECOND])
    hosts.wait_for(lambda: hosts.count("hosts_lost") >= 1 and f"({SECOND}: " in hosts.log(FIRST))
    before = hosts.iterations()
    hosts.wait_for(lambda: hosts.iterations() >= before + 2)
    docker("kill", hosts.ids[FIRST])
    assert hosts.wait_for_end() == [137, 137, 0], hosts.story()
    assert f"{FIRST} has ended" in hosts.log(THIRD)

    before = hosts.iterations()
    hosts.start()
    hosts.wait_for(lambda: hosts.iterations() >= before + 2)
    docker("stop", "--time=120", *hosts.ids.values())
    assert hosts.wait_for_end() == [0, 0, 0], hosts.story()
    assert (hosts.ml(FIRST) / "model" / "manifest.json").exists()
    numbers = [row["training_iteration"] for row in hosts.rows()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_host_that_ends_before_the_hosts_have_met_ends_the_waiting(hosts: Containers) -> None:
    (hosts.ml(FIRST) / "checkpoints").write_text("no folder")  # what fails only on the head node
    hosts.start()
    assert hosts.wait_for_end(90) == [3, 0, 0], hosts.story()
    (hosts.ml(FIRST) / "checkpoints").unlink()
    hosts.start(FIRST, SECOND)
    hosts.wait_for(lambda: f"waiting for {THIRD}" in hosts.log(FIRST))
    hosts.start(THIRD)
    hosts.wait_for(lambda: f"{THIRD}: connecting" in hosts.log(THIRD))
    docker("kill", hosts.ids[THIRD])
    assert hosts.wait_for_end(90) == [3, 0, 137], hosts.story()
    failure = (hosts.ml(FIRST) / "output" / "failure").read_text()
    assert f"hosts that could not join: {THIRD}: it has ended" in failure
