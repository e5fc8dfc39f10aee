"""Writes executables of the stand-in, as Unity's build writes one of a scene."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def build_player(folder: Path, scene: str, *, name: str | None = None, mode: str = "", executable: bool = True) -> Path:
    """An executable file that plays a scene.

    Args:
        folder: Where it is written.
        scene: Of `scenes.SCENES`.
        name: Of the file; the scene's with `.x86_64` if None.
        mode: How it misbehaves, as `crash=40`; see `player.py`.
        executable: Whether it may be executed; a file that came from S3 may not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"{scene}.x86_64")
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(_ROOT)!r})\n"
        f"from tests.unity_stand_in.player import main\nmain({scene!r}, {mode!r})\n"
    )
    path.chmod(0o755 if executable else 0o644)
    (folder / f"{path.stem}_Data").mkdir(exist_ok=True)
    return path
