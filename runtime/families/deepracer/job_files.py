"""Reads and checks training_params.yaml and evaluation_params.yaml, the settings of a DeepRacer simulation job.

Values are strings in the wild (`"0"`, `"false"`), lists where several cars race. Source of keys, defaults and meaning:
DeepRacer's simulation application 6.0.5, its YAML templates, `rollout_worker.py` and `evaluation_worker.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from envs.deepracer.race import read_positions
from runtime.errors import UserError, suggest
from runtime.families.deepracer.race_settings import RACE
from runtime.settings.types import Setting, coerce

# Keys beside those of the race that act here.
_OTHER: dict[str, Setting] = {
    "WORLD_NAME": Setting("text", "Track."),
    "NUMBER_OF_TRIALS": Setting("int", "Laps of an evaluation.", low=0, above=True),
    "MIN_EVAL_TRIALS": Setting("int", "Episodes of each evaluation in training.", low=0),
    "NUM_WORKERS": Setting("int", "Simulations.", low=0, above=True),
    "NUMBER_OF_EPISODES": Setting("int", "Training episodes; 0 for no limit.", low=0),
    "TARGET_REWARD_SCORE": Setting("float", "Mean return at which training ends.", none_ok=True),
    "EVAL_CHECKPOINT": Setting("text", "Which checkpoint races.", choices=("best", "last")),
    "BEST_MODEL_METRIC": Setting("text", "What chooses the best model.", choices=("progress", "reward", "laptime")),
    "DISPLAY_NAME": Setting("text", "Racer's name in the videos."),
    "RACER_NAME": Setting("text", "Racer's name in the videos, if there is no DISPLAY_NAME."),
    **{
        name: Setting("text", "Place in S3.")
        for name in (
            *("MODEL_S3_BUCKET", "MODEL_S3_PREFIX", "METRICS_S3_BUCKET", "METRICS_S3_OBJECT_KEY"),
            *("SIMTRACE_S3_BUCKET", "SIMTRACE_S3_PREFIX", "MP4_S3_BUCKET", "MP4_S3_OBJECT_PREFIX"),
            *("REWARD_FILE_S3_KEY", "MODEL_METADATA_FILE_S3_KEY"),
        )
    },
}
_NAMES = ("DISPLAY_NAME", "RACER_NAME")
# Keys without effect here: streams, accounts, names of the league, locations that the job's own settings name.
_CARRIED = {
    *("KINESIS_VIDEO_STREAM_NAME", "TRAINING_JOB_ARN", "AWS_REGION", "ROBOMAKER_SIMULATION_JOB_ACCOUNT_ID"),
    *("VIDEO_JOB_TYPE", "MODEL_NAME", "LEADERBOARD_TYPE", "LEADERBOARD_NAME"),
    *("CAR_COLOR", "BODY_SHELL_TYPE", "CAMERA_MAIN_ENABLE", "CAMERA_SUB_ENABLE", "S3_ENDPOINT_URL", "JOB_TYPE"),
    *("ENABLE_EPISODE_SIMTRACE", "ENABLE_FIREHOSE_UPLOAD", "SAGEMAKER_SHARED_S3_BUCKET", "SAGEMAKER_SHARED_S3_PREFIX"),
}
# Keys of the original that would change a race but have no effect here: noted where they differ from their default.
_WITHOUT_EFFECT = {
    "OBSTACLE_TYPE": "box_obstacle",
    "DONE_CONDITION": "any",
    "PARK_POSITIONS": "[]",
    "RESET_BEHIND_DIST": "1.0",
    "RESET_AHEAD_DIST": "1.0",
    "ENABLE_MERCY_RESET": "false",
    "MAX_RESETS_AFTER_CRASH": "3",
    "NUMBER_OF_REVERSE_COUNTS": "15",
    "START_POS_OFFSET": "0.0",
    "TRACK_DIRECTION_CLOCKWISE": "false",
}
# Keys that act only in training: noted in an evaluation's file where they differ from the evaluation's value.
_OF_TRAINING = {
    "CHANGE_START_POSITION": "false",
    "ALTERNATE_DRIVING_DIRECTION": "false",
    "ROUND_ROBIN_ADVANCE_DIST": "0.05",
    "MIN_EVAL_TRIALS": "5",
    "NUM_WORKERS": "1",
    "NUMBER_OF_EPISODES": "0",
    "TARGET_REWARD_SCORE": "none",
    "BEST_MODEL_METRIC": "progress",
}
TRAINING_DEFAULTS = {"penalty_seconds": 0.0, "off_track_penalty": 0.0, "collision_penalty": 0.0}
EVALUATION_DEFAULTS = {"penalty_seconds": 2.0, "off_track_penalty": 2.0, "collision_penalty": 5.0}


@dataclasses.dataclass(frozen=True)
class JobFile:
    """The contents of a simulation job's YAML file.

    Attributes:
        race: Settings of Race by their names.
        values: The other keys that have an effect, typed; with several cars, the first car's.
        cars: The typed keys of each car.
        notes: Keys that were ignored, one line each.
    """

    race: Mapping[str, Any]
    values: Mapping[str, Any]
    cars: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def read_job_file(path: Path, *, is_training: bool) -> JobFile:
    """Reads a YAML file.

    Raises:
        UserError: It is not a YAML mapping, or values are wrong; all of them are listed.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror}); expected a YAML file.") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: got a file that is no YAML ({error}); expected keys as WORLD_NAME.") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: got {type(found).__name__}; expected a mapping of keys as WORLD_NAME to values.")
    reading = _Reading(path, is_training=is_training)
    for key, raw in found.items():
        if str(key) not in _CARRIED and raw not in (None, "", []):
            reading.add(str(key), raw)
    return reading.finish()


