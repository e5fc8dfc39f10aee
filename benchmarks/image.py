"""The CPU image measured: its size by layer, a rebuild, starts, and memory.

Run: .venv/bin/python -m benchmarks.image [TAG], into benchmarks/image.md, on an idle machine, with
the Docker daemon that runs. `make test-docker` fails above the sizes and the memory; times are goals.
"""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import ROOT, TINY
from tests.docker.engine import Docker, NoDockerError, build_cpu_image

_PAGE = Path(__file__).with_suffix(".md")
SIZE_MB = 1700
REBUILD_S = 60
FIRST_METRICS_S = 10
READY_S = 3
SERVING_MB = 250
TINY_WORDS = tuple(f"{name}={value}" for name, value in TINY.items())
_WAIT_S = 120
_TRIES = 3  # starts, of which the shortest counts: what else runs on the machine only adds to it
_GPU_TAG = "smrl:gpu"
_GPU_ROW = "the image for GPUs"
# Sums the memory of all processes but the one that asks: what they alone have, and their part of what they share.
_SUM_MEMORY = """
import os, pathlib, re
total = 0
for path in pathlib.Path("/proc").glob("[0-9]*/smaps_rollup"):
    if path.parent.name != str(os.getpid()):
        try:
            total += int(re.search(r"^Pss: +([0-9]+)", path.read_text(), re.M)[1]) * 1024
        except (OSError, TypeError):
            pass
print(total)
"""


