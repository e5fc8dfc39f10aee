"""Videos of a race: all trials in one file of each camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.deepracer.racing import read_options
from runtime.container.signals import StopRequest
from runtime.families.deepracer.races import Racer, Result, run_race

LEFT, STRAIGHT_ON, RIGHT = 4, 2, 0


def record(folder: Path, *, trials: int, actions: tuple[int, ...] = (LEFT,), **rules: Any) -> list[Result]:
    """Races cars that take one action again and again."""
    options = read_options(track="oval", is_training=False, **rules)

    def driver(action: int) -> Any:
        return lambda pictures: np.eye(5, dtype=np.float32)[[action]]

    racers = [Racer(f"car {action}", driver(action), options.metadata, "a title") for action in actions]
    stop = StopRequest()
    results = run_race(options, racers, trials=trials, videos=folder, stop=stop, seed=0)
    stop.release()
    return results


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


@pytest.mark.parametrize("rules", [{}, {"is_continuous": True, "number_of_resets": 2, "off_track_penalty": 0.5}])
def test_a_video_has_all_trials_and_ends_dark(tmp_path: Path, rules: dict[str, Any]) -> None:
    (result,) = record(tmp_path, trials=3, **rules)
    assert len(result.traces) == (1 if rules else 3)
    steps = sum(len(trace) for trace in result.traces)
    lengths = set()
    for camera in ("camera-pip", "camera-45degree", "camera-topview"):
        assert [path.name for path in (tmp_path / camera).iterdir()] == ["0-video.mp4"]
        lengths.add(len(frames_of(tmp_path / camera / "0-video.mp4")))
    (length,) = lengths  # the same for all three, which can be watched side by side
    pauses = 24 * (len(result.traces) - 1) + 36
    assert length == steps + len(result.traces) + pauses
    with_display, plain = (frames_of(tmp_path / camera / "0-video.mp4") for camera in ("camera-pip", "camera-45degree"))
    assert with_display[-1].mean() < 0.4 * with_display[0].mean()
    assert plain[-1].mean() > 0.8 * plain[0].mean()
    bottom = slice(250, None)
    difference = np.abs(with_display[5].astype(int) - plain[5])
    assert difference[:40, :300].mean() > 20
    assert difference[bottom].mean() < 2


def test_the_video_of_a_race_of_two_goes_on_with_the_car_that_still_drives(tmp_path: Path) -> None:
    results = record(tmp_path, trials=1, actions=(LEFT, STRAIGHT_ON), race_type="HEAD_TO_MODEL")
    longest = max(len(result.traces[0]) for result in results)
    assert len(results[0].traces[0]) != len(results[1].traces[0])
    assert len(frames_of(tmp_path / "camera-pip" / "0-video.mp4")) == longest + 1 + 36
