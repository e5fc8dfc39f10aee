"""What stops a build is said in one line, before Docker is asked for anything large."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def build(*words: str, **environment: str) -> tuple[int, str]:
    """Runs `images/build.py`: exit code, and what it printed."""
    command = [sys.executable, str(ROOT / "images" / "build.py"), *words]
    given = {**os.environ, "TORCH_INDEX": "http://127.0.0.1:1/simple", **environment}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=given, check=False, timeout=60
    )
    return done.returncode, done.stdout


def add_client(folder: Path, answers: dict[str, str]) -> str:
    """A `docker` that answers `info` and `version` as a daemon would that cannot be had here; its folder."""
    cases = "".join(f"{word}) echo '{answer}';;\n" for word, answer in answers.items())
    client = folder / "docker"
    client.write_text(f"#!/bin/sh\ncase $1 in\n{cases}*) echo unexpected: $*; exit 1;;\nesac\n")
    client.chmod(0o755)
    return str(folder)


def test_without_a_client(tmp_path: Path) -> None:
    code, out = build("cpu", PATH=str(tmp_path))
    assert code == 2
    assert out == "make image: docker: got no such command; expected Docker's client. Install Docker.\n"


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs Docker's client")
def test_without_a_daemon(tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/none.sock"
    code, out = build("cpu", DOCKER_HOST=host)
    assert code == 2
    assert re.fullmatch(
        rf"make image: {host}: got no answer from a Docker daemon \(.*\); expected a running one\. "
        r"Start Docker, or set DOCKER_HOST\.\n",
        out,
    )


def test_without_the_rights_to_ask_the_daemon(tmp_path: Path) -> None:
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho 'dial unix /var/run/docker.sock: connect: permission denied' >&2; exit 1\n")
    client.chmod(0o755)
    code, out = build("cpu", PATH=str(tmp_path), DOCKER_HOST="")
    assert code == 2
    assert out == (
        "make image: unix:///var/run/docker.sock: got no permission for the Docker daemon; expected root or a member "
        "of the group docker. Run it as root, or: usermod -aG docker USER.\n"
    )


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_for_another_platform(kind: str) -> None:
    code, out = build(kind, "--platform", "linux/arm64")
    assert code == 2
    assert out == (
        "make image: platform: got linux/arm64; expected linux/amd64, which every package is pinned for. "
        "Add --platform linux/amd64.\n"
    )


def test_on_a_daemon_of_another_platform(tmp_path: Path) -> None:
    folder = add_client(tmp_path, {"info": "/var/lib/docker", "version": "linux/arm64"})
    code, out = build("cpu", PATH=f"{folder}:{os.environ['PATH']}")
    assert code == 2
    assert out.startswith("make image: platform: got linux/arm64; expected linux/amd64")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted, which takes root")
def test_without_room_on_the_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    folder = add_client(tmp_path, {"info": str(disk), "version": "linux/amd64"})
    script = f"mount -t tmpfs -o size=1m tmpfs {disk} && exec {sys.executable} {ROOT}/images/build.py cpu"
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TORCH_INDEX": "x"}
    command = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"make image: {disk}: got 0.0 GB of free disk; expected 8 GB for the cpu image. "
        "Make room, for example with docker system prune.\n"
    )


def test_without_the_place_of_pytorchs_wheels() -> None:
    code, out = build("cpu", TORCH_INDEX="")
    assert code == 2
    assert out.startswith("make image: TORCH_INDEX: got nothing; expected the URL of PyTorch's CPU wheels")
