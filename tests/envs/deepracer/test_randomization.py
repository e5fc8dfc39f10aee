"""What a race randomizes for policies that will drive a real car."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.deepracer import kernels, scenery
from envs.deepracer.camera import Renderer, make_camera
from envs.deepracer.lap_bound import bound_lap
from envs.deepracer.metadata import DEFAULT, parse_metadata
from envs.deepracer.race import KNOWN_DYNAMICS
from envs.deepracer.racing import Racing, read_options
from envs.deepracer.randomization import KNOWN_RANDOMIZATIONS, Randomization
from envs.deepracer.sensors import CAMERA_AT, CAMERA_PITCH, FIELD_OF_VIEW

SIM2REAL = KNOWN_RANDOMIZATIONS["sim2real"]
STRAIGHT_ON = 2


def drive(seed: int, *, steps: int = 12, episodes: int = 3, worlds: int = 2, **options: Any) -> list[bytes]:
    """Everything that cars see and where they are, in episodes that are cut after some steps."""
    racing = Racing(read_options(track="oval", change_start_position=False, **options), worlds=worlds, seed=seed)
    found = []
    for _ in range(episodes):
        for world in range(worlds):
            racing.restart(world)
        for _ in range(steps):
            found.append(racing.observe().tobytes() + racing.simulation.cars.tobytes())
            racing.step(np.full(worlds, STRAIGHT_ON))
    return found


def first_pictures(count: int, **options: Any) -> NDArray[np.float64]:
    """(count, 120, 160) first pictures of one world's episodes, all from one start."""
    racing = Racing(read_options(track="straight", change_start_position=False, **options), seed=0)
    found = []
    for _ in range(count):
        racing.restart(0)
        found.append(racing.observe()[0, ..., 0])
    return np.array(found, np.float64)


def test_nothing_is_drawn_unless_it_is_asked_for() -> None:
    assert read_options().race.randomize == Randomization()
    assert drive(0) == drive(0, randomize="none") == drive(0, randomize={}) == drive(1)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Randomization)])
def test_every_range_acts_and_follows_from_the_seed(name: str) -> None:
    value = getattr(SIM2REAL, name)
    assert value > 0
    runs = [drive(seed, randomize={name: value}) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0] != drive(0)


@pytest.mark.parametrize("sensor", ["FRONT_FACING_CAMERA", "STEREO_CAMERAS"])
def test_each_episodes_pictures_are_those_of_a_camera_mounted_within_the_ranges(sensor: str) -> None:
    ranges = {"camera_height_m": 0.05, "camera_pitch_deg": 8.0}
    options = read_options(track="oval", model_metadata={**DEFAULT, "sensor": [sensor]}, randomize=ranges)
    racing = Racing(options, worlds=2, seed=0)
    ground = scenery.draw_ground(options.track).in_gray()
    found = []
    for _ in range(20):
        racing.restart(0)
        mounted = [renderer.camera for renderer in racing._sensors._own_renderers[0]]
        found.append((mounted[0].position[2] - CAMERA_AT[2], math.degrees(mounted[0].pitch - CAMERA_PITCH)))
    racing.restart(1)
    for world in range(2):
        seen = racing.observe()[world]
        for number, renderer in enumerate(racing._sensors._own_renderers[world]):
            x, y, z = renderer.camera.position.tolist()
            pitch = renderer.camera.pitch
            again = make_camera(160, 120, field_of_view=FIELD_OF_VIEW, position=(x, y, z), pitch=pitch)
            expected = np.empty((1, 120, 160, 1), np.uint8)
            poses = racing.simulation.cars[world : world + 1, :3]
            nothing = np.empty((1, 0, kernels.OBJECT_COLUMNS)), np.empty((1, 0, 1))
            rounding = 0.5 if sensor == "STEREO_CAMERAS" else 0.0
            Renderer(again, ground).draw(expected, poses, *nothing, rounding=rounding)
            np.testing.assert_array_equal(seen[..., number], expected[0, ..., 0])
            assert (x, abs(y)) == (CAMERA_AT[0], 0.03 if sensor == "STEREO_CAMERAS" else 0.0)
    for column, most in zip(np.abs(found).T, ranges.values(), strict=True):
        assert 0.8 * most < column.max() <= most
    assert abs(float(np.corrcoef(np.array(found).T)[0, 1])) < 0.6


def test_light_brightens_all_and_color_the_parts_by_their_own() -> None:
    plain = first_pictures(1)[0]
    lit = first_pictures(30, randomize={"light": 0.3})
    road = (plain > 60) & (plain < 100)
    factors = [float((picture[road] / plain[road]).mean()) for picture in lit]
    assert 0.68 < min(factors) < 0.8
    assert 1.2 < max(factors) < 1.32
    # With one factor for all, the field is as much brighter as the road; with a color of the light, it is not.
    field = np.zeros_like(road)
    field[45:60, :12] = True
    colored = first_pictures(30, randomize={"color": 0.5})
    for pictures, least, most in ((lit, 0.0, 0.03), (colored, 0.04, 0.5)):
        dark = [p for p in pictures if p[road].mean() < plain[road].mean()]  # white is not cut at 255
        assert len(dark) > 5
        parts = [[float((p[part] / plain[part]).mean()) for part in (road, field)] for p in dark]
        apart = np.abs(np.diff(np.array(parts), axis=1))
        assert least <= apart.max() <= most