class _Reading:
    """The keys read from a file so far, and the problems."""

    def __init__(self, path: Path, *, is_training: bool) -> None:
        self._path = path
        self._is_training = is_training
        self._without_effect = _WITHOUT_EFFECT if is_training else _WITHOUT_EFFECT | _OF_TRAINING
        self._race: dict[str, Any] = dict(TRAINING_DEFAULTS if is_training else EVALUATION_DEFAULTS)
        self._values: dict[str, Any] = {}
        self._several: dict[str, list[Any]] = {}
        self._wrong: list[str] = []
        self._notes: list[str] = []

    def add(self, name: str, raw: Any) -> None:
        if name in self._without_effect:
            if str(raw).lower() != self._without_effect[name]:
                self._notes.append(f"{self._path.name}: {name}={raw!r} has no effect here.")
            return
        setting = (RACE.get(name.lower()) if name.isupper() else None) or _OTHER.get(name)
        if setting is None:
            known = [*(key.upper() for key in RACE), *_OTHER]
            self._notes.append(f"{self._path.name}: {name} is not known here and left out.{suggest(name, known)}")
            return
        try:
            if name == "OBJECT_POSITIONS":
                several = [read_positions(raw)]
            else:
                several = [coerce(item, setting) for item in (raw if isinstance(raw, list) else [raw])]
        except ValueError as error:
            self._wrong.append(f"{self._path}: {name}: got {raw!r}; expected {error}.")
            return
        if name in _OTHER:
            self._values[name] = several[0]
            self._several[name] = several
        else:
            self._race[name.lower()] = several[0]

    def finish(self) -> JobFile:
        resets = self._race.get("number_of_resets", 0)
        if not self._is_training and resets == 1:
            self._wrong.append(f"{self._path}: NUMBER_OF_RESETS: got 1; expected 0, or 2 and more.")
        if self._wrong:
            raise UserError("\n".join(self._wrong))
        counted = (several for name, several in self._several.items() if name not in _NAMES)
        count = max(map(len, counted), default=1)
        cars = tuple({name: found[i % len(found)] for name, found in self._several.items()} for i in range(count))
        return JobFile(self._race, self._values, cars, tuple(self._notes))
