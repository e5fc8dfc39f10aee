"""The reward functions in examples/deepracer, driven in the simulator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.deepracer import kernels
from envs.deepracer.racing import Racing, read_options
from runtime.families.deepracer.reward_check import _steer, check_reward

FOLDER = Path(__file__).parents[2] / "examples" / "deepracer"
STEADY, CLOCK = FOLDER / "steady_laps.py", FOLDER / "race_the_clock.py"


def place(racing: Racing, sideways_m: float = 0.0, turn_deg: float = 0.0, steering_deg: float = 0.0) -> float:
    """The reward of a car on the oval's first straight, moved to the left and turned."""
    simulation = racing.simulation
    racing.restart(0)
    racing.command(np.array([(0.0, 1.0)]))
    x, y, yaw = simulation.track.place(1.0, simulation.track.center).tolist()
    simulation.cars[0, :3] = (
        x - sideways_m * np.sin(yaw),
        y + sideways_m * np.cos(yaw),
        yaw + np.radians(turn_deg),
    )
    return float(racing.command(np.array([(steering_deg, 1.0)]))[0])


def test_steady_laps_pays_for_place_heading_and_calm() -> None:
    racing = Racing(read_options(track="oval", reward_function=STEADY), seed=0)
    best = place(racing)
    assert best == pytest.approx(1.0, abs=0.02)
    assert best > place(racing, sideways_m=0.1) > place(racing, sideways_m=0.2) > 0
    assert best > place(racing, turn_deg=20) > place(racing, turn_deg=50)
    assert place(racing, steering_deg=30) == pytest.approx(0.8 * best, rel=0.01)
    assert place(racing, sideways_m=3.0) == 1e-3


def drive(speed: float, *, laps: int = 1) -> list[list[float]]:
    """Rewards of race_the_clock along the center line, of each lap."""
    racing = Racing(read_options(track="oval", reward_function=CLOCK, is_training=False), seed=0)
    found: list[list[float]] = []
    for _ in range(laps):
        racing.restart(0)
        racing.command(np.array([(0.0, speed)]))
        found.append([])
        while not racing.simulation.has_ended[0]:
            angle = _steer(racing, 0, racing.simulation.track.center)
            found[-1].append(float(racing.command(np.array([(angle, speed)]))[0]))
        assert racing.measured[0, kernels.STATUS] == kernels.LAP_COMPLETE
    return found


def test_race_the_clock_pays_a_lap_by_its_time_and_every_lap_alike() -> None:
    slow, fast = drive(0.8)[0], drive(1.4)[0]
    assert np.median(fast) == pytest.approx(np.median(slow) * 1.4 / 0.8, rel=0.05)
    assert np.median(slow) == pytest.approx(0.8 * 0.036 / 0.035 / 2.0, rel=0.05)
    assert max(fast[:-1]) < 3.0  # of a step
    # The steps of a lap pay its length at any speed; the finish makes the difference.
    assert sum(fast[:-1]) == pytest.approx(sum(slow[:-1]), rel=0.05)
    assert fast[-1] - slow[-1] == pytest.approx(50 * (1.4 - 0.8) * 0.036 / 0.035 / 2.0, rel=0.1)
    first, second = drive(1.4, laps=2)
    np.testing.assert_allclose(first, second)  # nothing is remembered from the lap before


@pytest.mark.parametrize("path", [STEADY, CLOCK], ids=["steady_laps", "race_the_clock"])
def test_reward_check_drives_a_lap_with_each(path: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"track": "oval"}
    said = check_reward(path, settings, tmp_path / "lap.png")
    assert (tmp_path / "lap.png").stat().st_size > 1000
    assert re.search(r"[1-9]", said)


def test_the_readme_names_every_file_and_only_presets_that_there_are() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in FOLDER.glob("*.py")} == set(re.findall(r"\]\((\w+\.py)\)", text))
    for preset in re.findall(r"--preset (\S+)", text):
        assert (FOLDER.parents[1] / "presets" / f"{preset}.yaml").is_file()
