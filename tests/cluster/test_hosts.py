"""Training on three hosts with the real `train`: a runner, a link, a host and the head are lost on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.namespaces import Host, Hosts, hosts, needs_hosts, some_cpus
from tests.conftest import TINY
from tests.servers import ROWS, started
from tests.unity_stand_in import build_player

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.ray, needs_hosts]
JOB = {
    **{**TINY, "rl.training.config.train_batch_size": "1280", "rl.training.export": "true"},
    **{"preset": "reacher", "sagemaker_program": "train.py", "rl.training.config.seed": "1"},
    **{"rl.training.checkpoint_freq": "1", "rl.training.video_freq": "0"},
    "rl.training.config.min_time_s_per_iteration": "0.5",
}


# As scripts of 2020 are: an environment of their own, in a module of their own beside the script.
SCRIPT = """
import gym
from ray.tune.registry import register_env
from sagemaker_rl.ray_launcher import SageMakerRayLauncher
from rewards import FACTOR

class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return FACTOR * reward

class Mine(SageMakerRayLauncher):
    def register_env_creator(self):
        register_env("mine", lambda config: Doubled(gym.make("CartPole-v1")))

    def get_experiment_config(self):
        workers = self.num_cpus * len(self.hosts_info) - 1
        return {"training": {"env": "mine", "run": "PPO", "config": {"num_workers": workers}}}

Mine().train_main()
"""


# Somebody on the same network who knows where Ray is, but not the job's token.
STRANGER = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(sys.argv[1])
except Exception as error:
    print(type(error).__name__)
"""


def count(text: str, name: str) -> int:
    """The last value of a counter in a log."""
    found = re.findall(rf"(?<![a-z_]){name}: (\d+)", text)
    return int(found[-1]) if found else 0


def iterations(host: Host) -> int:
    """Iterations that a host has printed."""
    return count(host.log, "training_iteration")


