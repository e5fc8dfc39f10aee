"""Builds an image, after a look at what would stop it: `make image` and `make image-gpu`.

Run: python images/build.py cpu|gpu [--tag NAME] [--platform P] [words for `docker build`]. In the environment,
TORCH_INDEX is the URL of PyTorch's wheels, and BASE an image to build on in the place of the Dockerfile's.
"""

from __future__ import annotations

import argparse
import configparser
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
# What a build takes beside the image: layers of its stages, and what pip unpacks.
_NEEDED_GB = {"cpu": 8, "gpu": 30}
_PLATFORM = "linux/amd64"
_MACHINES = ("x86_64", "AMD64", "amd64")


class BuildError(Exception):
    """A build cannot start or finish; its text is the one line that the user sees."""


def check_daemon() -> str:
    """Where the Docker daemon keeps its images.

    Raises:
        BuildError: There is no client, or no daemon answers it.
    """
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if shutil.which("docker") is None:
        raise BuildError("docker: got no such command; expected Docker's client. Install Docker.")
    done = _ask("info", "--format", "{{.DockerRootDir}}")
    if done.returncode or not done.stdout.strip():
        reason = (done.stderr.strip() or "no answer").splitlines()[-1]
        if "permission denied" in reason:
            raise BuildError(
                f"{where}: got no permission for the Docker daemon; expected root or a member of the group docker. "
                "Run it as root, or: usermod -aG docker USER."
            )
        raise BuildError(
            f"{where}: got no answer from a Docker daemon ({reason}); expected a running one. Start Docker, or set "
            "DOCKER_HOST."
        )
    return done.stdout.strip()


def check_disk(folder: str, kind: str) -> None:
    """Does nothing where the daemon is another machine's.

    Args:
        folder: Where the daemon keeps its images.
        kind: `cpu` or `gpu`.

    Raises:
        BuildError: The disk has no room for the build.
    """
    if not Path(folder).is_dir():
        return
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < _NEEDED_GB[kind]:
        raise BuildError(
            f"{folder}: got {free_gb:.1f} GB of free disk; expected {_NEEDED_GB[kind]} GB for the {kind} image. "
            "Make room, for example with docker system prune."
        )


def check_platform(asked: str) -> None:
    """Refuses platforms other than the one that the packages are pinned for.

    Args:
        asked: Platform that is asked for; empty for the daemon's own.

    Raises:
        BuildError: It is another.
    """
    if asked:
        is_right, got = asked == _PLATFORM, asked
    else:
        done = _ask("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")
        got = done.stdout.strip() or f"linux/{platform.machine()}"
        is_right = got == _PLATFORM or got.split("/")[-1] in _MACHINES
    if not is_right:
        raise BuildError(
            f"platform: got {got}; expected {_PLATFORM}, which every package is pinned for. Add --platform {_PLATFORM}."
        )


def build_command(kind: str, tag: str, asked_platform: str, more: Sequence[str]) -> list[str]:
    """The words of `docker build`.

    Raises:
        BuildError: It is not said where PyTorch's CPU wheels are.
    """
    index, base = os.environ.get("TORCH_INDEX", ""), os.environ.get("BASE", "")
    if kind == "cpu" and not index:
        raise BuildError(
            "TORCH_INDEX: got nothing; expected the URL of PyTorch's CPU wheels, which PyTorch's installation page has."
        )
    setup = configparser.ConfigParser()
    setup.read(_ROOT / "setup.cfg", encoding="utf-8")
    arguments = {"TORCH_INDEX": index, "BASE": base, "VERSION": setup["metadata"]["version"], "REVISION": _revision()}
    command = ["docker", "build", "--file", str(_ROOT / f"Dockerfile.{kind}"), "--tag", tag]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"] if value else []
    command += ["--platform", asked_platform] if asked_platform else []
    return [*command, *more, str(_ROOT)]


def _revision() -> str:
    """The commit, with `-dirty` where files differ from it; empty outside a repository."""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=40", "--exclude", "*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Builds; returns docker's exit code, or 2 for what stops a build."""
    parser = argparse.ArgumentParser(description="Builds an image of smrl.")
    parser.add_argument("kind", choices=sorted(_NEEDED_GB))
    parser.add_argument("--tag", default="")
    parser.add_argument("--platform", default="")
    given, more = parser.parse_known_args(argv)
    try:
        if given.platform:
            check_platform(given.platform)
        command = build_command(given.kind, given.tag or f"smrl:{given.kind}", given.platform, more)
        folder = check_daemon()
        check_platform(given.platform)
        check_disk(folder, given.kind)
    except BuildError as error:
        sys.stderr.write(f"make image: {error}\n")
        return 2
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