def measure_layers(docker: Docker, image: str) -> list[tuple[str, float]]:
    """Layers of an image, the base as one, with their size in MB of 10^6 bytes as Docker counts."""
    lines = docker("history", "--human=false", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", image)
    steps = [(int(size) / 1e6, made) for size, made in re.findall(r"^(\d+)\t(.*)$", lines, re.M)][::-1]
    first_own = next(at for at, (_, made) in enumerate(steps) if "SAGEMAKER_TRAINING_MODULE" in made)
    own = [size for size, _ in steps[first_own:] if size > 0.001]
    names = ("packages", "/opt/ml and bytecode of Python's library", "smrl and its compiled kernels")
    assert len(own) in (2, len(names)), own  # Debian's Python comes with its bytecode
    named = names if len(own) == len(names) else (names[0], names[2])
    return [("base: Debian, Python", sum(size for size, _ in steps[:first_own])), *zip(named, own, strict=True)]


def measure_gpu_image(docker: Docker) -> str:
    """The size of `make image-gpu`'s image in MB; where there is none, as the page has it."""
    if docker.try_("image", "inspect", _GPU_TAG).returncode:
        found = re.search(rf"^\| {re.escape(_GPU_ROW)} \| – \| (.+?) MB \|$", _PAGE.read_text(), re.M)
        return found[1] if found else "–"
    return f"{sum(size for _, size in measure_layers(docker, _GPU_TAG)):,.0f}"


def measure_packages(docker: Docker, image: str, count: int = 12) -> list[tuple[str, float]]:
    """The largest packages of an image, with their libraries, in MB."""
    folder = "/opt/smrl/lib/python3.11/site-packages"
    sizes: dict[str, float] = {}
    for line in docker("run", "--rm", "--entrypoint", "sh", image, "-c", f"cd {folder}; du -s -B1 -- *").splitlines():
        size, _, name = line.partition("\t")
        package = name.removesuffix(".libs").partition(".cpython")[0]
        sizes[package] = sizes.get(package, 0) + int(size) / 1e6
    return sorted(sizes.items(), key=lambda item: -item[1])[:count]


def measure_rebuild(docker: Docker, tag: str) -> float:
    """Seconds of a build after a change of one line of smrl's code, in a copy of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "smrl"
        ignore = shutil.ignore_patterns(".venv", ".git", "__pycache__", "results", ".*_cache", "node_modules")
        shutil.copytree(ROOT, copy, ignore=ignore)
        build_cpu_image(docker, tag, copy)  # as it is: a copy has other times of change, and the first build its cache
        with (copy / "runtime" / "cli.py").open("a") as file:
            file.write(f"# {time.time()}\n")
        began = time.monotonic()
        build_cpu_image(docker, tag, copy)
        return time.monotonic() - began


def measure_first_metrics(docker: Docker, image: str) -> float:
    """Seconds from `docker run … train` to the first line of metrics; one iteration of 64 steps is a tenth of it."""
    began = time.monotonic()
    container = docker.start(image, "train", *TINY_WORDS, "rl.training.stop.training_iteration=1")
    _wait_for(lambda: "training_iteration: 1 " in docker("logs", container))
    seconds = time.monotonic() - began
    docker.remove_containers()
    return seconds


@contextlib.contextmanager
def trained_volume(docker: Docker, image: str) -> Iterator[str]:
    """A volume with a trained model below `model`."""
    volume = docker("volume", "create").strip()
    try:
        words = ("train", *TINY_WORDS, "rl.training.export=true", "rl.training.stop.training_iteration=1")
        code, out = docker.run(image, *words, options=("--volume", f"{volume}:/opt/ml"))
        assert code == 0, out
        yield volume
    finally:
        docker.remove_containers()  # which hold it
        docker("volume", "rm", "--force", volume)


def measure_serving(docker: Docker, image: str, volume: str) -> tuple[float, float]:
    """Seconds from `docker run … serve` to the first 200 of /ping, and MB of memory then, with one worker."""
    began = time.monotonic()
    options = ("--volume", f"{volume}:/opt/ml:ro", "--publish", "127.0.0.1::8080")
    container = docker.start(image, "serve", options=(*options, "--env", "SAGEMAKER_MODEL_SERVER_WORKERS=1"))
    port = docker("port", container, "8080").strip().splitlines()[0].rpartition(":")[2]
    _wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"))
    seconds = time.monotonic() - began
    memory = int(docker("exec", container, "python", "-c", _SUM_MEMORY)) / 1e6
    docker.remove_containers()
    return seconds, memory


def answers(url: str) -> bool:
    """Whether a GET gets a 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _wait_for(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write_page(docker: Docker, tag: str) -> None:
    """Measures, and writes the page."""
    layers = measure_layers(docker, tag)
    total = sum(size for _, size in layers)
    packages = measure_packages(docker, tag)
    rest = layers[1][1] - sum(size for _, size in packages)
    first = min(measure_first_metrics(docker, tag) for _ in range(_TRIES))
    with trained_volume(docker, tag) as volume:
        ready, memory = min(measure_serving(docker, tag, volume) for _ in range(_TRIES))
    rebuild = measure_rebuild(docker, f"{tag}-rebuilt")
    docker("rmi", f"{tag}-rebuilt")
    text = f"""# The CPU image, measured

`python -m benchmarks.image` with Docker {docker("version", "--format", "{{.Server.Version}}").strip()} on 2 cores
{platform.machine().replace("_", "-")}. Starts are the shortest of {_TRIES}. `make test-docker`
fails above the size and the memory; times are goals.

| | at most | measured |
|---|--:|--:|
| the image | {SIZE_MB:,} MB | {total:,.0f} MB |
| a rebuild after a change of smrl's code | {REBUILD_S} s | {rebuild:.0f} s |
| `train` to its first metrics | {FIRST_METRICS_S} s | {first:.1f} s |
| `serve` to its first 200, one worker | {READY_S} s | {ready:.1f} s |
| its memory | {SERVING_MB} MB | {memory:.0f} MB |
| {_GPU_ROW} | – | {measure_gpu_image(docker)} MB |

## Its layers

| layer | MB |
|---|--:|
{chr(10).join(f"| {name} | {size:,.0f} |" for name, size in layers)}

## The layer of the packages

| package, with its libraries | MB |
|---|--:|
{chr(10).join(f"| {name} | {size:,.0f} |" for name, size in packages)}
| all others | {rest:,.0f} |
"""
    _PAGE.write_text(text)
    print(text)


if __name__ == "__main__":
    found = Docker.find()
    if found is None:
        sys.exit("no Docker daemon answers; start Docker, or set DOCKER_HOST")
    try:
        given = sys.argv[1] if len(sys.argv) > 1 else "smrl:cpu"
        if found.try_("image", "inspect", given).returncode:
            build_cpu_image(found, given)
        write_page(found, given)
    except NoDockerError as error:
        sys.exit(str(error))
