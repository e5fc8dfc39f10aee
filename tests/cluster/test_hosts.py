"""Training on two hosts with the real `train`: a runner and a host are lost on the way, and strangers are kept out."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.cluster.address import PORT
from tests.cluster.namespaces import NETWORK, Host, Hosts, hosts, needs_hosts, some_cpus
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
    assert "hosts_lost: 1 (algo-2: health check failed" in one.log
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
    assert "algo-1: not found within 3 s at port 6379: Connection refused" in two.failure
    one.start("train")
    assert one.wait(60) == 1
    assert (
        "algo-2: not in Ray's cluster after 3 s; expected every host of resourceconfig.json (algo-1, algo-2)"
        in one.failure
    )


def test_a_host_that_fails_before_it_joins_ends_the_waiting_with_its_reason(pair: Hosts) -> None:
    one, two = pair.hosts
    player = Path(build_player(one.ml, "3DBall"))
    pair.write(
        {
            "preset": "unity-3dball",
            "sagemaker_program": "train.py",
            "rl.training.config.env_config.env_name": Path("/mnt/ml") / player.relative_to(one.ml),
        }
    )
    pair.start()
    assert [host.wait() for host in pair.hosts] == [1, 1], pair.story()
    assert "3DBall" in two.failure
    assert one.failure.startswith(f"hosts that could not join: algo-2: {two.failure[:60]}")


def test_a_host_with_other_hyperparameters_is_refused_by_the_token(pair: Hosts) -> None:
    one, two = pair.hosts
    pair.write(JOB)
    others = json.dumps({**JOB, "rl.training.config.seed": "2"})
    (two.ml / "input" / "config" / "hyperparameters.json").write_text(others)
    pair.start()
    assert two.wait() == 1
    assert two.failure.startswith("algo-1: it runs another job, or this one with other hyperparameters")
    one.send(signal.SIGTERM)  # it would wait for the host
    assert one.wait(60) == 0
    assert "connected" not in one.log


def test_a_stranger_is_kept_out_and_a_runner_that_dies_is_restarted(pair: Hosts, tmp_path: Path) -> None:
    """What containers show, tests/docker tests: hosts that are killed, stopped and disconnected."""
    one, two = pair.hosts
    two.cpus = some_cpus(2)
    pair.write({**JOB, "rl.training.stop.training_iteration": "1000"})
    pair.start()
    pair.wait_for(lambda: iterations(one) >= 2)
    assert re.search(r"smrl: 2 hosts, [23] CPUs, 0 GPUs", one.log)
    listening = one.run("ss", "-Hltn")
    assert not re.search(r":(8265|10001)\b", listening)  # Ray's dashboard and client server are off
    assert "AuthenticationError" in two.run(sys.executable, "-c", STRANGER, f"{NETWORK}.1:{PORT}")
    runner = next(process for process in two.processes() if process.name().startswith("ray::FastRunner"))
    runner.kill()
    pair.wait_for(lambda: count(one.log, "env_runners_restarted") == 1)
    assert count(one.log, "env_runners_lost") == 1
    before = iterations(one)
    pair.wait_for(lambda: iterations(one) >= before + 2)
    one.send(signal.SIGTERM)
    assert [one.wait(60), two.wait(60)] == [0, 0], pair.story()
    assert "algo-1 has ended" in two.log
    assert not (two.ml / "model").exists() or not any((two.ml / "model").iterdir())
    with started(tmp_path, str(one.ml / "model"), "--workers", "1") as server:
        server.wait_until(200)
        assert np.shape(server.invoke({"instances": ROWS.tolist()})["predictions"]) == (3, 2)
