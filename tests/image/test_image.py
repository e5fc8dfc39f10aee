"""An image's root, made by its Dockerfile's own steps and started as a container engine would start it.

Building takes minutes and 5 GB, so these run when they are asked for: `make test-image`, or IMAGE_TESTS=FOLDER, where
an image that FOLDER holds already is taken as it is.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.conftest import ROOT, TINY
from tests.image.build import Image, build, count_megabytes
from tests.servers import Server

FOLDER = os.environ.get("IMAGE_TESTS", "")
pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="builds a whole image, for minutes and 5 GB; `make test-image` runs it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot and mounts are for root"),
    pytest.mark.skipif(
        shutil.which("debootstrap") is None, reason="needs debootstrap, of Debian's package of that name"
    ),
]
_SIZE_MB, _FIRST_STEP_S, _READY_S, _SERVING_MB = 2000, 10, 3, 250


@pytest.fixture(scope="module")
def image() -> Image:
    """The CPU image."""
    notes = Path(FOLDER) / "image.json"
    if not notes.exists():
        arguments = dict(word.split("=", 1) for word in shlex.split(os.environ.get("IMAGE_BUILD_ARGS", "")))
        made = build(ROOT / "Dockerfile.cpu", Path(FOLDER), arguments)
        notes.write_text(json.dumps([str(made.root), made.environment, made.entrypoint, made.command]))
    root, environment, entrypoint, command = json.loads(notes.read_text())
    return Image(Path(root), environment, entrypoint, command)


def start(
    image: Image, *words: str, opt_ml: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """`docker run [-v OPT_ML:/opt/ml] IMAGE WORDS`, in mounts, processes and a host name of its own."""
    binds = [] if opt_ml is None else [f"{opt_ml}:/opt/ml:rw"]
    inner = Image(image.root, {**image.environment, **(environment or {})})
    command = inner.enter([*image.entrypoint, *(words or image.command)], binds=binds, hostname="algo-1")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(image: Image, *words: str, opt_ml: Path | None = None) -> str:
    """Runs it to its end, which must be a good one."""
    process = start(image, *words, opt_ml=opt_ml)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out[-3000:]
    return out


def process_1(process: subprocess.Popen[str]) -> psutil.Process:
    """The container's first process, seen from outside."""
    return psutil.Process(process.pid).children()[0]


