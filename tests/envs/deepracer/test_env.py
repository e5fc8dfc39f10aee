"""DeepRacer for a learner: metadata, pictures, LIDAR, reward files, Gymnasium's interfaces."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from PIL import Image

import envs
from envs.deepracer import kernels, scenery
from envs.deepracer.camera import Renderer, make_camera
from envs.deepracer.metadata import DEFAULT, MetadataError, parse_metadata, read_metadata
from envs.deepracer.params import make_params
from envs.deepracer.racing import Racing, read_options
from envs.deepracer.rewards import MOST_PRINTED, RewardError, default_rewards, load_reward_function, reward_function
from envs.deepracer.sensors import CAMERA_AT, CAMERA_PITCH, FIELD_OF_VIEW
from envs.deepracer.tracks import load_track

DISCRETE = [{"steering_angle": -20, "speed": 1.5}, {"steering_angle": 20, "speed": 1.5}]
CONTINUOUS = {"steering_angle": {"high": 30, "low": -30}, "speed": {"high": 4, "low": 0.5}}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"action_space": DISCRETE}, {"sensors": ("observation",), "version": 1.0}),
        ({"action_space": DISCRETE, "sensor": ["STEREO_CAMERAS"]}, {"sensors": ("STEREO_CAMERAS",), "version": 2.0}),
        ({"action_space": DISCRETE, "sensor": ["LIDAR", "LEFT_CAMERA"]}, {"sensors": ("LEFT_CAMERA", "LIDAR")}),
        ({"action_space": DISCRETE, "version": "4"}, {"version": 4.0}),
        ({"action_space": CONTINUOUS, "action_space_type": "continuous"}, {"actions": None}),
        (
            {"action_space": CONTINUOUS, "action_space_type": "continuous", "training_algorithm": "sac"},
            {"algorithm": "sac"},
        ),
        ({"action_space": DISCRETE, "lidar_config": {"num_sectors": 4}}, {"num_sectors": 4, "clipping_m": 2.0}),
        ({"action_space": DISCRETE, "neural_network": "DEEP_CONVOLUTIONAL_NETWORK_DEEP"}, {}),
    ],
)
def test_metadata_in_every_form_is_read(found: dict[str, Any], expected: dict[str, Any]) -> None:
    metadata = parse_metadata(found)
    assert {name: getattr(metadata, name) for name in expected} == expected
    assert metadata.source == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_space": []}, "action_space: got an empty list"),
        ({"action_space": [{"speed": 1}]}, r"action_space\[0\].steering_angle: got None; expected a number"),
        ({"action_space": "left"}, "action_space: got str with the action_space_type 'discrete'"),
        ({"action_space": CONTINUOUS}, "expected a list of actions"),
        ({"action_space": [{**DISCRETE[0], "index": 3}]}, r"action_space\[0\].index: got 3; expected 0"),
        ({"sensor": ["LIDAR"]}, "expected exactly one camera"),
        ({"sensor": ["EYES"]}, r"sensor: got \['EYES'\]"),
        ({"neural_network": "DEEPER"}, "neural_network: got 'DEEPER'; expected one of"),
        ({"training_algorithm": "sac"}, "got 'sac' with discrete actions"),
        ({"version": "new"}, "version: got 'new'; expected a number"),
        ({"lidar_config": {"num_sectors": 5}}, "num_sectors: got 5; expected a divisor of 64"),
    ],
)
def test_wrong_metadata_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        parse_metadata({**DEFAULT, **change})


def test_every_problem_of_a_metadata_file_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "model_metadata.json"
    path.write_text(json.dumps({**DEFAULT, "version": "x", "sensor": [], "neural_network": "x"}))
    with pytest.raises(MetadataError, match=r"(?s)model_metadata.json: sensor.*neural_network.*version"):
        read_metadata(path)
    path.write_text("{")
    with pytest.raises(MetadataError, match="got a file that is no JSON"):
        read_metadata(path)


def picture(poses: NDArray[np.float64], size: tuple[int, int], ground: scenery.Ground) -> NDArray[np.uint8]:
    camera = make_camera(*size, field_of_view=FIELD_OF_VIEW, position=CAMERA_AT, pitch=CAMERA_PITCH)
    out = np.zeros((len(poses), size[1], size[0], len(ground.quads)), np.uint8)
    Renderer(camera, ground).draw(
        out, poses, np.zeros((len(poses), 0, kernels.OBJECT_COLUMNS)), np.zeros((len(poses), 0, 3))
    )
    return out


def test_a_picture_is_the_large_color_picture_reduced_and_turned_gray() -> None:
    """The simulator rendered 640 x 480 in color, reduced it by PIL's bilinear filter, and took the luma."""
    track = load_track("reinvent_base")
    ground = scenery.draw_ground(track)
    poses = track.place(np.linspace(0, track.length, 6, endpoint=False))
    large = picture(poses, (640, 480), ground)
    small = picture(poses, (160, 120), ground.in_gray())[..., 0]
    for color, gray in zip(large, small, strict=True):
        reduced = np.asarray(Image.fromarray(color).resize((160, 120), Image.Resampling.BILINEAR), np.float64)
        expected = (reduced @ scenery.LUMA).astype(np.int64)
        difference = np.abs(expected - gray.astype(np.int64))
        assert difference.mean() < 2.0
        assert np.mean(difference > 25) < 0.01


