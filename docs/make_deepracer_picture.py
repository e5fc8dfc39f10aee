"""Draws docs/deepracer.png: driven lines, a frame of the evaluation's video, and what the network sees.

Run: .venv/bin/python docs/make_deepracer_picture.py RESULTS, after `smrl evaluate RESULTS`
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import gymnasium
import numpy as np
from PIL import Image

import envs

_HEIGHT = 360
_FRAME = 100


def main(results: Path) -> None:
    """Writes the picture beside this file."""
    lines = Image.open(results / "evaluation" / "driven_lines.png")
    with av.open(str(results / "evaluation" / "mp4" / "camera-pip" / "0-video.mp4")) as container:
        frame = [frame.to_image() for frame in container.decode(video=0)][_FRAME]
    env = gymnasium.make(envs.DEEPRACER_ID, start_position_offset=0.35)
    seen = Image.fromarray(env.reset(seed=0)[0][:, :, 0])
    parts = [part.convert("RGB") for part in (lines, frame, seen)]
    strip = [part.resize((round(part.width * _HEIGHT / part.height), _HEIGHT)) for part in parts]
    joined = np.concatenate([np.asarray(part) for part in strip], axis=1)
    Image.fromarray(joined).save(Path(__file__).with_name("deepracer.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
