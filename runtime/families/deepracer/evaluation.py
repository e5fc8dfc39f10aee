"""`smrl evaluate` of DeepRacer policies: laps against the clock, obstacles or bot cars, or two models on one track."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs import DEEPRACER_ID
from envs.deepracer.metadata import parse_metadata
from envs.deepracer.racing import Options, action_space, read_options
from runtime.artifacts.checkpoint import JobState, read_state
from runtime.artifacts.model_directory import open_model
from runtime.artifacts.policy_file import read_policy
from runtime.container.layout import Layout
from runtime.errors import PlatformError, UserError
from runtime.families.deepracer.evaluation_settings import resolve_race
from runtime.families.deepracer.grad_cam import draw_heat
from runtime.families.deepracer.races import Racer, Result, floor_tenth, run_race, write_results
from runtime.families.deepracer.records import HYPERPARAMETERS, write_metadata
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation, EvaluationResult
from runtime.outputs.console import Reporter, Summary

# Settings of the training environment that an evaluation keeps: the car and the road.
_TAKEN_OVER = ("track", "tracks", "model_metadata", "dynamics")


def evaluate(evaluation: Evaluation, context: RunContext) -> EvaluationResult:
    """Evaluates a policy, alone or against the model that `against` names.

    Raises:
        UserError: A setting or a model is invalid.
    """
    chosen = {**evaluation.settings.given(), **evaluation.family_settings}
    if evaluation.env_config:
        chosen["env_config"] = evaluation.env_config
    if evaluation.training_settings:
        chosen["training_settings"] = evaluation.training_settings
    chosen["trained_by"] = evaluation.state.policy.get("algorithm", "PPO")
    checkpoints = [evaluation.checkpoint]
    names = [_name_of(evaluation.place)]
    if "against" in chosen:
        scratch = context.scratch / "against"
        scratch.mkdir()
        try:
            against = context.container.find_input(chosen["against"]) or Path(chosen["against"])
            names.append(_name_of(against))
            checkpoints.append(open_model(against, scratch=scratch, checkpoint=chosen.get("checkpoint")))
        except UserError as error:
            raise UserError(f"against: {error}") from None
    data = context.layout.data
    records = Layout.of_results(evaluation.place).deepracer  # of a training, where log tools find both
    traces = records if records.is_dir() and data.is_relative_to(evaluation.place) else data
    try:
        result = race(checkpoints, chosen, context, names=names, traces=traces)
        if traces != records and (records / HYPERPARAMETERS).is_file():
            (traces / HYPERPARAMETERS).parent.mkdir(exist_ok=True)
            shutil.copyfile(records / HYPERPARAMETERS, traces / HYPERPARAMETERS)
        return result
    except OSError as error:
        where = error.filename or data
        raise PlatformError(
            f"{where}: could not be written: {error.strerror or error}. Choose another --out."
        ) from error


def race(
    checkpoints: list[Path],
    chosen: Mapping[str, Any],
    context: RunContext,
    *,
    names: list[str],
    traces: Path | None = None,
) -> EvaluationResult:
    """Runs a race, prints its results and writes the files that DeepRacer's tools read.

    Args:
        checkpoints: Checkpoint of each racer.
        chosen: Settings, as `resolve_race` takes them.
        context: Run context of the evaluation.
        names: Name of each racer in the videos.
        traces: Folder of the step traces; beside the other files if None.

    Raises:
        UserError: A setting or a model is invalid.
    """
    folder = context.layout.data
    reporter = context.reporter
    stop = context.stop
    traces = traces or folder
    settings, trials, notes = resolve_race(chosen)
    for note in notes:
        reporter.note(note)
    states = [read_state(checkpoint) for checkpoint in checkpoints]
    options, racers, modules = _prepare(
        checkpoints, states, settings, trust=bool(chosen.get("trust_checkpoint", False))
    )
    seed = chosen.get("seed", 0)
    racers = [replace(racer, title=name) for racer, name in zip(racers, names, strict=True)]
    results = run_race(options, racers, trials=trials, videos=folder / "mp4", stop=stop, seed=seed)
    written = write_results(folder, traces, options, results)
    for own, racer, module, result in zip(written, racers, modules, results, strict=True):
        assert result.frames is not None
        draw_heat(module, result.frames, racer.metadata).save(own / "grad_cam.png")
    if len(racers) == 1:
        write_metadata(traces, racers[0].metadata)
    for result in results:
        _print(result, reporter, is_alone=len(results) == 1)
    facts = {"dynamics": options.race.dynamics.name, **_summarize(results)}
    facts |= {"videos": str(folder / "mp4"), "metrics": ", ".join(str(own) for own in written)}
    first = results[0]
    report = {
        "env": states[0].env,
        "track": options.track.name,
        "race_type": options.race.race_type,
        "dynamics": {"name": options.race.dynamics.name, **options.race.dynamics.settings},
        "randomize": options.race.randomize.settings,
        "checkpoints": [checkpoint.name for checkpoint in checkpoints],
        "seed": seed,
        "mean_reward": statistics.fmean(first.returns),
        "max_reward": max(first.returns),
        "min_reward": min(first.returns),
        "episodes": [
            {"total_reward": total, "steps": len(trace)}
            for total, trace in zip(first.returns, first.traces, strict=True)
        ],
        "racers": [
            {
                "name": result.name,
                "laps": result.laps,
                "lap_bound_s": None if result.bound is None else round(result.bound.seconds, 3),
            }
            for result in results
        ],
    }
    return EvaluationResult(
        report, Summary(f"{options.race.race_type} on {options.track.name}, {trials} trials", facts)
    )


def _name_of(place: Path) -> str:
    """Names a racer by its results folder, model directory or archive."""
    return place.resolve().name.removesuffix(".tar.gz")


def _prepare(
    checkpoints: list[Path], states: list[JobState], settings: Mapping[str, Any], *, trust: bool
) -> tuple[Options, list[Racer], list[Any]]:
    """Returns the race's options, its racers and their networks."""
    trained = states[0].policy["env_config"]
    kept = {name: trained[name] for name in _TAKEN_OVER if name in trained}
    if len(checkpoints) > 1:
        settings = {"race_type": "HEAD_TO_MODEL", **settings}
    racers, modules = [], []
    try:
        options = read_options(**{**kept, **settings}, is_training=False)
        for number, (checkpoint, state) in enumerate(zip(checkpoints, states, strict=True)):
            if state.env != DEEPRACER_ID:
                raise UserError(f"against: got a model of {state.env}; expected one of {DEEPRACER_ID}.")
            metadata = parse_metadata(state.policy["env_config"]["model_metadata"])
            policy = read_policy(checkpoint, action_space(metadata), settings=state.policy, trust=trust)
            modules.append(policy.module)
            racers.append(Racer(f"car {number}" if len(states) > 1 else "car", policy.logits, metadata))
    except ValueError as error:
        hint = ""
        if "track" not in settings and "track" in str(error):
            track = trained.get("track", "the default track")
            hint = f" The model was trained on {track!r}; track=NAME drives another."
        raise UserError(f"{error}{hint}") from None
    return options, racers, modules


