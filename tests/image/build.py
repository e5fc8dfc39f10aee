"""Builds an image without a container engine: a Dockerfile's steps, run in Debian roots by chroot.

What is understood is what our Dockerfiles use: ARG, FROM with stages, SHELL, RUN, COPY, LABEL, ENV, WORKDIR, EXPOSE,
HEALTHCHECK, ENTRYPOINT, CMD. The base image `python:3.11-slim-bookworm` is Debian's bookworm with Debian's Python 3.11.

Run: python -m tests.image.build Dockerfile.cpu FOLDER, as root, with debootstrap. Variables of the environment:
IMAGE_BUILD_ARGS (NAME=VALUE words) and IMAGE_BINDS (paths, by colons, that steps may read, as pip's own settings).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
_RELEASE = "bookworm"
# What the base image has beside Debian's least; its headers, for the stage that compiles.
_PYTHON, _HEADERS = "python3.11-venv ca-certificates", "python3.11-dev"
# This machine's names and certificates, the latter at a place of their own, as Debian's package writes the usual one.
_CERTIFICATES = "/run/build-certificates.crt"
_READ = ("/etc/resolv.conf", f"/etc/ssl/certs/ca-certificates.crt:{_CERTIFICATES}")


@dataclass
class Image:
    """A root folder and how it is started.

    Attributes:
        root: The folder.
        environment: Of its processes.
        entrypoint: What `docker run` starts.
        command: Its words where none are given.
        shell: Of RUN.
    """

    root: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])

    def enter(self, words: Iterable[str], *, binds: Iterable[str] = (), hostname: str = "") -> list[str]:
        """The command that runs words in it: own mounts, processes, and host name.

        Args:
            words: The program and its arguments.
            binds: `HERE:THERE` folders and files that it sees, and may change only with `:rw` behind.
            hostname: Of the container.
        """
        lines = ["set -e", f"mount -t proc proc {self.root}/proc", f"mount --rbind /dev {self.root}/dev"]
        lines.append(f"mount -t tmpfs -o size=64m tmpfs {self.root}/dev/shm")  # as Docker's is
        for bind in binds:
            here, there, mode = (*bind.split(":"), "", "")[:3]
            target = f"{self.root}{there or here}"
            make = f"mkdir -p {shlex.quote(target)}"
            if Path(here).is_file():
                make = f"mkdir -p {shlex.quote(str(Path(target).parent))}; touch {shlex.quote(target)}"
            lines += [make, f"mount --bind {shlex.quote(str(Path(here).resolve()))} {shlex.quote(target)}"]
            if mode != "rw":  # a package's script would write into what is this machine's own
                lines.append(f"mount -o remount,bind,ro {shlex.quote(target)}")
        if hostname:
            lines.append(f"hostname {shlex.quote(hostname)}")
        # Two exec's: the shell, the mounts done, becomes chroot, and that the program, which is process 1 then.
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        lines.append("exec " + shlex.join(["chroot", str(self.root), "/usr/bin/env", "-i", *variables, *words]))
        return ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "sh", "-c", "\n".join(lines)]


def make_base(folder: Path) -> Path:
    """Debian with Python, as the base image has it; what is there already is taken as it is."""
    base = folder / "base"
    if (base / "usr/local/bin/python3").is_symlink():
        return base
    shutil.rmtree(base, ignore_errors=True)
    _run(["debootstrap", "--variant=minbase", _RELEASE, str(base)])
    image = Image(base)
    _install(image, _PYTHON)
    for name in ("python", "python3"):
        (base / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    return base


def _install(image: Image, packages: str) -> None:
    install = f"apt-get update -qq && apt-get install -qq --yes --no-install-recommends {packages} && apt-get clean"
    _run(image.enter(["/bin/sh", "-c", install], binds=_binds()))
    shutil.rmtree(image.root / "var/lib/apt/lists", ignore_errors=True)


def build(dockerfile: Path, folder: Path, arguments: dict[str, str]) -> Image:
    """Runs a Dockerfile's steps; the last stage's image."""
    base = make_base(folder)
    stages: dict[str, Image] = {}
    image, given = Image(base), dict[str, str]()
    with dockerfile.open("rb") as file:
        steps = [step for step in DockerfileParser(fileobj=file).structure if step["instruction"] != "COMMENT"]
    for step in steps:
        name, value, began = step["instruction"], step["value"], time.monotonic()
        if name == "FROM":
            given = {}  # those of one stage are unknown to the next
            label = value.split(" AS ")[1] if " AS " in value else "final"
            image = stages[label] = Image(folder / label)
            shutil.rmtree(image.root, ignore_errors=True)
            _run(["cp", "--archive", "--reflink=auto", str(base), str(image.root)])
            if label == "builder":
                _install(image, _HEADERS)
        elif name == "ARG":
            key, _, default = value.partition("=")
            given[key] = arguments.get(key, default.strip('"'))
        elif name == "RUN":
            inner = Image(image.root, {**image.environment, **given, **_pip_settings()})
            _run(inner.enter([*image.shell, value], binds=_binds()))
        elif name == "COPY":
            _copy(value, image, stages)
        elif name not in ("LABEL", "EXPOSE", "HEALTHCHECK", "WORKDIR"):
            _note(name, value, image)
        print(f"{time.monotonic() - began:6.1f} s  {name} {' '.join(value.split())[:90]}", flush=True)
    return image


def _note(name: str, value: str, image: Image) -> None:
    """Steps that change how an image is started."""
    if name == "ENV":
        for word in shlex.split(value):
            key, _, text = word.partition("=")
            image.environment[key] = text.replace("$PATH", image.environment["PATH"])
    elif name in ("SHELL", "ENTRYPOINT", "CMD"):
        setattr(image, {"SHELL": "shell", "ENTRYPOINT": "entrypoint", "CMD": "command"}[name], json.loads(value))
    else:
        raise ValueError(f"{name} is not understood")


def _copy(value: str, image: Image, stages: dict[str, Image]) -> None:
    words = value.split()
    source_root = ROOT
    if words[0].startswith("--from="):
        source_root = stages[words.pop(0).removeprefix("--from=")].root
    source, target = words
    there = Path(f"{image.root}{target}")
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    if source_root == ROOT and source != "." and source.split("/")[0] not in allowed:
        raise ValueError(f"COPY {source}: .dockerignore leaves it out")
    if source == ".":
        there.mkdir(parents=True)
        for name in allowed:
            _run(["cp", "--archive", str(ROOT / name), str(there)])
        _run(["find", str(there), "-name", "__pycache__", "-exec", "rm", "-rf", "{}", "+"])
        return
    there.parent.mkdir(parents=True, exist_ok=True)
    _run(["cp", "--archive", f"{source_root}/{source.lstrip('/')}", str(there)])


def _binds() -> list[str]:
    own = [path for path in os.environ.get("IMAGE_BINDS", "").split(":") if path]
    return [path for path in (*_READ, *own) if Path(path.partition(":")[0]).exists()]


def _pip_settings() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return {**own, "PIP_CERT": _CERTIFICATES}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)[-300:]}\nended with {done.returncode}:\n{done.stdout[-3000:]}")


def count_megabytes(folder: Path) -> float:
    """What a root takes, in MB of 10^6 bytes as Docker counts."""
    done = subprocess.run(["du", "-sx", "--block-size=1", str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[0]) / 1e6


if __name__ == "__main__":
    given_arguments = dict(word.split("=", 1) for word in shlex.split(os.environ.get("IMAGE_BUILD_ARGS", "")))
    made = build(Path(sys.argv[1]), Path(sys.argv[2]), given_arguments)
    print(f"{count_megabytes(made.root):,.0f} MB: {made.root}")
    (Path(sys.argv[2]) / "image.json").write_text(
        json.dumps({"root": str(made.root), "environment": made.environment, "entrypoint": made.entrypoint})
    )
