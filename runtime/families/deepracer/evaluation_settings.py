"""Checks the settings of a DeepRacer evaluation: every setting has an effect or is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import Problems, suggest
from runtime.families.deepracer.job_files import EVALUATION_DEFAULTS, JobFile, read_job_file
from runtime.families.deepracer.race_settings import RACE, RACE_EVALUATION
from runtime.settings.types import coerce

TRIALS = 5
_TRIALS_OF_A_FILE = 10
_ENV_CONFIG = "rl.training.config.env_config"
_STARTS = "every trial starts at one place in one direction; start_position_offset and reverse_dir say which"
# Settings that have no effect in an evaluation, and why.
_WITHOUT_EFFECT = {
    "change_start_position": _STARTS,
    "round_robin_advance_dist": _STARTS,
    "alternate_driving_direction": _STARTS,
    "evaluate_steps": "trials are counted; number_of_trials says how many",
    "reward_function": "rewards of an evaluation are the center line's",
    "model_metadata": "the car is the one that the model was trained for",
}
_ROAD = ("track", "tracks")
_ACTING = tuple(name for name in (*RACE, *_ROAD) if name not in _WITHOUT_EFFECT)


def resolve_race(chosen: Mapping[str, Any]) -> tuple[dict[str, Any], int, list[str]]:
    """Resolves the settings of the race, the number of trials, and notes for the log.

    Args:
        chosen: Settings, as `RACE_EVALUATION` of the schema names them. Beside them `env_config`, the environment's as
            a training names them, `training_settings`, the names of a training's others, `trained_by`, the model's
            algorithm (PPO if not given), and `job`, a job file that was read already.

    Raises:
        UserError: A setting is wrong, or would change nothing; all of them are listed.
    """
    problems = Problems()
    given = chosen.get("env_config", {})
    _refuse(chosen, given, problems)
    named = {name: chosen[name] for name in _ACTING if name in chosen}
    for name in sorted(given.keys() & set(_ACTING)):
        try:
            value = coerce(given[name], RACE_EVALUATION[name])
        except ValueError as error:
            problems.add_line(f"{_ENV_CONFIG}.{name}: got {given[name]!r}; expected {error}.")
            continue
        if named.setdefault(name, value) != value:
            other = f"{value!r} as {_ENV_CONFIG}.{name}"
            problems.add_line(f"{name}: got {named[name]!r}, and {other}; expected one of them.")
    problems.raise_if_any()
    job, notes = _read_job(chosen)
    settings: dict[str, Any] = dict(EVALUATION_DEFAULTS)
    trials = TRIALS
    if job is not None:
        settings |= job.race
        trials = job.values.get("NUMBER_OF_TRIALS", _TRIALS_OF_A_FILE)
        if "WORLD_NAME" in job.values:
            settings["track"] = job.values["WORLD_NAME"]
    return settings | named, chosen.get("number_of_trials", chosen.get("evaluate_episodes", trials)), notes


def _refuse(chosen: Mapping[str, Any], given: Mapping[str, Any], problems: Problems) -> None:
    """Adds a problem for each setting that would have no effect."""
    for where, settings in (("", chosen), (f"{_ENV_CONFIG}.", given)):
        for name, why in _WITHOUT_EFFECT.items():
            if name in settings:
                problems.add_line(f"{where}{name}: got {settings[name]!r}; expected none, as {why}. Leave it out.")
    for name in sorted(given.keys() - {*_ACTING, *_WITHOUT_EFFECT}):
        remedy = suggest(name, _ACTING)
        problems.add_line(f"{_ENV_CONFIG}.{name}: got {given[name]!r}; expected a setting of a race.{remedy}")
    for name in chosen.get("training_settings", ()):
        problems.add_line(f"{name}: got a setting of a training; expected those of an evaluation. Leave it out.")
    trained_by = chosen.get("trained_by", "PPO")
    if chosen.get("algorithm", trained_by) != trained_by:
        problems.add_line(f"algorithm: got {chosen['algorithm']!r}; expected {trained_by}, which trained the model.")
    if "number_of_trials" in chosen and "evaluate_episodes" in chosen:
        problems.add_line(
            f"evaluate_episodes: got {chosen['evaluate_episodes']!r} beside number_of_trials, "
            f"{chosen['number_of_trials']!r}; expected one of them."
        )


def _read_job(chosen: Mapping[str, Any]) -> tuple[JobFile | None, list[str]]:
    """Reads the job file that is named, unless it was read already."""
    if "params" not in chosen:
        return chosen.get("job"), []
    job = read_job_file(Path(chosen["params"]), is_training=False)
    notes = list(job.notes)
    if "EVAL_CHECKPOINT" in job.values:
        asked = job.values["EVAL_CHECKPOINT"]
        notes.append(f"{chosen['params']}: EVAL_CHECKPOINT={asked!r} has no effect here; checkpoint=best chooses.")
    return job, notes
