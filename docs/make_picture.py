"""Draws docs/picture.png: frames of a trained humanoid's video above the learning curve of a reacher.

Run: .venv/bin/python docs/make_picture.py HUMANOID_RESULTS REACHER_RESULTS
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

_FRAMES = 4


def main(humanoid: Path, reacher: Path) -> None:
    """Writes the picture beside this file."""
    with av.open(str(humanoid / "videos" / "last.mp4")) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    # From the second quarter on it is in full stride; neighbors show the phases of a step.
    first = len(frames) // 4
    chosen = [frames[first + 4 * number] for number in range(_FRAMES)]
    strip = np.concatenate([np.asarray(frame)[:, 50:270] for frame in chosen], axis=1)
    curve = Image.open(reacher / "learning_curve.png").convert("RGB")
    curve = curve.resize((strip.shape[1], round(curve.height * strip.shape[1] / curve.width)), Image.Resampling.LANCZOS)
    picture = Image.fromarray(np.concatenate([strip, np.asarray(curve)], axis=0))
    picture.save(Path(__file__).with_name("picture.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