def test_a_pixel_shows_the_ground_where_geometry_says() -> None:
    """A white spot on black ground, seen through the pinhole's own formula."""
    camera = make_camera(160, 120, field_of_view=1.13, position=(0.1, 0.0, 0.2), pitch=0.3)
    focal = 80 / math.tan(1.13 / 2)
    for row, column in ((60, 80), (100, 30), (45, 140)):
        up, left = -(row + 0.5 - 60) / focal, -(column + 0.5 - 80) / focal
        fall = math.sin(0.3) - up * math.cos(0.3)
        reach = 0.2 / fall
        x, y = 0.1 + reach * (math.cos(0.3) + up * math.sin(0.3)), reach * left
        lines = slice(camera.first[row], camera.first[row + 1])
        seen = [camera.ahead[lines].mean(), camera.reach[lines].mean() * camera.left[column]]
        assert np.abs(np.array(seen) - [x, y]).max() < 0.03 * reach
    horizon = 60 - math.tan(0.3) * focal
    assert not camera.coverage[: int(horizon)].any()  # the sky has no ground
    assert camera.coverage.sum() == pytest.approx(120 - horizon, abs=0.3)


def test_gray_values_are_those_of_the_simulators_sample_pictures() -> None:
    racing = Racing(read_options(), worlds=8, seed=0)
    for world in range(8):
        racing.restart(world)
    pictures = racing.observe()
    assert pictures.shape == (8, 120, 160, 1)
    assert pictures.dtype == np.uint8
    assert 66 <= pictures.min() <= 80  # the sky above, or the road
    assert pictures.max() > 245  # the edges
    road = pictures[:, 110:, 20:60]
    assert np.median(road) == pytest.approx(79, abs=3)
    assert 70 < pictures.mean() < 130


def test_the_horizon_is_level_and_the_same_wherever_the_car_stands_and_looks() -> None:
    ground = scenery.draw_ground(load_track("reinvent_base"))
    random = np.random.default_rng(0)
    poses = np.concatenate([random.uniform(-1, 8, (40, 2)), random.uniform(-np.pi, np.pi, (40, 1))], axis=1)
    seen = picture(poses, (160, 120), ground).astype(int)
    horizon = 60 - math.tan(CAMERA_PITCH) * 80 / math.tan(FIELD_OF_VIEW / 2)
    sky = seen[:, : int(horizon)]
    np.testing.assert_array_equal(sky, np.broadcast_to(sky[:1], sky.shape))
    assert (np.diff(sky[0, :, 80].sum(axis=1)) >= 0).all()  # darker upwards
    assert (sky[..., 2] > sky[..., 1]).all()  # blue
    field = seen[:, int(horizon) + 1 : int(horizon) + 3]
    assert (field[..., 1] > field[..., 2]).all()  # green up to the horizon, or the road


def test_the_field_is_textured_and_keeps_its_mean_color_at_every_distance() -> None:
    ground = scenery.draw_ground(load_track("reinvent_base"))
    away = np.array([[-0.3, -0.3, -2.4]])
    seen = picture(away, (160, 120), ground)[0].astype(float)
    for rows in (slice(30, 40), slice(50, 70), slice(100, 120)):
        assert seen[rows].mean(axis=(0, 1)) == pytest.approx(np.array(scenery.FIELD), abs=8)
    assert seen[80:].std(axis=(0, 1)).max() > 1.5