@pytest.fixture(scope="module")
def trained(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/ml after SageMaker's toolkit has trained in the image, as on the first host of a job."""
    base = tmp_path_factory.mktemp("opt_ml")
    config = base / "input" / "config"
    config.mkdir(parents=True)
    settings = {**TINY, "rl.training.stop.training_iteration": "3", "rl.training.export": "true", "preset": '"reacher"'}
    (config / "hyperparameters.json").write_text(json.dumps({**settings, "sagemaker_program": '"train.py"'}))
    hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"}
    (config / "resourceconfig.json").write_text(json.dumps(hosts))
    (config / "inputdataconfig.json").write_text("{}")
    (base / "code").mkdir()
    shutil.copy(ROOT / "entrypoints" / "train.py", base / "code")
    process = start(image, "train", opt_ml=base, environment={"SM_STUDIO_LOCAL_MODE": "true"})  # algo-1 is in no DNS
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out[-3000:]
    assert "training_iteration: 3 " in out
    return base


def test_it_is_small_has_no_compiler_and_leaves_sagemakers_folders_alone(image: Image) -> None:
    size = count_megabytes(image.root)
    print(f"{size:,.0f} MB")
    assert size <= _SIZE_MB
    for name in ("gcc", "cc", "strip", "git"):
        assert not list(image.root.glob(f"usr/bin/*{name}")), name
    assert not list((image.root / "opt/smrl/lib/python3.11/site-packages").glob("tensorflow*"))
    assert list((image.root / "opt" / "ml").iterdir()) == []
    assert not list((image.root / "var/lib/apt/lists").glob("*Packages*"))
    assert not (image.root / "root" / ".cache").exists()


def test_without_a_word_it_says_what_it_can_do(image: Image) -> None:
    assert "Reinforcement learning for SageMaker, docker run, or this machine." in run(image)


def test_sagemakers_toolkit_trains_to_a_finished_model(trained: Path) -> None:
    assert (trained / "output" / "success").exists()
    manifest = json.loads((trained / "model" / "manifest.json").read_text())
    assert [export["format"] for export in manifest["exports"]] == ["tensorflow-savedmodel", "onnx", "torch-export"]
    assert (trained / "output" / "intermediate" / "last.mp4").stat().st_size > 1000


def test_train_with_nothing_mounted_trains_the_default_preset_and_says_where(image: Image) -> None:
    began = time.monotonic()
    out = run(image, "train", "rl.training.stop.training_iteration=1")
    print(f"train to its end: {time.monotonic() - began:.1f} s")
    assert "no preset and no environment is named: this is the preset reacher" in out
    assert "model          /opt/ml/model" in out
    shutil.rmtree(image.root / "opt" / "ml")
    (image.root / "opt" / "ml").mkdir()


def test_the_first_step_comes_within_seconds(image: Image, tmp_path: Path) -> None:
    """One iteration of 64 steps follows the first step by less than a tenth of a second."""
    settings = [f"{name}={value}" for name, value in TINY.items()]
    process, began = start(image, "train", *settings, opt_ml=tmp_path), time.monotonic()
    metrics = tmp_path / "output" / "data" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None
        assert time.monotonic() - began < 60
        time.sleep(0.02)
    seconds = time.monotonic() - began
    process_1(process).send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    print(f"train to its first metrics: {seconds:.1f} s")
    assert process.returncode == 0, out
    assert "ended because  stopped by SIGTERM" in out
    assert (tmp_path / "model" / "manifest.json").exists()
    assert seconds <= _FIRST_STEP_S


@pytest.fixture(scope="module")
def served(image: Image, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, float]]:
    """The trained policy, served by the image, and how long it took to be ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    began = time.monotonic()
    process = start(
        image,
        "serve",
        opt_ml=trained,
        environment={"SAGEMAKER_BIND_TO_PORT": str(port), "SAGEMAKER_MODEL_SERVER_WORKERS": "1"},
    )
    log.write_text("")
    server = Server(process, port, log)
    server.wait_until(200)
    yield server, time.monotonic() - began
    process_1(process).send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out


def test_it_serves_within_seconds_and_little_memory(served: tuple[Server, float]) -> None:
    server, seconds = served
    rows = np.zeros((2, 9)).tolist()
    assert len(server.invoke({"signature_name": "observations_only", "instances": rows})["predictions"]) == 2
    family = [process_1(server.process), *process_1(server.process).children(recursive=True)]
    memory = sum(one.memory_full_info().pss for one in family) / 1e6
    print(f"ready after {seconds:.1f} s, {memory:.0f} MB")
    assert seconds <= _READY_S
    assert memory <= _SERVING_MB


def test_the_other_jobs_run_in_what_pruning_left(image: Image, tmp_path: Path) -> None:
    """Batch RL, DeepRacer's compiled simulator and camera, Unity's messages, every robot."""
    program = (
        "import gymnasium, envs\n"
        "from envs.unity.protocol import UnityEnvironment\n"
        "for name in envs.ROBOSCHOOL_IDS:\n"
        "    env = gymnasium.make(name); env.reset(seed=0); env.step(env.action_space.sample()); env.close()\n"
        "env = gymnasium.make('DeepRacer-v0'); env.reset(seed=0); env.step(env.action_space.sample())\n"
        "import d3rlpy, pandas, pyarrow.parquet, boto3, tensorboard, matplotlib.pyplot\n"
        "print('all', len(envs.ROBOSCHOOL_IDS), 'robots')\n"
    )
    assert run(image, "python", "-W", "ignore", "-c", program).endswith("all 11 robots\n")
    log = ["collect", "--env", "CartPole-v0", "--envs", "20", "--episodes", "5", "--out", "/opt/ml/log.csv"]
    run(image, *log, opt_ml=tmp_path)
    learn = ["train", "--preset", "cartpole-bcq", "--data", "/opt/ml/log.csv", "rl.training.stop.training_iteration=1"]
    assert "learned from logged data" in run(
        image, *learn, "rl.training.config.updates_per_iteration=20", opt_ml=tmp_path
    )