def test_noise_of_pixels_has_its_standard_deviation() -> None:
    difference = first_pictures(5, randomize={"pixel_noise": 6.0}) - first_pictures(1)
    inside = np.broadcast_to(first_pictures(1) < 180, difference.shape)  # not cut at 255
    assert float(difference[inside].std()) == pytest.approx(6.0, rel=0.05)


def straight_ahead(randomize: dict[str, float], episodes: int = 40, steps: int = 16) -> NDArray[np.float64]:
    """(episodes, steps, 3) poses of a car that is told to drive straight ahead without lag."""
    options = read_options(track="oval", dynamics="kinematic", randomize=randomize, change_start_position=False)
    racing = Racing(options, seed=0)
    found = []
    for _ in range(episodes):
        racing.restart(0)
        for _ in range(steps):
            racing.command(np.array([(0.0, 1.0)]))
            found.append(racing.measured[0, :3].copy())
    return np.array(found).reshape(episodes, steps, 3)


def test_speed_differs_between_episodes_or_steps_within_its_range() -> None:
    rolled = kernels.CONTROL_S * 0.036 / 0.035
    for name, value in (("speed_gain", 0.2), ("speed_noise", 0.1)):
        poses = straight_ahead({name: value})
        shares = np.linalg.norm(np.diff(poses[:, 1:, :2], axis=1), axis=2) / rolled - 1
        within, between = shares.std(axis=1).mean(), shares.mean(axis=1).std()
        if name == "speed_gain":
            assert np.abs(shares).max() <= value + 1e-6
            assert within < 1e-9
            assert between == pytest.approx(value / math.sqrt(3), rel=0.3)
        else:
            assert within == pytest.approx(value, rel=0.15)
            assert between < value / 2


def test_steering_is_off_by_an_angle_of_the_episode_and_of_the_step() -> None:
    rolled = kernels.CONTROL_S * 0.036 / 0.035
    for name, value in (("steering_offset_deg", 5.0), ("steering_noise_deg", 3.0)):
        turns = np.diff(straight_ahead({name: value})[:, 1:, 2], axis=1)
        angles = np.degrees(np.arctan(turns / rolled * kernels.WHEELBASE_M))
        within, between = angles.std(axis=1).mean(), angles.mean(axis=1).std()
        if name == "steering_offset_deg":
            assert np.abs(angles).max() <= value + 1e-6
            assert within < 1e-6
            assert between == pytest.approx(value / math.sqrt(3), rel=0.3)
        else:
            assert within == pytest.approx(value, rel=0.15)
            assert between < value / 2


def test_latency_is_added_to_the_dynamics_for_an_episode() -> None:
    options = read_options(dynamics="real", randomize={"latency_s": 0.1})
    racing = Racing(options, worlds=3, seed=0)
    found = []
    for _ in range(10):
        for world in range(3):
            racing.restart(world)
        found.append(racing.simulation.dynamics[:, kernels.LATENCY].copy())
    least = KNOWN_DYNAMICS["real"].latency_s
    assert least < np.min(found) < least + 0.02
    assert least + 0.08 < np.max(found) < least + 0.1
    assert len(np.unique(found)) == 30
    assert (racing.simulation.dynamics[:, kernels.FRICTION] == KNOWN_DYNAMICS["real"].friction).all()


def test_a_reward_function_is_told_what_the_policy_commanded() -> None:
    given: list[tuple[float, float]] = []

    def reward(params: dict[str, Any]) -> float:
        given.append((params["speed"], params["steering_angle"]))
        return 0.0

    racing = Racing(read_options(track="oval", randomize="sim2real", reward_function=reward), seed=0)
    racing.restart(0)
    for _ in range(5):
        racing.step(np.array([STRAIGHT_ON]))
    assert set(given) == {(1.0, 0.0)}


def test_there_is_no_lower_bound_of_cars_that_do_not_obey() -> None:
    metadata = parse_metadata(DEFAULT)
    for randomize, is_bound in (("sim2real", False), ({"speed_gain": 0.1}, False), ({"light": 0.1}, True)):
        options = read_options(track="straight", randomize=randomize)
        assert (bound_lap(options.track, options.race, metadata) is not None) == is_bound


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"randomize": "moon"}, "randomize: got 'moon'; expected none, sim2real, or ranges by name"),
        ({"randomize": True}, "randomize: got True; expected none, sim2real"),
        ({"randomize": {"pitch": 1}}, "randomize: got pitch; expected some of light, color"),
        (
            {"randomize": {"light": -1, "camera_height_m": "high"}},
            r"(?s)randomize.light: got -1; expected a number from 0 to 0.9.*camera_height_m: got 'high'",
        ),
        (
            {"dynamics": {"latency_s": 0.15}, "randomize": {"latency_s": 0.1}},
            "randomize.latency_s: got 0.1 beside the dynamics' latency_s, 0.15; expected no more than 0.2 in all",
        ),
    ],
)
def test_wrong_ranges_are_answered(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_options(**settings)
