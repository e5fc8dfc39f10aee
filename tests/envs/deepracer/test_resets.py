"""A DeepRacer car that failed and may drive on is put back where it was, also where the track passes near itself."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import envs
from envs.deepracer import kernels
from envs.deepracer.race import Dynamics, Race
from envs.deepracer.simulation import Simulation
from envs.deepracer.tracks import BUILT_IN, Track, load_track
from tests.envs.deepracer.test_tracks import published

Doubles = NDArray[np.float64]
# Between where a car's front was and where it is once the car is put back: the front is 0.14 m ahead of the place that
# counts, and that place may be some steps old where the front was nearer to another part of the track.
NEAR_M = 0.8
CONTINUOUS = {
    "action_space": {"steering_angle": {"high": 30, "low": -30}, "speed": {"high": 4, "low": 0.5}},
    "action_space_type": "continuous",
    "sensor": ["FRONT_FACING_CAMERA"],
    "version": "5",
}


# At which no car leaps from one of the needle's straights to the other within a step: it would be on the road there.
MOST_SPEED = 2.4


def needle() -> Track:
    """Two straights of 6 m and the half circles between them: 0.9 m from one to the other, on a road 0.5 m wide."""
    radius, straight, half_width = 0.45, 6.0, 0.25
    x = np.linspace(-straight / 2, straight / 2, 41)[:-1]
    angles = np.linspace(-math.pi / 2, math.pi / 2, 15)[:-1]
    bend = np.stack([straight / 2 + radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    half = np.concatenate([np.stack([x, np.full(40, -radius)], axis=1), bend])
    center = np.concatenate([half, -half, half[:1]])
    ahead = np.roll(center[:-1], -1, axis=0) - np.roll(center[:-1], 1, axis=0)
    left = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.linalg.norm(ahead, axis=1, keepdims=True) * half_width
    left = np.concatenate([left, left[:1]])
    return Track("needle", center, center + left, center - left)


def start(track: Track, poses: list[tuple[float, float]], *, is_training: bool = True, **rules: Any) -> Simulation:
    """Cars about to drive, each on the center line at a share of the lap from its start, turned by an angle."""
    immediate = Dynamics()  # a step's distance is the test's to choose
    race = Race(number_of_resets=9, off_track_penalty=0.2, change_start_position=False, dynamics=immediate, **rules)
    simulation = Simulation(track, race, worlds=len(poses), is_training=is_training, seed=0)
    for world in range(len(poses)):
        simulation.restart(world)
    step(simulation, 0.0)
    for row, (share, turn) in enumerate(poses):
        way = simulation.track_of(row)
        car = simulation.cars[row]
        car[: kernels.YAW + 1] = way.place((car[kernels.START_SHARE] + share) * way.length)
        car[kernels.YAW] += turn
        car[kernels.PREVIOUS_PROGRESS] = 100 * share
    return simulation


def step(simulation: Simulation, speed: float) -> Doubles:
    """One step straight ahead; (C, COLUMNS) the cars as it found them."""
    simulation.measure()
    measured = simulation.cars.copy()
    simulation.drive(np.full(len(measured), speed), np.zeros(len(measured)))
    return measured


def project_near(way: Track, point: Doubles, near: float) -> float:
    """Meters along the track of the point of the center line nearest to a place, within 0.5 m of `near`."""
    candidates = near + np.linspace(-0.5, 0.5, 101)
    apart = np.linalg.norm(way.place(candidates)[:, :2] - point, axis=1)
    return float(candidates[apart.argmin()])


def leave(simulation: Simulation, speed: float) -> list[tuple[float, float, float]]:
    """Drives straight ahead until every car has left the road and was put back.

    Returns:
        Meters since the start of each such car: where it was a step before it had left the road, by a search from step
        to step; where the nearest point of the center line was when it had; and where it was put.
    """
    way = simulation.track_of(0)
    length = simulation.track.length
    start_m = simulation.cars[:, kernels.START_SHARE] * length
    was = simulation.cars[:, kernels.PREVIOUS_PROGRESS] / 100 * length + start_m
    off, back = np.full((2, len(was)), np.nan)
    for _ in range(150):
        seen = step(simulation, speed)
        is_off = ~np.isnan(off)
        back = np.where(is_off & np.isnan(back), seen[:, kernels.PROGRESS] / 100 * length, back)
        is_now_off = ~is_off & (seen[:, kernels.STATUS] == kernels.OFF_TRACK)
        off[is_now_off] = seen[is_now_off, kernels.PROGRESS] / 100 * length
        for row in np.flatnonzero(np.isnan(off)):
            was[row] = project_near(way, seen[row, kernels.FRONT_X : kernels.FRONT_Y + 1], was[row])
        if not np.isnan(back).any():
            break
    return [(was[row] - start_m[row], off[row], back[row]) for row in np.flatnonzero(~np.isnan(back))]


def check(found: list[tuple[float, float, float]]) -> None:
    for was, _, back in found:
        assert abs(back - was) < NEAR_M


TRACKS = {name: load_track(name) for name in BUILT_IN} | {"needle": needle()}
POSES = st.lists(st.tuples(st.floats(0.05, 0.7), st.floats(-1.7, 1.7)), min_size=4, max_size=4)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(TRACKS)),
    POSES,
    st.floats(1, MOST_SPEED),
    st.sampled_from([0.0, 0.2]),
    st.booleans(),
    st.booleans(),
)
def test_a_car_that_left_the_road_is_put_back_where_it_was(
    name: str, poses: list[tuple[float, float]], speed: float, offset: float, is_reversed: bool, is_training: bool
) -> None:
    rules: dict[str, Any] = {"start_position_offset": offset, "reverse_dir": is_reversed, "is_training": is_training}
    check(leave(start(TRACKS[name], poses, **rules), speed))


@pytest.mark.parametrize("offset", [0.0, 0.2])
@pytest.mark.parametrize("name", ["reinvent_base", "reInvent2019_track", "Spain_track", "Straight_track"])
def test_a_car_that_left_a_published_track_is_put_back_where_it_was(name: str, offset: float) -> None:
    rng = np.random.default_rng(0)
    poses = list(zip(rng.uniform(0.05, 0.7, 40).tolist(), rng.uniform(-1.7, 1.7, 40).tolist(), strict=True))
    found = leave(start(published(name), poses, start_position_offset=offset), 3.0)
    assert len(found) > 30
    check(found)


def test_the_nearest_part_of_the_track_is_not_always_where_the_car_was() -> None:
    """The needle's other straight is nearer than the own one from 0.45 m beside it, on the car's left."""
    shares = np.linspace(0.05, 0.3, 20).tolist()
    found = leave(start(TRACKS["needle"], [(share, math.pi / 2) for share in shares]), MOST_SPEED)
    assert len(found) == 20
    assert sum(abs(off - was) > 2.0 for was, off, _ in found) > 10  # as reward functions see it, by the contract
    check(found)


def test_the_step_before_may_be_another_parts_already() -> None:
    """The rear wheels are on the road still, the front is nearer to the other straight."""
    simulation = start(TRACKS["needle"], [(0.3, math.pi / 2)])
    simulation.cars[0, kernels.Y] += 0.25 - kernels.FRONT_M  # its front is on the left edge
    seen = [step(simulation, speed)[0, [kernels.STATUS, kernels.PROGRESS]] for speed in (0.1, 3.0, 1.0, 1.0, 1.0)]
    statuses, progress = np.array(seen).T
    assert statuses.tolist() == [*[kernels.IN_PROGRESS] * 3, kernels.OFF_TRACK, kernels.PAUSED]
    assert progress[2] - progress[0] > 20
    assert progress[4] - progress[0] == pytest.approx(100 * kernels.FRONT_M / simulation.track.length, abs=0.3)


def test_single_and_vector_environments_put_a_car_back_alike() -> None:
    options: dict[str, Any] = {
        **{"track": needle(), "model_metadata": CONTINUOUS, "number_of_resets": 5, "off_track_penalty": 0.2},
        "change_start_position": False,
    }
    single = gymnasium.make(envs.DEEPRACER_ID, **options)
    vector = gymnasium.make_vec(envs.DEEPRACER_ID, num_envs=2, vectorization_mode="vector_entry_point", **options)
    single.reset(seed=0)
    vector.reset(seed=0)
    progress = []
    statuses = []
    for _ in range(40):
        action = np.array([1.0, 1.0], np.float32)  # in a circle to the left, over to the other straight
        info = single.step(action)[4]
        several = vector.step(np.stack([action, action]))[4]
        assert several["progress"].tolist() == [info["progress"]] * 2
        progress.append(float(info["progress"]))
        statuses.append(info["episode_status"])
    off = statuses.index("off_track")
    assert statuses[off + 1] == "pause"
    assert abs(progress[off + 1] - progress[off - 1]) / 100 * options["track"].length < NEAR_M
