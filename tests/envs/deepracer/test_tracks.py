"""DeepRacer tracks, and where a car is on them; the second opinion is shapely's, as the original simulator used it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import LinearRing, LineString, Point, Polygon
from shapely.ops import nearest_points

from envs.deepracer import kernels
from envs.deepracer.params import make_params
from envs.deepracer.race import Race
from envs.deepracer.simulation import Simulation
from envs.deepracer.tracks import BUILT_IN, Track, TrackError, load_track, load_tracks, read_track
from tests.conftest import ROOT

PUBLISHED = ROOT.parent / "shared" / "tracks"
KEYS = [
    *("all_wheels_on_track", "x", "y", "heading", "distance_from_center", "projection_distance", "progress", "steps"),
    *("speed", "steering_angle", "track_width", "track_length", "waypoints", "closest_waypoints", "is_left_of_center"),
    *("is_reversed", "closest_objects", "objects_location", "objects_left_of_center", "object_in_camera"),
    *("objects_speed", "objects_heading", "objects_distance_from_center", "objects_distance", "is_crashed"),
    *("is_offtrack", "sim_time"),
]


def published(name: str) -> Track:
    path = PUBLISHED / f"{name}.npy"
    if not path.is_file():
        pytest.skip(f"{path.name} is a published track, which this repository does not carry")
    return read_track(path)


# Waypoints, meters, and whether counter-clockwise, as measured on the published files.
@pytest.mark.parametrize(
    ("name", "count", "length", "is_counter_clockwise"),
    [
        ("reinvent_base", 119, 17.7092, True),
        ("reInvent2019_track", 154, 23.1182, True),
        ("Spain_track", 258, 60.0, False),
        ("Straight_track", 22, 5.71, True),  # open: as the original simulator counts it
    ],
)
def test_published_tracks_load_without_their_repeated_rows(
    name: str, count: int, length: float, is_counter_clockwise: bool
) -> None:
    track = published(name)
    assert len(track.waypoints) == count
    assert track.length == pytest.approx(length, rel=1e-3)
    assert track.is_counter_clockwise == is_counter_clockwise
    assert track.is_closed == (name != "Straight_track")
    assert np.linalg.norm(np.diff(track.center, axis=0), axis=1).min() > 1e-9


@pytest.mark.parametrize(("name", "width"), [("reinvent_base", 0.762), ("reInvent2019_track", 1.067)])
def test_built_in_tracks_are_the_published_ones_to_5_cm(name: str, width: float) -> None:
    ours, theirs = load_track(name), published(name)
    line = LinearRing(theirs.center)
    assert max(line.distance(Point(point)) for point in ours.center) < 0.045
    assert np.linalg.norm(ours.inner - ours.outer, axis=1) == pytest.approx(width, abs=1e-6)
    assert theirs.length == pytest.approx(ours.length, rel=0.01)
    assert ours.place(0.0)[2] == pytest.approx(theirs.place(0.0)[2], abs=0.06)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_reversed_track_is_the_same_road_the_other_way(name: str) -> None:
    track = load_track(name)
    turned = track.reversed()
    np.testing.assert_array_equal(turned.center[::-1], track.center)
    assert turned.length == pytest.approx(track.length)
    assert (turned.is_reversed, turned.is_counter_clockwise) == (True, track.is_counter_clockwise)
    x, y, yaw = track.place(1.0)
    x_turned, y_turned, yaw_turned = turned.place(track.length - 1.0)
    assert (x_turned, y_turned) == pytest.approx((x, y), abs=1e-9)
    assert math.cos(yaw_turned - yaw) == pytest.approx(-1, abs=1e-6)


def simulate(track: Track, pose: tuple[float, float, float], *, is_reversed: bool = False) -> Simulation:
    """One measured car at a pose, in the run phase."""
    simulation = Simulation(track, Race(reverse_dir=is_reversed), seed=0)
    simulation.restart(0)
    simulation.cars[0, : kernels.YAW + 1] = pose
    simulation.cars[0, kernels.PHASE] = kernels.RUN
    simulation.measure()
    return simulation


def check_against_shapely(track: Track, pose: tuple[float, float, float], *, is_reversed: bool) -> None:
    """Every geometric parameter of a pose, computed a second time by shapely."""
    params = make_params(simulate(track, pose, is_reversed=is_reversed), 0, speed=1.0, steering=0.0, is_stereo=False)
    way = track.reversed() if is_reversed else track
    kind = LinearRing if way.is_closed else LineString
    line, inner, outer = (LineString(points) for points in (way.center, way.inner, way.outer))
    x, y, yaw = pose
    front = Point(x + 0.14 * math.cos(yaw), y + 0.14 * math.sin(yaw))
    share = line.project(front, normalized=True)
    on_line = line.interpolate(share, normalized=True)
    assert (params["x"], params["y"]) == pytest.approx((front.x, front.y))
    assert params["distance_from_center"] == pytest.approx(line.distance(front), abs=1e-9)
    assert params["projection_distance"] == pytest.approx(share * line.length, abs=1e-6)
    near = [nearest_points(border, on_line)[0] for border in (inner, outer)]
    assert params["track_width"] == pytest.approx(near[0].distance(near[1]), abs=1e-6)
    is_counter_clockwise = (not way.is_closed or bool(LinearRing(track.center).is_ccw)) != is_reversed
    is_nearer_inner = inner.distance(front) < outer.distance(front)
    assert params["is_left_of_center"] == (is_nearer_inner != (not is_counter_clockwise))
    shares = [line.project(Point(point), normalized=True) for point in way.center[:-1]] + [1.0]
    ahead = int(np.searchsorted(shares, share, side="right"))
    expected = [ahead - 1 if ahead > 0 else len(shares) - 1, ahead if ahead < len(shares) else 0]
    assert params["closest_waypoints"] == expected
    if way.is_closed:
        road = Polygon(way.outer, [way.inner]) if kind(way.outer).length > kind(way.inner).length else None
        road = road or Polygon(way.inner, [way.outer])
    else:
        road = Polygon(np.concatenate([way.outer, way.inner[::-1]]))
    wheels = [
        Point(x + along * math.cos(yaw) - across * math.sin(yaw), y + along * math.sin(yaw) + across * math.cos(yaw))
        for along, half in ((-0.081663, 0.08105), (0.082311, 0.079601))
        for across in (half, -half)
    ]
    on = [road.contains(wheel) for wheel in wheels]
    assert params["all_wheels_on_track"] == all(on)
    assert params["is_offtrack"] == (not any(on))


@settings(max_examples=60)
@given(st.floats(0, 1), st.floats(-0.7, 0.7), st.floats(-3, 3), st.sampled_from(BUILT_IN), st.booleans())
def test_the_parameters_of_any_pose_are_shapelys(
    share: float, aside: float, turn: float, name: str, is_reversed: bool
) -> None:
    track = load_track(name)
    x, y, yaw = track.place(share * track.length)
    pose = (float(x - aside * math.sin(yaw)), float(y + aside * math.cos(yaw)), float(yaw + turn))
    check_against_shapely(track, pose, is_reversed=is_reversed)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", ["reinvent_base", "reInvent2019_track", "Spain_track", "Straight_track"])
def test_the_parameters_on_published_tracks_are_shapelys(name: str, is_reversed: bool) -> None:
    track = published(name)
    rng = np.random.default_rng(0)
    for _ in range(40):
        x, y, yaw = track.place(rng.uniform(0, track.length))
        aside = rng.uniform(-0.7, 0.7)
        turn = rng.uniform(-3, 3)
        pose = (float(x - aside * math.sin(yaw)), float(y + aside * math.cos(yaw)), float(yaw + turn))
        check_against_shapely(track, pose, is_reversed=is_reversed)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", [*BUILT_IN, "Spain_track", "Straight_track"])
def test_left_is_where_the_driver_has_it(name: str, is_reversed: bool) -> None:
    """Left is relative to the driving direction, for cars and objects, independent of which border is the inner one."""
    track = load_track(name) if name in BUILT_IN else published(name)
    way = track.reversed() if is_reversed else track
    shares = np.linspace(0.1, 0.9, 6)
    lanes = (1, -1, 1, -1, 1, -1)
    race = Race(object_positions=tuple(zip(shares.tolist(), lanes, strict=True)), reverse_dir=is_reversed)
    simulation = Simulation(track, race, seed=0)
    simulation.restart(0)
    simulation.cars[0, kernels.PHASE] = kernels.RUN
    objects = simulation.objects.rows[0]
    ahead = way.place(simulation.objects.distances[0])
    across = np.cos(ahead[:, 2]) * (objects[:, 1] - ahead[:, 1]) - np.sin(ahead[:, 2]) * (objects[:, 0] - ahead[:, 0])
    rng = np.random.default_rng(0)
    for _ in range(30):
        x, y, yaw = way.place(rng.uniform(0.1, 0.9) * way.length)
        aside = rng.choice([-1, 1]) * rng.uniform(0.03, 0.2)
        front = x - aside * math.sin(yaw), y + aside * math.cos(yaw)
        pose = front[0] - kernels.FRONT_M * math.cos(yaw), front[1] - kernels.FRONT_M * math.sin(yaw), yaw
        simulation.cars[0, : kernels.YAW + 1] = pose
        simulation.measure()
        params = make_params(simulation, 0, speed=1.0, steering=0.0, is_stereo=False)
        assert params["is_left_of_center"] == (aside > 0)
        assert params["objects_left_of_center"] == (across > 0).tolist()


def test_the_first_steps_parameters_are_the_measured_ones() -> None:
    """x, y, progress and yaw of the first row on reinvent_base, as its simulator gives them."""
    simulation = Simulation(published("reinvent_base"), Race(), seed=0)
    simulation.restart(0)
    simulation.measure()
    params = make_params(simulation, 0, speed=1.0, steering=15.0, is_stereo=False)
    assert list(params) == KEYS
    assert (params["x"], params["y"]) == pytest.approx((3.1997, 0.6831), abs=1e-4)
    assert (params["progress"], params["heading"]) == pytest.approx((0.7906, 0.183), abs=1e-3)
    assert (params["steps"], params["sim_time"], params["steering_angle"]) == (1.0, 0.0, 15.0)
    assert params["waypoints"][0] == params["waypoints"][-1]
    assert type(params["waypoints"][0]) is tuple


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"no track"), "got a file that NumPy cannot read"),
        (lambda path: np.save(path, np.zeros((9, 4))), r"of shape \(9, 4\); expected numbers in 6 columns"),
        (lambda path: np.save(path, np.full((9, 6), np.nan)), "not finite in row 0"),
        (lambda path: np.save(path, np.ones((9, 6))), "got 1 different waypoints"),
        (lambda path: np.save(path, np.array(["a"] * 6)), "expected numbers in 6 columns"),
    ],
)
def test_a_file_that_is_no_track_is_refused(tmp_path: Path, write: object, message: str) -> None:
    path = tmp_path / "broken.npy"
    write(path)  # type: ignore[operator]
    with pytest.raises(TrackError, match=message):
        load_track("broken", [tmp_path])


def test_an_unknown_track_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.zeros((3, 6)))
    with pytest.raises(
        TrackError, match=r"got 'yours'; expected one of reinvent_base, .* and in .*: mine; or the path"
    ):
        load_track("yours", [tmp_path])


def test_several_tracks_are_loaded_by_a_list_by_commas_or_all_at_once(tmp_path: Path) -> None:
    oval = load_track("oval")
    np.save(tmp_path / "mine.npy", np.concatenate([oval.center, oval.inner, oval.outer], axis=1))
    names = [track.name for track in load_tracks("oval, reinvent_base,oval")]
    assert names == ["oval", "reinvent_base"] == [track.name for track in load_tracks(["oval", "reinvent_base"])]
    closed = [name for name in BUILT_IN if name != "straight"]
    assert [track.name for track in load_tracks("all", [tmp_path])] == [*closed, "mine"]
    with pytest.raises(TrackError, match=r"(?s)got 'ovall'.*got 'strait'"):
        load_tracks("ovall,strait,oval")
    for nothing in ([], 3, [3]):
        with pytest.raises(TrackError, match="track: got"):
            load_tracks(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [1.0, 0.9], ids=["closed", "open"])
def test_a_track_that_crosses_itself_is_refused(share: float, tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi * share, 121)
    center = np.stack([3 * np.sin(angle), 2 * np.sin(2 * angle)], axis=1)
    along = np.gradient(center, axis=0)
    left = 0.4 * np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    if share == 1.0:
        center[-1], left[-1] = center[0], left[0]
    np.save(tmp_path / "eight.npy", np.concatenate([center, center + left, center - left], axis=1))
    with pytest.raises(
        TrackError, match=r"eight.npy: got a center line that is not on the road .* does not cross itself"
    ):
        load_track("eight", [tmp_path])


def test_an_open_track_that_turns_back_without_crossing_itself_is_read(tmp_path: Path) -> None:
    angle = np.linspace(0, 1.5 * np.pi, 21)
    center, left = (radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) for radius in (2.0, 0.3))
    np.save(tmp_path / "bend.npy", np.concatenate([center, center - left, center + left], axis=1))
    assert not load_track("bend", [tmp_path]).is_closed
