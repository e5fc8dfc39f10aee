"""The CPU image, built by its Dockerfile and run by a Docker daemon, as SageMaker and as a person would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from benchmarks.image import (
    SERVING_MB,
    SIZE_MB,
    TINY_WORDS,
    measure_layers,
    measure_rebuild,
    measure_serving,
    trained_volume,
)
from tests.conftest import ROOT, TINY
from tests.docker.engine import Docker, layers

pytestmark = [pytest.mark.system, pytest.mark.slow]
_ONE = "rl.training.stop.training_iteration=1"
_ENDLESS = "rl.training.stop.time_total_s=600"
_RAY = ("rl.training.config.num_env_runners=1", "rl.training.fast=false")
_ROBOTS = """
import gymnasium, envs
from envs.unity.protocol import UnityEnvironment
for name in envs.ROBOSCHOOL_IDS:
    env = gymnasium.make(name); env.reset(seed=0); env.step(env.action_space.sample()); env.close()
env = gymnasium.make('DeepRacer-v0'); env.reset(seed=0); env.step(env.action_space.sample())
import d3rlpy, pandas, pyarrow.parquet, boto3, tensorboard, matplotlib.pyplot
print('all', len(envs.ROBOSCHOOL_IDS), 'robots')
"""
_OWN_SITE = "/opt/smrl/lib/python3.11/site-packages"


def wait_for_line(docker: Docker, container: str, text: str, timeout_s: float = 120) -> str:
    """Waits until a container has printed a text; its whole log."""
    deadline = time.monotonic() + timeout_s
    while text not in (log := docker("logs", container)):
        assert docker.inspect(container, "{{.State.Running}}") == "true", log
        assert time.monotonic() < deadline, log
        time.sleep(0.1)
    return log


def last_line(out: str) -> str:
    return out.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def trained(daemon: Docker, image: str) -> Iterator[str]:
    """A volume with a trained model."""
    with trained_volume(daemon, image) as volume:
        yield volume


def test_it_is_small_has_no_compiler_and_leaves_sagemakers_folders_alone(docker: Docker, image: str) -> None:
    size = sum(megabytes for _, megabytes in measure_layers(docker, image))
    print(f"{size:,.0f} MB")
    assert size <= SIZE_MB
    words = ("sh", "-c", "ls -A /opt/ml; find /var/lib/apt/lists /root/.cache -type f; which gcc cc strip git; true")
    code, out = docker.run(image, *words)
    assert code == 0
    assert [line for line in out.splitlines() if "No such file" not in line] == []
    code, out = docker.run(image, "sh", "-c", f"find {_OWN_SITE} -maxdepth 1 -name 'tensorflow*'")
    assert (code, out) == (0, "")


def test_a_change_of_smrl_leaves_the_layers_of_its_packages(docker: Docker, image: str) -> None:
    measure_rebuild(docker, "smrl:rebuilt")
    try:
        before, after = layers(docker, image), layers(docker, "smrl:rebuilt")
    finally:
        docker("rmi", "smrl:rebuilt")
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


def test_it_says_what_it_is_and_what_is_in_it(docker: Docker, image: str) -> None:
    labels = json.loads(docker.inspect(image, "{{json .Config.Labels}}"))
    revision = labels["org.opencontainers.image.revision"]
    assert labels["org.opencontainers.image.version"] == metadata.version("smrl")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision)
    code, out = docker.run(image, "cat", "/opt/smrl/sbom.cdx.json")
    assert code == 0
    bill = json.loads(out)
    told = {component["name"]: component["version"] for component in bill["components"]}
    freeze = docker("run", "--rm", "--entrypoint", "/opt/smrl/bin/pip", image, "list", "--format=json")
    installed = {one["name"]: one["version"] for one in json.loads(freeze.splitlines()[0])}
    missing = {
        name for name in installed if name.lower().replace("_", "-") not in {n.lower().replace("_", "-") for n in told}
    }
    assert missing <= {"smrl", "pip", "setuptools", "wheel"}
    assert told["torch"].startswith("2.13.0")


def test_without_a_word_it_says_what_it_can_do(docker: Docker, image: str) -> None:
    code, out = docker.run(image)
    assert code == 0
    assert "Reinforcement learning for SageMaker, docker run, or this machine." in out


def test_sagemakers_toolkit_trains_to_a_finished_model(docker: Docker, image: str, tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    settings = {**TINY, "rl.training.stop.training_iteration": "3", "rl.training.export": "true", "preset": '"reacher"'}
    (config / "hyperparameters.json").write_text(json.dumps({**settings, "sagemaker_program": '"train.py"'}))
    hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    (config / "resourceconfig.json").write_text(json.dumps(hosts))
    (config / "inputdataconfig.json").write_text("{}")
    (tmp_path / "code").mkdir()
    shutil.copy(ROOT / "entrypoints" / "train.py", tmp_path / "code")
    options = ("--hostname", "algo-1", "--volume", f"{tmp_path}:/opt/ml")
    code, out = docker.run(image, "train", options=options)
    assert code == 0, out[-3000:]
    assert "training_iteration: 3 " in out
    assert (tmp_path / "output" / "success").exists()
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert [export["format"] for export in manifest["exports"]] == ["tensorflow-savedmodel", "onnx", "torch-export"]
    assert (tmp_path / "output" / "intermediate" / "last.mp4").stat().st_size > 1000


def test_train_with_nothing_mounted_trains_the_default_preset_and_says_where(docker: Docker, image: str) -> None:
    code, out = docker.run(image, "train", _ONE)
    assert code == 0, out
    assert "no preset and no environment is named: this is the preset reacher" in out
    assert "model          /opt/ml/model" in out


def test_it_serves_in_little_memory(docker: Docker, image: str, trained: str) -> None:
    _, memory = measure_serving(docker, image, trained)
    assert memory <= SERVING_MB


def test_a_second_container_on_its_volume_is_refused_and_docker_stop_ends_a_training_with_its_model(
    docker: Docker, image: str, tmp_path: Path
) -> None:
    volume = ("--volume", f"{tmp_path}:/opt/ml")
    container = docker.start(image, "train", *TINY_WORDS, _ENDLESS, options=volume)
    wait_for_line(docker, container, "training_iteration: 3 ")
    code, out = docker.run(image, "train", *TINY_WORDS, _ONE, options=volume)
    assert code == 2
    assert "/opt/ml: got a folder that another job is writing to; expected one of this job's own." in out
    docker("stop", "--time", "60", container)
    log = docker("logs", container)
    assert docker.inspect(container, "{{.State.ExitCode}}") == "0", log
    assert "ended because  stopped by SIGTERM" in log
    assert (tmp_path / "model" / "manifest.json").exists()


def test_the_other_jobs_run_in_what_pruning_left(docker: Docker, image: str, tmp_path: Path) -> None:
    """Batch RL, DeepRacer's compiled simulator and camera, Unity's messages, every robot."""
    code, out = docker.run(image, "python", "-W", "ignore", "-c", _ROBOTS)
    assert (code, last_line(out)) == (0, "all 11 robots"), out
    volume = ("--volume", f"{tmp_path}:/opt/ml")
    log = ("collect", "--env", "CartPole-v0", "--envs", "20", "--episodes", "5", "--out", "/opt/ml/log.csv")
    code, out = docker.run(image, *log, options=volume)
    assert code == 0, out
    learn = ("train", "--preset", "cartpole-bcq", "--data", "/opt/ml/log.csv", _ONE)
    code, out = docker.run(image, *learn, "rl.training.config.updates_per_iteration=20", options=volume)
    assert code == 0, out
    assert "learned from logged data" in out


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--user", "1000"), id="not root"),
        pytest.param(("--read-only", "--tmpfs", "/tmp", "--volume", "/opt/ml"), id="read-only"),
    ],
)
def test_it_trains_and_exports_without_rights(docker: Docker, image: str, options: tuple[str, ...]) -> None:
    """Compiled kernels come from the image, or this takes a minute more."""
    words = ("train", "--preset", "reacher", *(word for word in TINY_WORDS if "export" not in word), _ONE)
    code, out = docker.run(image, *words, options=options)
    assert code == 0, out
    assert "policy.onnx, policy.pt2; within" in out
    assert not re.search(r"warn|denied|read-only", out, re.I), out


def test_ray_runs_without_any_rights_and_with_64_mb_of_shared_memory(docker: Docker, image: str) -> None:
    rights = ("--user", "1000", "--read-only", "--tmpfs", "/tmp", "--volume", "/opt/ml", "--cap-drop", "ALL")
    words = ("train", "--preset", "reacher", *TINY_WORDS, *_RAY, _ONE)
    code, out = docker.run(image, *words, options=(*rights, "--shm-size", "64m", "--memory", "2g"))
    assert code == 0, out
    assert "training_iteration: 1 " in out
    assert not re.search(r"warn|denied|read-only", out, re.I), out


def test_it_serves_without_rights(docker: Docker, image: str, trained: str) -> None:
    options = ("--user", "1000", "--read-only", "--tmpfs", "/tmp", "--volume", f"{trained}:/opt/ml:ro")
    container = docker.start(image, "serve", options=options)
    ask = (
        "import http.client, json\n"
        "c = http.client.HTTPConnection('127.0.0.1', 8080)\n"
        f"rows = {np.zeros((2, 9)).tolist()}\n"
        "c.request('POST', '/invocations', json.dumps({'signature_name': 'observations_only', 'instances': rows}),\n"
        "    {'Content-Type': 'application/json'})\n"
        "print(len(json.loads(c.getresponse().read())['predictions']))\n"
    )
    wait_for_health(docker, container)
    assert last_line(docker("exec", container, "python", "-c", ask)) == "2"


def wait_for_health(docker: Docker, container: str, timeout_s: float = 60) -> None:
    """Waits until the image's HEALTHCHECK, asked right away, is good."""
    deadline = time.monotonic() + timeout_s
    while docker.try_("exec", container, "smrl-init", "health").returncode:
        assert docker.inspect(container, "{{.State.Running}}") == "true", docker("logs", container)
        assert time.monotonic() < deadline, docker("logs", container)
        time.sleep(0.1)


