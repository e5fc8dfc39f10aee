"""Asks Docker, before a job starts, what would fail within it."""

from __future__ import annotations

import subprocess

from runtime.errors import UserError

_ECR = ".dkr.ecr."  # of an image that the SDK pulls itself, after logging in


def count_cpus() -> int:
    """The CPUs of Docker's machine.

    Raises:
        UserError: There is no Docker, or no daemon answers.
    """
    try:
        done = _docker("info", "--format", "{{.NCPU}}")
    except FileNotFoundError:
        raise UserError(
            "docker: no such program; expected Docker with Compose, which the SageMaker SDK's local mode runs. "
            "Install them, or use smrl without a container: smrl train, smrl tune."
        ) from None
    if done.returncode or not done.stdout.strip().isdigit():
        raise UserError(f"docker: {_last_line(done)}; expected a running daemon. Start Docker, or set DOCKER_HOST.")
    return max(1, int(done.stdout))


def find_image(image: str) -> None:
    """Pulls an image that is not on this machine.

    Raises:
        UserError: It is nowhere.
    """
    if _ECR in image or _docker("image", "inspect", image).returncode == 0:
        return
    pulled = _docker("pull", image)
    if pulled.returncode:
        raise UserError(
            f"image_uri: got {image!r}, which is not on this machine and cannot be pulled ({_last_line(pulled)}); "
            "expected an image. `docker images` lists them; `make image` builds smrl:cpu."
        )


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