def start_anew(before: Host, after: Host) -> None:
    """Gives a machine's checkpoints to another, as SageMaker does when a spot machine was taken away."""
    for name in ("checkpoints", "output"):
        shutil.copytree(before.ml / name, after.ml / name, ignore=shutil.ignore_patterns("failure"))


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Hosts]:
    """Three hosts."""
    with hosts(tmp_path / "first", 3) as made:
        yield made


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts of one CPU."""
    with hosts(tmp_path / "hosts", 2) as made:
        for number, host in enumerate(made.hosts):
            host.cpus = str(sorted(os.sched_getaffinity(0))[-number])
        yield made


def test_a_launchers_last_host_goes_on_alone_and_saves_when_it_is_asked_to_stop(pair: Hosts) -> None:
    one, two = pair.hosts
    job = {name: value for name, value in JOB.items() if name != "preset"}
    pair.write({**job, "sagemaker_program": "mine.py", "rl.training.stop.training_iteration": "1000"})
    for host in pair.hosts:
        (host.ml / "code" / "mine.py").write_text(SCRIPT)
        (host.ml / "code" / "rewards.py").write_text("FACTOR = 2\n")
    pair.start()
    pair.wait_for(lambda: iterations(one) >= 2)
    two.kill()
    pair.wait_for(lambda: count(one.log, "training_restarts") == 1)
    before = iterations(one)
    pair.wait_for(lambda: iterations(one) >= before + 2)
    assert "(algo-2: its connection was closed)" in one.log
    one.send(signal.SIGTERM)
    assert one.wait(60) == 0
    assert "stopped by SIGTERM" in one.log
    assert one.failure == ""
    numbers = [row["training_iteration"] for row in one.rows]
    assert numbers == list(range(1, len(numbers) + 1))
    assert one.rows[-1]["training_restarts"] == 1
    assert json.loads((one.ml / "model" / "manifest.json").read_text())["exports"]


def test_players_of_a_scene_run_on_every_host(pair: Hosts, tmp_path: Path) -> None:
    one, two = pair.hosts
    two.cpus = some_cpus(2)
    job = {name: value for name, value in JOB.items() if "config" not in name}
    scene = {"preset": "unity-3dball", "rl.training.config.env_config.env_name": build_player(tmp_path, "3DBall")}
    sizes = {"rl.training.config.train_batch_size": "240", "rl.training.config.minibatch_size": "60"}
    pair.write({**job, **scene, **sizes, "rl.training.export": "false", "rl.training.stop.training_iteration": "2"})
    pair.start()
    assert [host.wait() for host in pair.hosts] == [0, 0], pair.story()
    logs = [sorted(path.name[:8] for path in host.ml.rglob("Player-*.log")) for host in pair.hosts]
    assert logs[0] == ["Player-0"]  # which was looked at
    assert logs[1] == [f"Player-{number}" for number in range(1, len(two.cpus.split(",")) + 1)]
    assert len(one.rows) == 2


def test_a_host_that_never_comes_is_named(pair: Hosts) -> None:
    one, two = pair.hosts
    pair.write({**JOB, "rl.training.cluster_timeout_s": "3"})
    two.start("train")
    assert two.wait(60) == 1
    assert "algo-1: not found within 3 s at port 6390: Connection refused" in two.failure
    one.start("train")
    assert one.wait(60) == 1
    assert (
        "algo-2: not in Ray's cluster after 3 s; expected every host of resourceconfig.json (algo-1, algo-2)"
        in one.failure
    )


def test_a_training_outlives_a_runner_a_link_and_a_host_and_goes_on_after_the_heads_end(
    three: Hosts, tmp_path: Path
) -> None:
    one, two, third = three.hosts
    three.write({**JOB, "rl.training.stop.training_iteration": "1000"})
    three.start()
    three.wait_for(lambda: iterations(one) >= 2)
    assert re.search(r"smrl: 3 hosts, [36] CPUs, 0 GPUs", one.log)
    listening = one.run("ss", "-Hltn")
    assert not re.search(r":(8265|10001)\b", listening)  # Ray's dashboard and client server are off
    (ray_address,) = re.findall(r"joining Ray at (\S+);", two.log)
    assert "AuthenticationError" in two.run(sys.executable, "-c", STRANGER, ray_address)
    runner = next(process for process in two.processes() if process.name().startswith("ray::FastRunner"))
    runner.kill()
    three.wait_for(lambda: count(one.log, "env_runners_restarted") == 1)
    assert count(one.log, "env_runners_lost") == 1

    before = iterations(one)
    two.set_link("down")
    time.sleep(20)
    two.set_link("up")
    three.wait_for(lambda: iterations(one) >= before + 3)
    assert count(one.log, "hosts_lost") == 0

    third.kill()
    three.wait_for(lambda: count(one.log, "hosts_lost") == 1)
    before = iterations(one)
    three.wait_for(lambda: iterations(one) >= before + 3)
    assert one.rows[-1]["hosts_lost"] == 1

    one.kill()
    assert two.wait() == 1
    assert "algo-1: the head node is lost" in two.failure

    done = len(one.rows)
    with hosts(tmp_path / "second", 3) as anew:
        first = anew.hosts[0]
        start_anew(one, first)
        anew.write({**JOB, "rl.training.stop.training_iteration": str(done + 3)})
        anew.start()
        assert anew.end_as_compose() == [0, 0, 0], anew.story()
        assert json.loads((first.ml / "model" / "manifest.json").read_text())["exports"]
        assert (first.ml / "output" / "data" / "report.html").exists()
        assert "algo-1 has ended: done" in anew.hosts[1].log
        assert [row["training_iteration"] for row in first.rows] == list(range(1, done + 4))
        steps = [row["timesteps_total"] for row in first.rows]
        assert steps == sorted(set(steps))
        assert first.rows[-1]["env_runners_lost"] >= 1  # counters go on
        assert (first.ml / "model" / "best").is_dir()
        assert not any((host.ml / "model").exists() and any((host.ml / "model").iterdir()) for host in anew.hosts[1:])
    with started(tmp_path, str(first.ml / "model"), "--workers", "1") as server:
        server.wait_until(200)
        assert np.shape(server.invoke({"instances": ROWS.tolist()})["predictions"]) == (3, 2)