def test_a_larger_footprint_is_seen_in_a_picture_of_the_same_colors() -> None:
    """Each size of the ground is the one before it, reduced: one spot has one color in all of them."""
    track = load_track("oval")
    ground = scenery.draw_ground(track).in_gray()
    x, y, _ = track.place(3.0, track.lane(is_inner=True))
    for (first, _, columns), origin, size in zip(ground.sizes, ground.origins, range(4), strict=False):
        scale = ground.pixel_m * 2**size
        column, row = int((x - origin[0]) / scale), int((y - origin[1]) / scale)
        assert ground.quads[0, first + row * columns + column] & 255 == pytest.approx(79, abs=1)


def test_tracks_of_one_center_line_and_other_borders_look_different() -> None:
    narrow = load_track("oval")
    wide = dataclasses.replace(
        narrow,
        inner=narrow.center + 1.5 * (narrow.inner - narrow.center),
        outer=narrow.center + 1.5 * (narrow.outer - narrow.center),
    )
    seen = []
    for track in (narrow, wide):
        racing = Racing(read_options(track=track), seed=0)
        racing.restart(0)
        seen.append(racing.observe()[0])
    road = [np.count_nonzero(np.abs(picture.astype(int) - 79) < 3) for picture in seen]
    assert road[1] > road[0]


def test_stereo_is_left_and_right_of_the_middle() -> None:
    metadata = {**DEFAULT, "sensor": ["STEREO_CAMERAS"]}
    racing = Racing(read_options(model_metadata=metadata), seed=0)
    racing.restart(0)
    left, right = np.moveaxis(racing.observe()[0], -1, 0)
    assert left.shape == right.shape == (120, 160)
    rows = [view[90:, 40:120] for view in (left, right)]
    assert not np.array_equal(*rows)
    moved = [np.average(np.arange(80), weights=view.astype(float).sum(axis=0) ** 8) for view in rows]
    assert moved[0] > moved[1]  # what is ahead is farther right in the left eye


def test_a_box_hides_what_is_behind_it_and_the_nearer_box_the_farther() -> None:
    options: dict[str, Any] = {
        "track": "oval",
        "is_training": False,
        "object_positions": ((1.5 / 17.42, 1), (2.5 / 17.42, 1)),
    }
    empty = Racing(read_options(track="oval", is_training=False), seed=0)
    racing = Racing(read_options(**options), seed=0)
    for one in (empty, racing):
        one.restart(0)
        one.simulation.cars[0, 1] += 0.2  # into the inner lane
    before, after = empty.observe()[0, :, :, 0].astype(int), racing.observe()[0, :, :, 0].astype(int)
    changed = before != after
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert rows[0] < 30 < rows[-1] < 70  # from above the horizon down to the road
    assert 30 < columns[0] < columns[-1] < 130
    nearer = racing.simulation.objects.rows[0, 0].copy()
    racing.simulation.objects.rows[0, 1] = nearer  # the farther one gone into the nearer one's place
    np.testing.assert_array_equal(racing.observe()[0, 35:, :, 0], after[35:])


def test_lidar_measures_the_distance_to_a_box_and_sectors_follow() -> None:
    def scan(sensor: str, **config: Any) -> NDArray[np.float32]:
        metadata = {**DEFAULT, "sensor": ["FRONT_FACING_CAMERA", sensor], "lidar_config": config}
        racing = Racing(read_options(track="oval", model_metadata=metadata, object_positions=((0.5, 1),)), seed=0)
        racing.restart(0)
        car = racing.simulation.cars[0]
        box = racing.simulation.objects.rows[0, 0]
        # 0.4 m to the left of the scanner, turned as the car.
        box[:3] = car[0] + 0.02913, car[1] + 0.4 + box[kernels.OBJECT_WIDTH] / 2, car[2] + 0.0
        car[2] = 0.0
        box[2] = 0.0
        found: NDArray[np.float32] = racing.observe()[sensor][0]
        return found

    plain = scan("LIDAR")
    assert plain.shape == (64,)
    assert plain.min() == pytest.approx(0.4, abs=0.05)
    assert plain.max() == 1.0
    angles = math.pi + np.linspace(-2.61799, 2.61799, 64)
    assert math.cos(angles[int(plain.argmin())] - math.pi / 2) > 0.9
    binary = scan("SECTOR_LIDAR")
    assert binary.shape == (8,)
    assert 1 <= binary.sum() <= 3
    coded = scan("DISCRETIZED_SECTOR_LIDAR", num_sectors=4, num_values_per_sector=5, clipping_dist=1.0)
    assert coded.shape == (20,)
    assert coded.reshape(4, 5).sum(axis=1).max() == 1
    assert coded.reshape(4, 5)[:, 2].sum() == 1  # 0.4 m is in the third fifth of 1 m


