"""Settings of a DeepRacer evaluation: each of them acts, or is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.deepracer.race import KNOWN_DYNAMICS, Dynamics
from envs.deepracer.racing import read_options
from runtime.container.signals import StopRequest
from runtime.errors import UserError
from runtime.families.deepracer.driven_episodes import TRACE
from runtime.families.deepracer.evaluation_settings import resolve_race
from runtime.families.deepracer.job_files import read_job_file
from runtime.families.deepracer.races import Racer, run_race
from runtime.jobs.catalog import evaluation_settings

LANES = {"number_of_bot_cars": 3, "is_lane_change": True, "number_of_resets": 2, "lower_lane_change_time": 0.1}
# A setting, what stands beside it, and two values that must make two different races.
ACTING: list[tuple[str, dict[str, Any], Any, Any]] = [
    ("reverse_dir", {}, False, True),
    ("start_position_offset", {}, 0.0, 0.3),
    ("number_of_resets", {}, 0, 2),
    ("off_track_penalty", {"number_of_resets": 1}, 0.5, 1.0),
    ("collision_penalty", {"number_of_resets": 1, "object_positions": [[0.06, 1], [0.06, -1]]}, 0.5, 1.0),
    ("penalty_seconds", {**LANES, "is_lane_change": False, "min_distance_between_bot_cars": 0.5}, 0.2, 9.0),
    ("is_continuous", {}, False, True),
    ("number_of_obstacles", {}, 0, 6),
    ("min_distance_between_obstacles", {"number_of_obstacles": 3}, 1.5, 2.5),
    ("randomize_obstacle_locations", {"number_of_obstacles": 6}, False, True),
    ("is_obstacle_bot_car", {"number_of_obstacles": 6}, False, True),
    ("object_positions", {}, [[0.1, 1]], [[0.1, -1]]),
    ("number_of_bot_cars", {}, 0, 3),
    ("bot_car_speed", {"number_of_bot_cars": 3}, 0.2, 2.0),
    ("is_lane_change", {**LANES, "upper_lane_change_time": 0.2}, False, True),
    ("lower_lane_change_time", LANES, 0.1, 4.0),
    ("upper_lane_change_time", LANES, 0.2, 9.0),
    ("lane_change_distance", {**LANES, "upper_lane_change_time": 0.2}, 0.2, 1.0),
    ("min_distance_between_bot_cars", {"number_of_bot_cars": 3}, 1.5, 2.5),
    ("randomize_bot_car_locations", {"number_of_bot_cars": 3}, False, True),
    ("enable_domain_randomization", {}, False, True),
    ("dynamics", {}, "gazebo", "gazebo-6"),
    ("dynamics", {}, "kinematic", "real"),
    *(("dynamics", {}, "gazebo", {name: 0.1}) for name in ("latency_s", "speed_lag_s", "steering_lag_s", "noise")),
    *(("dynamics", {}, "gazebo", {name: value}) for name, value in (("steering_gain", 0.2), ("friction", 0.05))),
    ("randomize", {}, "none", "sim2real"),
    *(("randomize", {}, {}, {name: 0.1}) for name in ("light", "camera_height_m", "steering_offset_deg")),
    ("track", {}, "oval", "reinvent_base"),
]
STRAIGHT_ON = 2
LEFT = 3
REFUSED = {"change_start_position": "true", "round_robin_advance_dist": 0.1, "alternate_driving_direction": True}
ELSEWHERE = {
    # The label that a race's results are under, as in the original; files and models, which other tests read.
    *("race_type", "tracks", "against", "params", "checkpoint", "trust_checkpoint", "env"),
    *("number_of_trials", "evaluate_episodes", "seed", "algorithm", "evaluate_steps"),
}


def drive(settings: dict[str, Any], *, seed: int = 0, trials: int = 1, action: int = STRAIGHT_ON) -> list[bytes]:
    """All that a car sees that takes one action again and again, and its steps."""
    options = read_options(**{"track": "oval", **settings}, is_training=False)
    seen: list[bytes] = []

    def logits(pictures: NDArray[Any]) -> NDArray[np.float32]:
        seen.append(pictures.tobytes())
        return np.eye(5, dtype=np.float32)[[action]]

    stop = StopRequest()
    racer = Racer("car", logits, options.metadata)
    results = run_race(options, [racer], trials=trials, videos=None, stop=stop, seed=seed)
    stop.release()
    without_wall_clock = slice(None, TRACE.index("wall_clock"))
    return seen + [trace[:, without_wall_clock].tobytes() for result in results for trace in result.traces]


@pytest.mark.parametrize(
    ("name", "beside", "one", "other"), ACTING, ids=[f"{name}={other}" for name, *_, other in ACTING]
)
def test_every_setting_that_is_accepted_acts(name: str, beside: dict[str, Any], one: Any, other: Any) -> None:
    races = []
    trials = 2 if name == "is_continuous" else 1
    for value in (one, other):
        settings, found, notes = resolve_race({**beside, name: value, "number_of_trials": trials})
        assert (settings[name], found, notes) == (value, trials, [])
        action = LEFT if name in ("penalty_seconds", "dynamics") else STRAIGHT_ON  # into the bot car; into a curve
        races.append(drive(settings, trials=trials, action=action))
    assert races[0] != races[1]


def test_every_setting_of_the_schema_is_known_to_act_or_to_be_refused() -> None:
    tested = {name for name, *_ in ACTING} | set(REFUSED) | ELSEWHERE
    assert set(evaluation_settings()) == tested


def test_the_seed_moves_objects() -> None:
    settings, _, _ = resolve_race({"number_of_obstacles": 6, "randomize_obstacle_locations": True})
    races = [drive(settings, seed=seed) for seed in (1, 2, 1)]
    assert races[0] == races[2] != races[1]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        *(
            ({name: value}, f"{name}: got .* expected none, as every trial starts at one")
            for name, value in REFUSED.items()
        ),
        ({"evaluate_steps": 9}, "evaluate_steps: got 9; expected none, as trials are counted"),
        ({"algorithm": "BCQ"}, "algorithm: got 'BCQ'; expected PPO"),
        ({"evaluate_episodes": 3, "number_of_trials": 2}, "evaluate_episodes: got 3 beside number_of_trials, 2"),
        (
            {"env_config": {"reward_function": "a.py"}},
            "reward_function: got 'a.py'; expected none, as rewards of",
        ),
        ({"env_config": {"model_metadata": "a"}}, "env_config.model_metadata: got 'a'; expected none, as the car is"),
        ({"env_config": {"is_training": True}}, "env_config.is_training: got True; expected a setting of a race"),
        ({"env_config": {"dynamic": "real"}}, "env_config.dynamic: .* Did you mean 'dynamics'"),
        (
            {"env_config": {"number_of_resets": "few"}},
            "number_of_resets: got 'few'; expected a whole number",
        ),
        ({"env_config": {"track": "oval"}, "track": "straight"}, "track: got 'straight', and 'oval' as rl.training"),
        ({"training_settings": ["rl.training.config.lr"]}, "rl.training.config.lr: got a setting of a training"),
    ],
)
def test_what_would_change_nothing_is_refused_by_name(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_race(chosen)


def test_settings_are_taken_as_a_training_spells_them_and_win_over_a_job_file(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_params.yaml"
    path.write_text(
        "DYNAMICS: real\nWORLD_NAME: oval\nNUMBER_OF_RESETS: '4'\nNUMBER_OF_TRIALS: 3\nEVAL_CHECKPOINT: last\n"
    )
    settings, trials, notes = resolve_race({"params": str(path), "env_config": {"number_of_resets": "7"}})
    assert (settings["dynamics"], settings["track"], settings["number_of_resets"], trials) == ("real", "oval", 7, 3)
    assert [note.removeprefix(str(tmp_path)) for note in notes] == [
        "/evaluation_params.yaml: EVAL_CHECKPOINT='last' has no effect here; checkpoint=best chooses."
    ]


def test_keys_of_a_training_are_named_in_an_evaluations_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("CHANGE_START_POSITION: 'true'\nALTERNATE_DRIVING_DIRECTION: 'False'\nNUM_WORKERS: 4\n")
    assert read_job_file(path, is_training=False).notes == (
        "params.yaml: CHANGE_START_POSITION='true' has no effect here.",
        "params.yaml: NUM_WORKERS=4 has no effect here.",
    )
    job = read_job_file(path, is_training=True)
    assert (job.notes, job.race["change_start_position"], job.values["NUM_WORKERS"]) == ((), True, 4)


@pytest.mark.parametrize(
    ("dynamics", "name"),
    [
        (Dynamics(version=2.0), "kinematic"),
        (dataclasses.replace(KNOWN_DYNAMICS["real"], version=4.0), "real"),
        (Dynamics(latency_s=0.1, steering_gain=0.5), "latency_s 0.1, steering_gain 0.5"),
    ],
)
def test_dynamics_have_a_name(dynamics: Dynamics, name: str) -> None:
    assert dynamics.name == name


def test_a_job_file_names_its_racers_and_names_do_not_add_cars(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_params.yaml"
    path.write_text("MODEL_S3_PREFIX: [one, other]\nDISPLAY_NAME: [Ana, Ben]\nRACER_NAME: racer\n")
    assert [(car["DISPLAY_NAME"], car["RACER_NAME"]) for car in read_job_file(path, is_training=False).cars] == [
        ("Ana", "racer"),
        ("Ben", "racer"),
    ]
    path.write_text("MODEL_S3_PREFIX: one\nDISPLAY_NAME: [Ana, Ben]\n")
    (car,) = read_job_file(path, is_training=False).cars
    assert car["DISPLAY_NAME"] == "Ana"