def test_docker_finds_training_and_serving_healthy_and_a_server_without_a_model_not(
    docker: Docker, image: str, trained: str
) -> None:
    often = ("--health-interval", "1s", "--health-start-period", "0s", "--health-retries", "1")
    training = docker.start(image, "train", *TINY_WORDS, _ENDLESS, options=often)
    serving = docker.start(image, "serve", options=(*often, "--volume", f"{trained}:/opt/ml:ro"))
    broken = docker.start(image, "serve", options=often)
    expected = {training: "healthy", serving: "healthy", broken: "unhealthy"}
    deadline = time.monotonic() + 90
    while (found := {one: docker.inspect(one, "{{.State.Health.Status}}") for one in expected}) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_docker_asks_the_image_for_its_health(docker: Docker, image: str) -> None:
    assert json.loads(docker.inspect(image, "{{json .Config.Healthcheck.Test}}")) == ["CMD", "smrl-init", "health"]


def test_the_limits_of_a_container_are_what_jobs_go_by(docker: Docker, image: str) -> None:
    ask = "from runtime.container.hardware import *; print(count_cpus(), round(measure_memory() / 2**20))"
    code, out = docker.run(image, "python", "-c", ask, options=("--cpus", "1.5", "--memory", "1500m"))
    assert (code, last_line(out)) == (0, "1 1500")
    words = ("train", "--preset", "reacher", "rl.training.config.train_batch_size=50000000", _ONE)
    code, out = docker.run(image, *words, options=("--memory", "1500m"))
    assert code == 2
    assert "rl.training.config.train_batch_size: got 50000000" in out
    assert len(out.splitlines()) == 1