def test_light_changes_with_every_episode_where_it_is_asked_for() -> None:
    racing = Racing(read_options(enable_domain_randomization=True, change_start_position=False), seed=0)
    means = []
    for _ in range(4):
        racing.restart(0)
        means.append(float(racing.observe()[0, 80:].mean()))
    assert np.std(means) > 5


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return params['sped']", r"mine.py:2: reward_function failed: KeyError: 'sped'. It was given all_wheels_on"),
        ("return float('nan')", "mine.py:1: reward_function returned nan; expected a finite number"),
        ("return 1e6", "returned 1000000.0; expected a finite number from -100000 to 100000"),
        ("return 'much'", "reward_function failed: ValueError"),
    ],
)
def test_a_failing_reward_function_names_file_line_and_parameters(tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path / "mine.py", f"def reward_function(params):\n    {body}\n")
    racing = Racing(read_options(reward_function=path), seed=0)
    racing.restart(0)
    racing.step(np.array([2]))
    with pytest.raises(RewardError, match=message):
        racing.step(np.array([2]))


def test_a_reward_function_that_never_returns_is_interrupted(tmp_path: Path) -> None:
    body = ("    while True:", "        try:", "            pass", "        except Exception:", "            pass")
    text = "\n".join(("def reward_function(params):", *body, ""))
    racing = Racing(read_options(reward_function=write(tmp_path / "mine.py", text)), seed=0)
    racing.restart(0)
    racing.step(np.array([2]))
    with pytest.raises(RewardError, match=r"mine.py:[2-6]: reward_function did not return within 10 s; expected"):
        racing.step(np.array([2]))


def test_a_reward_function_that_prints_too_much_does_not_drown_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "    print('step', params['steps'])\n    print(params['steps'] > 2 and 'x' * 10_000_000 or 'little')\n"
    path = write(tmp_path / "mine.py", f"def reward_function(params):\n{body}    return 1.0\n")
    racing = Racing(read_options(reward_function=path), seed=0)
    racing.restart(0)
    for _ in range(9):
        racing.step(np.array([2]))
    print("afterwards")
    printed = capsys.readouterr()
    assert printed.out.startswith("step 2.0\nlittle\nstep 3.0\nxxx")
    assert MOST_PRINTED <= len(printed.out) < 1.5 * MOST_PRINTED
    assert printed.out.endswith("afterwards\n")
    assert printed.err.count(f"smrl: {path}: reward_function prints more than") == 1


def test_a_fork_in_a_reward_function_does_not_train_as_well(tmp_path: Path) -> None:
    text = "import os\n\ndef reward_function(params):\n    return float(os.fork() == 0)\n"
    racing = Racing(read_options(reward_function=write(tmp_path / "mine.py", text)), seed=0)
    racing.restart(0)
    process = os.getpid()
    racing.step(np.array([2]))
    racing.step(np.array([2]))
    if os.getpid() != process:  # pragma: no cover  # a fork that goes on must not run the tests after this one
        os._exit(1)
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 0
    assert racing.rewards.tolist() == [0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def reward(params): return 1", "got a file without reward_function"),
        ("def reward_function(params:", r"mine.py:1: could not be loaded: SyntaxError"),
        ("import nothing_of_that_name", r"mine.py:1: could not be loaded: ModuleNotFoundError"),
    ],
)
def test_a_file_without_a_reward_function_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        load_reward_function(write(tmp_path / "mine.py", text))


def test_what_a_reward_function_remembers_is_of_one_car(tmp_path: Path) -> None:
    text = (
        "last = {'steps': 0.0, 'x': None}\n"
        "def reward_function(params):\n"
        "    steps, before = params['steps'], dict(last)\n"
        "    last.update(steps=steps, x=params['x'])\n"
        "    if steps == 2:\n"
        "        return 0.0\n"
        "    assert before['steps'] == steps - 1, (before, steps)\n"
        "    return abs(params['x'] - before['x'])\n"
    )
    racing = Racing(read_options(reward_function=write(tmp_path / "mine.py", text)), worlds=3, seed=0)
    for world in range(3):
        racing.restart(world)
    rewards = []
    for step in range(12):
        if step == 5:
            racing.restart(1)  # the others drive on
        rewards.append(racing.step(np.array([0, 2, 4])).copy())
    assert (np.array(rewards)[7:] > 0).all()
    assert (np.array(rewards)[2:] < 0.2).all()  # m in a step, as no car jumps to another's place


