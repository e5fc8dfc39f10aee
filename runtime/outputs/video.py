"""Video files: H.264 in mp4, and small GIFs for TensorBoard."""

from __future__ import annotations

import math
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.container.scratch import scratch_folder

_HEIGHT = 240
DEFAULT_FPS = 30


def as_gif(path: Path, *, height: int = 160, most_frames: int = 60) -> tuple[bytes, tuple[int, int]]:
    """Converts an mp4 to a small GIF.

    Args:
        path: The mp4.
        height: Height of the GIF in pixels; its width follows.
        most_frames: Frames are left out evenly above that.

    Returns:
        The bytes, and width and height.
    """
    import io

    import av
    from PIL import Image

    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        every = max(1, math.ceil((stream.frames or most_frames) / most_frames))
        size = (round(stream.width * height / stream.height), height)
        kept = [frame for number, frame in enumerate(video.decode(stream)) if number % every == 0]
        if not kept:
            raise ValueError(f"{path}: got a video without frames")
        images = [Image.fromarray(frame.to_ndarray(format="rgb24", width=size[0], height=size[1])) for frame in kept]
        fps = float(stream.average_rate or DEFAULT_FPS)
    # Pillow's own way to 256 colors (median cut) takes ten times as long, and loses the color of small objects.
    frames = [image.quantize(method=Image.Quantize.FASTOCTREE) for image in images]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * every / fps), loop=0)
    return file.getvalue(), size


def poster_of(path: Path, *, at_s: float = 1.0) -> bytes | None:
    """Takes a frame of a video as JPEG, to be shown until it plays.

    Args:
        path: The mp4.
        at_s: Its second; of a shorter video, the last frame.

    Returns:
        The bytes; None of a file that is no video.
    """
    import io

    import av

    frame = None
    try:
        with av.open(str(path)) as video:
            for frame in video.decode(video=0):
                if frame.time is not None and frame.time >= at_s:
                    break
    except (OSError, ValueError, IndexError):  # av's errors are of these; IndexError: there is no video in it
        return None
    if frame is None:
        return None
    file = io.BytesIO()
    frame.to_image().save(file, "JPEG", quality=80)
    return file.getvalue()


class Mp4Writer:
    """Encodes frames as H.264, one encoder thread; the file appears when it is closed.

    It is encoded in a temporary file elsewhere and written in one go under its own name: SageMaker's uploader acts
    when a file is closed, knows nothing of renames, and would find a file that was written aside gone.

    Args:
        path: Path of the file.
        fps: Frames a second when played.
        height: Pixels; the width follows from the frames.
    """

    def __init__(self, path: Path, *, fps: float, height: int = _HEIGHT) -> None:
        import av

        self._av = av
        self._path = path
        self._fps = fps
        self._height = height
        self._aside = tempfile.NamedTemporaryFile(suffix=".mp4", dir=scratch_folder())  # noqa: SIM115  # closed by close()
        self._container: Any = av.open(self._aside.name, "w", format="mp4", options={"movflags": "+faststart"})
        self._stream: Any = None

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Adds a frame (H, W, 3) uint8; all of a file have one size."""
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if self._stream is None:
            self._open_stream(frame.width / frame.height)
        stream = self._stream
        self._container.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))

    def _open_stream(self, aspect: float) -> None:
        stream = self._stream = self._container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1000))
        stream.height = self._height
        stream.width = round(self._height * aspect / 2) * 2  # 4:2:0 needs even sides
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        stream.codec_context.thread_count = 1

    def close(self) -> None:
        """Ends the video and writes its file; one without frames is dropped."""
        if self._stream is None:
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(Path(self._aside.name).read_bytes())
        self._aside.close()
