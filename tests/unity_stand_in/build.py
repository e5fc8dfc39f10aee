"""Writes executables of the stand-in, as Unity's build writes one of a scene."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


# Of our images.
IMAGE_PYTHON = "/opt/smrl/bin/python3"


def build_player(
    folder: Path,
    scene: str,
    *,
    name: str | None = None,
    mode: str = "",
    executable: bool = True,
    is_for_image: bool = False,
) -> Path:
    """Writes an executable file that runs a scene.

    Args:
        folder: Where it is written.
        scene: Of `scenes.SCENES`.
        name: Of the file; the scene's with `.x86_64` if None.
        mode: How it misbehaves, as `crash=40`; see `player.py`.
        executable: Whether it may be executed; a file that came from S3 may not.
        is_for_image: Whether it runs in a container of our image, with a copy of this package beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"{scene}.x86_64")
    data = folder / f"{path.stem}_Data"
    data.mkdir(exist_ok=True)
    python, root = sys.executable, repr(str(_ROOT))
    if is_for_image:
        python, root = IMAGE_PYTHON, f"__file__.rpartition('/')[0] + '/{data.name}'"
        shutil.copytree(Path(__file__).parent, data / "tests" / "unity_stand_in", dirs_exist_ok=True)
    path.write_text(
        f"#!{python}\nimport sys\nsys.path.insert(0, {root})\n"
        f"from tests.unity_stand_in.player import main\nmain({scene!r}, {mode!r})\n"
    )
    path.chmod(0o755 if executable else 0o644)
    return path