def test_a_reward_function_may_spoil_its_parameters(tmp_path: Path) -> None:
    text = "def reward_function(params):\n    params['waypoints'].clear()\n    params.clear()\n    return 1\n"
    racing = Racing(read_options(reward_function=write(tmp_path / "mine.py", text)), seed=0)
    racing.restart(0)
    racing.step(np.array([2]))
    waypoints = copy.deepcopy(racing.options.track.waypoints)
    assert racing.step(np.array([2])).tolist() == [1.0]
    assert racing.options.track.waypoints == waypoints
    assert len(racing.params(0)["waypoints"]) == len(waypoints)


def test_the_default_reward_is_the_same_function_in_both_forms() -> None:
    racing = Racing(read_options(), worlds=40, seed=0)
    rng = np.random.default_rng(0)
    for world in range(40):
        racing.restart(world)
    racing.simulation.cars[:, :2] += rng.uniform(-0.5, 0.5, (40, 2))
    racing.simulation.measure()
    one_by_one = [
        reward_function(make_params(racing.simulation, row, speed=1.0, steering=0.0, is_stereo=False))
        for row in range(40)
    ]
    assert default_rewards(racing.simulation.cars).tolist() == one_by_one
    assert set(one_by_one) == {1.0, 0.5, 0.1, 1e-3}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model_metadata": {"action_space": CONTINUOUS, "action_space_type": "continuous", "sensor": ["LEFT_CAMERA"]}},
        {"model_metadata": {**DEFAULT, "sensor": ["STEREO_CAMERAS", "LIDAR"]}, "number_of_bot_cars": 2},
    ],
)
def test_gymnasiums_checker_passes(options: dict[str, Any]) -> None:
    env = gymnasium.make(envs.DEEPRACER_ID, render_mode="rgb_array", **options)
    check_env(env.unwrapped)
    frame: Any = env.unwrapped.render()
    assert frame.shape == (480, 640, 3)


@pytest.mark.parametrize("view", ["front", "follow", "top", "race"])
def test_views_show_the_track_and_the_car(view: str) -> None:
    env = gymnasium.make(envs.DEEPRACER_ID, render_mode="rgb_array", view=view)
    env.reset(seed=0)
    frame: Any = env.render()
    colors = {tuple(color) for color in frame.reshape(-1, 3).tolist()}
    assert scenery.ROAD in colors
    paint = {
        color
        for color in colors
        if color[2] > 100 and np.allclose(color, np.array(scenery.CAR) * color[2] / 200, atol=2)
    }
    assert bool(paint) == (view != "front")
    assert len(paint) >= (3 if view == "follow" else 0)  # faces are shaded by their angle to the sun


def test_a_vector_drives_as_single_environments_do() -> None:
    vector = gymnasium.make_vec(envs.DEEPRACER_ID, num_envs=3, vectorization_mode="vector_entry_point")
    single = gymnasium.make(envs.DEEPRACER_ID)
    rng = np.random.default_rng(0)
    seen, _ = vector.reset(seed=0)
    alone, _ = single.reset(seed=0)
    np.testing.assert_array_equal(seen[0], alone)
    ended = 0
    for _ in range(200):
        actions = rng.integers(5, size=3)
        seen, rewards, terminated, truncated, info = vector.step(actions)
        alone, reward, end, cut, _ = single.step(actions[0])
        assert (rewards[0], terminated[0], truncated[0]) == (reward, end, cut)
        np.testing.assert_array_equal(info["final_obs"][0] if end else seen[0], alone)
        ended += terminated.sum()
        if end:
            break
    assert ended


def test_cars_of_several_processes_start_where_one_process_would_have_them() -> None:
    shares = []
    for worlds, before in ((6, 0), (3, 0), (3, 3)):
        racing = Racing(read_options(alternate_driving_direction=True), worlds=worlds, seed=0)
        racing.simulation.seed(1, episodes_before=before)
        for world in range(worlds):
            racing.restart(world)
        shares.append(racing.simulation.cars[:, [kernels.START_SHARE, kernels.DIRECTION]])
    np.testing.assert_array_equal(shares[0], np.concatenate(shares[1:]))
    assert len(np.unique(shares[0][:, 0])) == 6


def test_an_episode_follows_from_its_seed() -> None:
    env = gymnasium.make(envs.DEEPRACER_ID, number_of_obstacles=3, randomize_obstacle_locations=True)
    runs = []
    for _ in range(2):
        observations = [env.reset(seed=5)[0]]
        observations += [env.step(action)[0] for action in (2, 2, 1, 3)]
        runs.append(np.stack(observations))
    np.testing.assert_array_equal(runs[0], runs[1])