def test_a_kill_for_memory_is_named_in_the_failure_file(docker: Docker, image: str, tmp_path: Path) -> None:
    eat = "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'1') * 2**24)"
    options = ("--memory", "300m", "--memory-swap", "300m", "--volume", f"{tmp_path}:/opt/ml")
    code, out = docker.run(image, "python", "-c", eat, options=options)
    assert code == 137
    assert "smrl: error: memory: got 1 process(es) killed by the kernel's out-of-memory killer" in out
    failure = (tmp_path / "output" / "failure").read_text()
    assert failure.startswith("memory: got 1 process(es) killed")
    assert "0.3 GB" in failure


@pytest.mark.parametrize(
    "options", [("--user", "1000"), ("--read-only", "--tmpfs", "/tmp")], ids=["not ours", "read-only"]
)
def test_an_opt_ml_that_cannot_be_written_is_named_at_once(
    docker: Docker, image: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "ml").mkdir(mode=0o755)
    mode = ":ro" if "--read-only" in options else ""
    volume = ("--volume", f"{tmp_path / 'ml'}:/opt/ml{mode}")
    code, out = docker.run(image, "train", *TINY_WORDS, _ONE, options=(*options, *volume))
    assert code == 3, out
    assert re.fullmatch(r"smrl: error: /opt/ml/\S+: got a folder that cannot be written to .*\n", without_notes(out)), (
        out
    )


def test_a_model_directory_mounted_read_only_is_named_before_training(
    docker: Docker, image: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    options = ("--volume", f"{tmp_path / 'model'}:/opt/ml/model:ro")
    code, out = docker.run(image, "train", *TINY_WORDS, _ONE, options=options)
    assert code == 3, out
    assert "smrl: error: /opt/ml/model: got a folder that cannot be written to (Read-only file system)" in out
    assert "training_iteration" not in out


@pytest.mark.skipif("SMRL_TEST_GPU_IMAGE" not in os.environ, reason="needs an image that takes 30 GB of disk to build")
def test_the_image_for_gpus_trains_on_the_cpu_where_there_is_none_and_says_so_in_one_line(docker: Docker) -> None:
    image = os.environ["SMRL_TEST_GPU_IMAGE"]
    code, out = docker.run(image, "python", "-c", "import torch; print(torch.version.cuda, torch.cuda.is_available())")
    assert (code, last_line(out)) == (0, "13.0 False"), out
    code, out = docker.run(image, "train", *TINY_WORDS, _ONE)
    assert code == 0, out
    assert out.count("GPU") == 2, out
    assert "smrl: no GPU found: training on the CPU; with a GPU and its driver" in out


def without_notes(out: str) -> str:
    """What was printed, without what any training says of itself first."""
    return "".join(line for line in out.splitlines(keepends=True) if not line.startswith("smrl: no preset"))
