"""A Docker daemon as tests use it: the one that runs, or one of their own, and images and containers of it.

`Docker.find()` is the daemon that DOCKER_HOST or Docker's own socket leads to. `own_daemon` starts one in a folder; it
takes root, and dockerd. `build_cpu_image` builds with the real Dockerfile.

Variables of the environment, none of them needed:

- SMRL_TEST_IMAGE: an image to test in the place of a newly built one.
- SMRL_TEST_GPU_IMAGE: the image of `make image-gpu`. Without it, that image is not tested: it takes 30 GB of disk.
- SMRL_TEST_BASE: an image to build on. Without it, the Dockerfile's own is pulled; where that fails, debootstrap
  makes Debian with Python.
- SMRL_TEST_DOCKER: a folder for a daemon of the tests' own; what it has built stays there for the next run.
- TORCH_INDEX: the URL of PyTorch's CPU wheels. Without it, the wheel is what `pip download` finds, served on loopback.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT

_BASE_TAG = "smrl-test-base:python3.11-bookworm"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_DAEMON_S = 60
_STOP_S = 30
_BUILD_S = 3600
# The index's URL is an argument of the build: another port, and Docker would build all layers again.
_INDEX_PORT = 47113


class NoDockerError(Exception):
    """Why there is nothing to test with."""


@dataclass
class Docker:
    """A daemon.

    Attributes:
        host: Its socket, as DOCKER_HOST says it; empty for Docker's own.
    """

    host: str = ""
    _started: list[str] = field(default_factory=list)

    @classmethod
    def find(cls) -> Docker | None:
        """The daemon that runs; None where none answers."""
        found = cls(os.environ.get("DOCKER_HOST", ""))
        return found if shutil.which("docker") and found.try_("info", timeout_s=_DAEMON_S).returncode == 0 else None

    @property
    def environment(self) -> dict[str, str]:
        """Of a client."""
        return {**os.environ, **({"DOCKER_HOST": self.host} if self.host else {})}

    def try_(self, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs the client; its exit code may be any. What it prints comes together."""
        return subprocess.run(
            ["docker", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def __call__(self, *words: str, timeout_s: float = 300) -> str:
        """Runs the client to a good end."""
        done = self.try_(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout[-3000:]}"
        return done.stdout

    def start(self, image: str, *words: str, options: tuple[str, ...] = ()) -> str:
        """Starts a container, which `remove_containers` removes; its id."""
        container = self("run", "--detach", *options, image, *words).strip().splitlines()[-1]
        self._started.append(container)
        return container

    def run(self, image: str, *words: str, options: tuple[str, ...] = (), timeout_s: float = 300) -> tuple[int, str]:
        """Runs a container to its end: exit code, and what it printed."""
        done = self.try_("run", "--rm", *options, image, *words, timeout_s=timeout_s)
        return done.returncode, done.stdout

    def wait(self, container: str, *, timeout_s: float = 300) -> int:
        """A container's exit code, once it has ended."""
        return int(self("wait", container, timeout_s=timeout_s).strip())

    def inspect(self, what: str, template: str) -> str:
        """A part of what Docker knows of an image or a container."""
        return self("inspect", "--format", template, what).strip()

    def remove_containers(self) -> None:
        """Removes what `start` has started."""
        while self._started:
            self.try_("rm", "--force", "--volumes", self._started.pop())


@contextlib.contextmanager
def own_daemon(folder: Path) -> Iterator[Docker]:
    """A daemon whose images, sockets and state are below a folder; it ends with the block, and its processes with it.

    Raises:
        NoDockerError: It takes root and dockerd, or did not start.
    """
    for name in ("docker", "dockerd"):
        if shutil.which(name) is None:
            raise NoDockerError(
                f"no Docker daemon answers, and {name} is not installed (Debian: apt-get install docker.io)"
            )
    if os.geteuid() != 0:
        raise NoDockerError("no Docker daemon answers, and only root can start one")
    folder.mkdir(parents=True, exist_ok=True)
    # A path of a socket has 107 bytes.
    state = Path(tempfile.mkdtemp(prefix="smrl-docker-", dir="/tmp"))
    log = (folder / "dockerd.log").open("w")
    host, ulimit = f"unix://{state}/docker.sock", "nofile=1024:1024"
    command = ["dockerd", "--data-root", str(folder / "data"), "--exec-root", str(state / "exec"), "--host", host]
    command += ["--pidfile", str(state / "pid"), "--default-ulimit", ulimit]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    docker = Docker(host)
    try:
        deadline = time.monotonic() + _DAEMON_S
        while docker.try_("info").returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                last = (folder / "dockerd.log").read_text().splitlines()[-1:]
                raise NoDockerError(f"no Docker daemon answers, and dockerd does not start: {' '.join(last)}")
            time.sleep(0.2)
        yield docker
    finally:
        docker.remove_containers()
        process.send_signal(signal.SIGTERM)  # it stops its containers, and containerd
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        for namespace in state.glob("exec/netns/*"):  # which dockerd leaves mounted
            subprocess.run(["umount", str(namespace)], check=False)
        shutil.rmtree(state)


def build_cpu_image(docker: Docker, tag: str, source: Path = ROOT) -> str:
    """Builds the CPU image by `images/build.py`, as `make image` does; returns what was printed.

    Args:
        docker: The daemon.
        tag: Name of the image.
        source: A checkout.

    Raises:
        NoDockerError: There is no base image, or no wheel of PyTorch.
    """
    base = find_base(docker)
    with torch_index() as index:
        done = subprocess.run(
            [sys.executable, "images/build.py", "cpu", "--tag", tag, *build_words()],
            cwd=source,
            env={**docker.environment, "TORCH_INDEX": index, "BASE": base},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BUILD_S,
            check=False,
        )
    if done.returncode == 2:
        raise NoDockerError(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def build_words() -> list[str]:
    """For `docker build`: its steps reach this machine's loopback, and the network as this machine does."""
    words = ["--network", "host"]
    for name in _PROXIES:
        words += ["--build-arg", name] if name in os.environ else []
    return words


def find_base(docker: Docker) -> str:
    """The image to build on: empty for the Dockerfile's own.

    Raises:
        NoDockerError: It cannot be pulled, and no other can be made.
    """
    if base := os.environ.get("SMRL_TEST_BASE"):
        return base
    if docker.try_("image", "inspect", _BASE_TAG).returncode == 0:
        return _BASE_TAG
    found = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile.cpu").read_text(), re.M)
    assert found is not None
    pulled = docker.try_("pull", "--quiet", found[1])
    if pulled.returncode == 0:
        return ""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        why = pulled.stdout.strip().splitlines()[-1]
        raise NoDockerError(
            f"the base image cannot be pulled ({why}), and without debootstrap and root none can be made"
        )
    _make_base(docker)
    return _BASE_TAG


def _make_base(docker: Docker) -> None:
    """Debian bookworm with its Python 3.11 and Python's headers, and the certificates of this machine."""
    with tempfile.TemporaryDirectory(prefix="smrl-base-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        _run("debootstrap", "--variant=minbase", "bookworm", str(root))
        install = (
            "mount -t proc proc /proc && apt-get update -qq"
            " && apt-get install -qq --yes --no-install-recommends python3.11-venv python3.11-dev ca-certificates"
            # The headers stay, without what compiles.
            " && tar -cf /h.tar /usr/include/python3.11 /usr/include/x86_64-linux-gnu/python3.11"
            " && apt-get purge -qq --yes --autoremove python3.11-dev && tar -C / -xf /h.tar && rm /h.tar"
            " && apt-get clean && rm -rf /var/lib/apt/lists/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/*"
            " && ln -s /usr/bin/python3.11 /usr/local/bin/python3 && ln -s python3 /usr/local/bin/python"
        )
        # A namespace of its own: what is mounted goes with the process.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run("unshare", "--mount", "chroot", str(root), "/bin/sh", "-c", install, environment=environment)
        changes, here = ['CMD ["python3"]'], Path("/") / _CERTIFICATES
        if here.is_file():
            shutil.copy(here, root / _CERTIFICATES)
            changes.append(f"ENV PIP_CERT=/{_CERTIFICATES}")
        archive = Path(folder) / "base.tar"
        _run("tar", "-C", str(root), "-cf", str(archive), ".")
        docker("import", *(f"--change={change}" for change in changes), str(archive), _BASE_TAG)


@contextlib.contextmanager
def torch_index() -> Iterator[str]:
    """The URL of an index that has the CPU image's torch.

    Raises:
        NoDockerError: pip finds no such wheel.
    """
    if index := os.environ.get("TORCH_INDEX"):
        yield index
        return
    found = re.search(r"^torch==(\S+) ", (ROOT / "images" / "cpu.txt").read_text(), re.M)
    assert found is not None
    with tempfile.TemporaryDirectory(prefix="smrl-torch-") as folder:
        wheels = Path(folder) / "simple" / "torch"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
        done = subprocess.run([*command, f"torch=={found[1]}"], capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
            raise NoDockerError(
                f"no wheel of torch {found[1]} ({why}); set TORCH_INDEX to the URL of PyTorch's CPU wheels"
            )
        handler = functools.partial(_Quiet, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", _free_port()), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/simple"
            finally:
                server.shutdown()


def _free_port() -> int:
    """The usual port of the index, or 0 for any where another process has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _INDEX_PORT))
        except OSError:
            return 0
    return _INDEX_PORT


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""


def _run(*command: str, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment
    )
    if done.returncode:
        raise NoDockerError(f"{command[0]} ended with {done.returncode}: {done.stdout[-300:]}")


def layers(docker: Docker, image: str) -> list[str]:
    """Digests of an image's layers, the base's first."""
    found: list[str] = json.loads(docker.inspect(image, "{{json .RootFS.Layers}}"))
    return found
