"""Records the three videos of a race, with all its trials in each, as the original simulator did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.deepracer.hud import as_clock, draw_banner
from envs.deepracer.racing import Racing
from envs.deepracer.views import Views
from runtime.outputs.video import Mp4Writer

FPS = 15
_HEIGHT = 480
# Source of the names: DeepRacer's simulation application 6.0.5. The first one has the display over it.
_CAMERAS = ("camera-pip", "camera-45degree", "camera-topview")
_FADE_FRAMES = 12
_PAUSE_FRAMES = 12
_END_FRAMES = 24


class RaceVideos:
    """Records `camera-pip`, `camera-45degree` and `camera-topview` of a race.

    Args:
        racing: The race.
        names: Name of each racer.
        folder: Folder of the cameras' folders.
    """

    def __init__(self, racing: Racing, names: Sequence[str], folder: Path) -> None:
        self._simulation = racing.simulation
        self._names = names
        self._views = Views(racing.simulation, names)
        self._writers = [Mp4Writer(folder / name / "0-video.mp4", fps=FPS, height=_HEIGHT) for name in _CAMERAS]
        self._frames: list[NDArray[np.uint8]] = []

    def add(self) -> None:
        """Adds a frame, which follows the first car that still drives."""
        driving = np.flatnonzero(~self._simulation.has_ended)
        row = int(driving[0]) if len(driving) else 0
        follow = self._views.draw(row, "follow")
        with_display = follow.copy()
        self._views.add_display(with_display, row)
        self._frames = [with_display, follow, self._views.draw(row, "top")]
        self._write(self._frames)

    def end_trial(self, number: int, trials: int, rows: Sequence[dict[str, Any]]) -> None:
        """Shows how each racer's trial ended; none of them if it is the last one, as the end of the race follows.

        Args:
            number: Number of the trial, from 1.
            trials: Number of trials.
            rows: Each racer's row of evaluation_metrics.json.
        """
        self.add()
        if number < trials:
            lines = [_describe(row) for row in rows]
            if len(rows) > 1:
                lines = [f"{name}: {line}" for name, line in zip(self._names, lines, strict=True)]
            self._fade(f"Trial {number} of {trials}", lines, most=0.6, frames=_PAUSE_FRAMES)

    def end(self, title: str, laps: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Fades out with a title and the racers' results, and writes the files.

        Args:
            title: Title of the end.
            laps: Each racer's rows of evaluation_metrics.json.
        """
        if self._frames:
            lines = [f"{name}: {_summarize(rows)}" for name, rows in zip(self._names, laps, strict=True)]
            self._fade(title, lines, most=1.0, frames=_END_FRAMES)
        for writer in self._writers:
            writer.close()

    def _fade(self, title: str, lines: Sequence[str], *, most: float, frames: int) -> None:
        first, *others = self._frames
        for number in range(_FADE_FRAMES + frames):
            share = most * min(1.0, (number + 1) / _FADE_FRAMES)
            self._write([draw_banner(first, title, lines, share=share), *others])

    def _write(self, frames: Sequence[NDArray[np.uint8]]) -> None:
        for writer, frame in zip(self._writers, frames, strict=True):
            writer.add(frame)


def _describe(row: dict[str, Any]) -> str:
    """Describes a trial: its time, or how far it came."""
    if row["episode_status"] == "Lap complete":
        return f"lap complete, {as_clock(row['elapsed_time_in_milliseconds'] / 1000)}"
    return f"{row['episode_status'].lower()} at {row['completion_percentage']} %"


def _summarize(rows: Sequence[dict[str, Any]]) -> str:
    """Describes a race: completed laps, the best time, and resets."""
    times = [row["elapsed_time_in_milliseconds"] / 1000 for row in rows if row["episode_status"] == "Lap complete"]
    resets = sum(row["reset_count"] for row in rows)
    if len(rows) == 1:
        told = _describe(rows[0])
    else:
        told = f"{len(times)} of {len(rows)} laps" + (f", best {as_clock(min(times))}" if times else "")
    return told + (f", {resets} resets" if resets else "")