def _print(result: Result, reporter: Reporter, *, is_alone: bool) -> None:
    name = "" if is_alone else f"{result.name}: "
    for lap in result.laps:
        reporter.line(
            f"{name}trial {lap['trial']}: {lap['episode_status']}, {lap['completion_percentage']} %, "
            f"{lap['elapsed_time_in_milliseconds'] / 1000:.3f} s, {lap['reset_count']} resets"
        )
    for number, (total, trace) in enumerate(zip(result.returns, result.traces, strict=True)):
        reporter.line(
            f"Testing> Name=main_level/agent, Worker=0, Episode={number}, Total reward={total:.2f}, Exploration=0, "
            f"Steps={len(trace)}, Training iteration=0"
        )
    if is_alone:
        reporter.line(f"Mean Reward: {statistics.fmean(result.returns)}")
        reporter.line(f"Max Reward: {max(result.returns)}")
        reporter.line(f"Min Reward: {min(result.returns)}")


def _summarize(results: list[Result]) -> dict[str, str]:
    facts = {}
    for result in results:
        times = [lap["elapsed_time_in_milliseconds"] / 1000 for lap in result.complete]
        laps = f"{len(times)} of {len(result.laps)} laps complete"
        facts[result.name] = laps + (
            f", mean {statistics.fmean(times):.3f} s, best {min(times):.3f} s" if times else ""
        )
        if result.bound is not None:
            facts[result.name] += f"; the track allows {floor_tenth(result.bound.seconds)} s"
    if all(_is_one_lap(result) for result in results):
        facts["trials"] = 'the same lap each time; dynamics={"noise": 0.025} spreads them as the original simulator\'s'
    if len(results) > 1:
        wins = [0] * len(results)
        for laps in zip(*(result.laps for result in results), strict=False):
            times = [
                lap["elapsed_time_in_milliseconds"] if lap["episode_status"] == "Lap complete" else np.inf
                for lap in laps
            ]
            if np.isfinite(min(times)):
                wins[int(np.argmin(times))] += 1
        facts["laps won"] = ", ".join(f"{result.name}: {count}" for result, count in zip(results, wins, strict=True))
    return facts


def _is_one_lap(result: Result) -> bool:
    """Whether several trials went the same way."""
    place = ("trial", "metric_time", "start_time")
    ways = {tuple(value for name, value in lap.items() if name not in place) for lap in result.laps}
    return len(result.laps) > 1 and len(ways) == 1
