"""What a race's videos show: shaded cars, a camera that follows smoothly, the map and the display."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.deepracer import kernels, scenery
from envs.deepracer.camera import Renderer, make_camera
from envs.deepracer.hud import Standing, as_clock, draw_banner, draw_standings
from envs.deepracer.race import Race
from envs.deepracer.shapes import CAR, SHAPES, TYRE
from envs.deepracer.simulation import Simulation
from envs.deepracer.tracks import load_track
from envs.deepracer.views import CAR_COLORS, Follower, Map, Views
from tests.envs.deepracer.test_race import STRAIGHT_ON, race

SIZE = (kernels.CAR_LENGTH_M, kernels.CAR_WIDTH_M, kernels.CAR_HEIGHT_M)


def car_vertices() -> NDArray[np.float64]:
    first, last = SHAPES.first_vertex[int(CAR) : int(CAR) + 2]
    return SHAPES.vertices[first:last] * SIZE


def test_a_car_fills_its_outline_and_stands_on_its_wheels() -> None:
    vertices = car_vertices()
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    assert (low >= [-SIZE[0] / 2 - 1e-9, -SIZE[1] / 2 - 0.002, -1e-9]).all()
    assert (high <= [SIZE[0] / 2 + 1e-9, SIZE[1] / 2 + 0.002, SIZE[2] + 1e-9]).all()
    assert high - low == pytest.approx(SIZE, abs=0.01)
    assert low[2] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shape", [0, 1])
def test_faces_are_flat_and_wound_so_that_some_of_them_face_every_side(shape: int) -> None:
    first = SHAPES.first_vertex[shape]
    normals = []
    for face in range(SHAPES.first_face[shape], SHAPES.first_face[shape + 1]):
        corners = SHAPES.vertices[first + SHAPES.corners[SHAPES.first_corner[face] : SHAPES.first_corner[face + 1]]]
        corners = corners * (SIZE if shape else (1, 1, 1))
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        normal /= np.linalg.norm(normal)
        assert np.abs((corners - corners[0]) @ normal).max() < 0.005  # m
        normals.append(normal)
    for way in np.concatenate([np.eye(3), -np.eye(3)[:2]]):
        assert (np.array(normals) @ way).max() > 0.9


def look(objects: NDArray[np.float64], color: tuple[int, int, int] = scenery.CAR) -> NDArray[np.uint8]:
    """A picture of objects from a camera at the origin, one meter up."""
    ground = scenery.draw_ground(load_track("oval"))
    camera = make_camera(320, 240, field_of_view=1.0, position=(0.0, 0.0, 1.0), pitch=0.5)
    out = np.zeros((1, 240, 320, 3), np.uint8)
    colors = np.broadcast_to(np.array(color, np.float64), (1, len(objects), 3))
    Renderer(camera, ground).draw(out, np.array([[3.0, -30.0, 0.0]]), objects[None], colors)
    return np.asarray(out[0])


def car_at(x: float, y: float, *, yaw: float = 0.0, steering: float = 0.0) -> NDArray[np.float64]:
    row = np.zeros((1, kernels.OBJECT_COLUMNS))
    row[0, :6] = 3.0 + x, -30.0 + y, yaw, *SIZE
    row[0, kernels.OBJECT_STEERING], row[0, kernels.OBJECT_SHAPE] = steering, CAR
    return row


def test_a_car_has_a_shadow_wheels_and_faces_of_different_brightness() -> None:
    empty = look(np.zeros((0, kernels.OBJECT_COLUMNS))).astype(float)
    with_car = look(car_at(1.8, 0.0)).astype(float)
    field = np.array(scenery.FIELD)
    shadow = np.abs(with_car - 0.62 * empty).max(axis=2) < 1.1
    assert 20 < shadow.sum() < 4000
    assert not np.abs(with_car - 0.62 * field).max(axis=2)[:60].min() < 2  # none in the sky
    blue = with_car[(with_car[..., 2] > 1.8 * with_car[..., 1]) & (with_car[..., 2] > 80)]
    assert len(np.unique(blue[:, 2])) >= 3
    tyre = np.array(scenery.TINTS[TYRE])
    assert (with_car.max(axis=2) <= 1.07 * tyre.max()).sum() > 20


def test_front_wheels_turn_with_the_steering_and_nothing_else_does() -> None:
    straight, turned = look(car_at(1.8, 0.0, yaw=1.2)), look(car_at(1.8, 0.0, yaw=1.2, steering=0.5))
    changed = np.flatnonzero((straight != turned).any(axis=(0, 2)))
    seen = np.flatnonzero((straight != look(np.zeros((0, kernels.OBJECT_COLUMNS)))).any(axis=(0, 2)))
    assert len(changed)
    assert len(changed) < 0.75 * len(seen)


def test_a_car_beside_the_camera_is_cut_at_its_plane_and_one_behind_is_not_drawn() -> None:
    empty = look(np.zeros((0, kernels.OBJECT_COLUMNS)))
    np.testing.assert_array_equal(look(car_at(-1.5, 0.0)), empty)
    giant = car_at(0.0, 0.0)
    giant[0, kernels.OBJECT_LENGTH : kernels.OBJECT_LENGTH + 3] = 3.0, 0.6, 0.8
    assert (look(giant) != empty).any()  # from half a car behind the camera to half a car ahead of it


def test_the_follow_camera_turns_after_the_car_and_reaches_it() -> None:
    follower = Follower()
    pose = np.array([1.0, 2.0, 3.1])
    np.testing.assert_array_equal(follower.move(pose, time_s=0.0), pose)
    turned = np.array([1.05, 2.0, -3.0])  # 0.18 rad to the left, over the half turn
    first = follower.move(turned, time_s=1 / 15)
    share = (first[2] - 3.1) / (2 * math.pi - 6.1)
    assert share == pytest.approx(1 - math.exp(-1 / 15 / 0.4))
    assert 1.0 < first[0] < 1.05
    for step in range(2, 90):
        last = follower.move(turned, time_s=step / 15)
    assert last == pytest.approx([1.05, 2.0, 2 * math.pi - 3.0], abs=1e-3)


def test_the_follow_camera_is_with_a_car_that_was_put_elsewhere_or_starts_again() -> None:
    follower = Follower()
    follower.move(np.zeros(3), time_s=0.0)
    elsewhere = np.array([3.0, 0.0, 1.0])
    np.testing.assert_array_equal(follower.move(elsewhere, time_s=1 / 15), elsewhere)
    again = np.array([3.1, 0.0, 0.0])
    np.testing.assert_array_equal(follower.move(again, time_s=0.0), again)


def test_a_car_on_the_map_has_its_true_size() -> None:
    track = load_track("oval")
    plan = Map(track, (640, 480))
    row = np.zeros(kernels.OBJECT_COLUMNS)
    row[:6] = 4.0, 0.5, 0.0, *SIZE
    drawn = np.asarray(plan.with_rectangles([(row, (255, 0, 255))]))
    pixels = (drawn == [255, 0, 255]).all(axis=2)
    (left, _), (right, _) = plan.at(np.array([[0.0, 0.0], [1.0, 0.0]]))
    found = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    for places, side in zip(found, SIZE[:2], strict=True):
        assert np.ptp(places) + 1 == pytest.approx(side * (right - left), abs=2)


def test_the_display_shows_a_row_for_each_racer_in_its_color() -> None:
    picture = np.full((480, 640, 3), 120, np.uint8)
    standings = [
        Standing("one", CAR_COLORS[0], lap=1, laps=5, time_s=61.5, resets=0, speed=1.2),
        Standing("another", CAR_COLORS[1], lap=2, laps=5, time_s=61.5, resets=3, speed=0.0, note="off track"),
    ]
    draw_standings(picture, standings)
    for color in CAR_COLORS[:2]:
        assert (picture == color).all(axis=2).sum() > 100
    assert (picture[:100, :420] > 200).all(axis=2).sum() > 100  # the text
    assert (picture[110:] == 120).all()
    changed = picture.copy()
    draw_standings(changed, [standings[0]])
    assert (changed != picture).any()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.00"), (16.0666, "0:16.07"), (59.999, "1:00.00"), (754, "12:34.00")]
)
def test_times_are_minutes_seconds_and_hundredths(seconds: float, text: str) -> None:
    assert as_clock(seconds) == text


def test_a_banner_darkens_the_picture_by_its_share() -> None:
    picture = np.full((480, 640, 3), 200, np.uint8)
    means = [
        draw_banner(picture, "Race complete", ["car: 5 of 5 laps"], share=share).mean() for share in (0.0, 0.5, 1.0)
    ]
    assert means[0] == 200
    assert means[0] > means[1] > means[2]
    assert draw_banner(picture, "Race complete", [], share=1.0).max() > 200  # the title


def test_resets_are_counted_and_their_reason_is_shown() -> None:
    racing = race(track="oval", number_of_resets=3, off_track_penalty=1.0, is_training=False)
    simulation = racing.simulation
    assert simulation.resets.tolist() == [0]
    simulation.cars[0, :3] = -5.0, -5.0, 0.0
    racing.command(np.array([STRAIGHT_ON]))
    racing.command(np.array([STRAIGHT_ON]))
    assert simulation.resets.tolist() == [1]
    assert simulation.failures.tolist() == [kernels.OFF_TRACK]
    views = Views(simulation)
    before = views.draw(0, "race")
    while simulation.cars[0, kernels.PHASE] == kernels.PAUSE:
        racing.command(np.array([STRAIGHT_ON]))
    after = views.draw(0, "race")
    state = (slice(28, 50), slice(20, 180))
    assert (before[state] != after[state]).any()  # the reason, then the speed


def test_pictures_of_one_simulation_are_the_same_again() -> None:
    pictures = []
    for _ in range(2):
        simulation = Simulation(load_track("oval"), Race(number_of_bot_cars=2), is_training=False, seed=0)
        simulation.restart(0)
        views = Views(simulation)
        for _ in range(5):
            simulation.measure()
            simulation.drive(np.ones(1), np.zeros(1))
            last = views.draw(0, "race")
        pictures.append(last)
    np.testing.assert_array_equal(pictures[0], pictures[1])
