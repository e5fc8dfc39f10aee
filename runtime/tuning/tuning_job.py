"""The tuning job from end to end: reads it, checks its ranges, runs the trials, and saves the best model."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.artifacts.manifest import only_writer
from runtime.cluster.hosts import refuse_several_hosts
from runtime.cluster.session import prepare_environment
from runtime.container.imports import importing
from runtime.container.layout import CONFIG, Container, Layout
from runtime.container.signals import StopRequest
from runtime.errors import PlatformError, Problems, UserError
from runtime.files import drop_partial_line, flush_tree, write_json, write_text, writing_aside
from runtime.jobs.exporting import Exporting
from runtime.jobs.training import Request, find_parts, new_results_folder, resolve_config
from runtime.outputs.console import Reporter, Summary
from runtime.outputs.metrics import JSONL, read_rows
from runtime.outputs.result import Finish, JobResult, show_summary
from runtime.settings.schema import JobConfig
from runtime.settings.types import parse_text
from runtime.tuning.display import TuningLines, make_display, show_value
from runtime.tuning.pictures import write_pictures
from runtime.tuning.records import FILE, Plan, Trial, best_trial, gather_trials, read_records
from runtime.tuning.request import TRIAL_DEFAULTS, TuningJob, parse_job, read_job

JOB = "tuning.json"
PRESET = "best.yaml"
_CHANNEL = "tuning"
_HYPERPARAMETER = "tuning"
_RUNNERS = "rl.training.config.num_env_runners"
# What may not change when a tuning is resumed, as its trials would no longer be comparable.
_FIXED = ("objective", "maximize", "regex", "ranges", "static", "seeds", "strategy", "resources", "stops_early")


@dataclass(frozen=True)
class TuningRequest:
    """Request for a tuning: its job description and its options.

    Attributes:
        job: File of the tuning job; None for the container's.
        overrides: Hyperparameters of every trial, on top of the file's.
        out: Results folder on a laptop; one that holds a tuning is resumed. None for a new one.
        finish_trial: Ends each training job, in its own process.
    """

    job: Path | None
    overrides: Mapping[str, Any]
    out: Path | None = None
    finish_trial: Finish = show_summary
    reporter: Reporter | None = None


def run_tuning(container: Container, stop: StopRequest, request: TuningRequest) -> JobResult | None:
    """Tunes hyperparameters; writes every trial, the best trial's model, and plots of all of them.

    Returns:
        The result of the job; None if no trial has ended.

    Raises:
        UserError: The tuning job or a hyperparameter is invalid.
        PlatformError: A file could not be written, or the machine failed.
    """
    refuse_several_hosts(container, "tunes")
    started = time.perf_counter()
    job, config = _check_ranges(_read(container, request), container)
    root = _find_root(container, request, config)
    with only_writer(root):
        plan = _make_plan(job, config, root)
        display = make_display(job, in_container=container.base is not None, reporter=request.reporter)
        try:
            for note in config.notes:
                display.note(note)
            prepare_environment()
            with stop, importing():  # Optuna
                from runtime.tuning.engine import run_trials
            why = run_trials(plan, config, container, stop, display, request.finish_trial)
            trials = gather_trials(read_records(root))
            seconds = time.perf_counter() - started
            return _write_results(plan, container, trials, display, why=why, seconds=seconds)
        finally:
            display.close()


def _read(container: Container, request: TuningRequest) -> TuningJob:
    """Reads the tuning job from the given file, or from the container's channel or hyperparameter."""
    given = dict(container.hyperparameters)
    words = given.pop(_HYPERPARAMETER, None)
    if request.job is not None:
        job = read_job(request.job)
    elif words is not None:
        found = parse_text(words) if isinstance(words, str) else words  # which the SDK may have quoted twice
        found = parse_text(found) if isinstance(found, str) else found
        is_path = isinstance(found, str) and not found.lstrip().startswith("{")
        job = read_job(Path(found)) if is_path else parse_job(found, source=f"hyperparameter {_HYPERPARAMETER}")
    else:
        job = read_job(_find_in_channel(container))
    static = {**job.static, **given, **request.overrides}
    clash = sorted({one.name for one in job.ranges} & static.keys())
    if clash:
        raise UserError(f"{', '.join(clash)}: got a value and a range; expected one of them. Leave the value out.")
    return replace(job, static=static)


def _find_in_channel(container: Container) -> Path:
    folder = container.channels.get(_CHANNEL)
    found = (
        [] if folder is None else sorted(path for path in folder.iterdir() if path.suffix in (".json", ".yaml", ".yml"))
    )
    if len(found) != 1:
        got = "no file" if folder is None else f"{len(found)} files in channel {_CHANNEL}"
        raise UserError(
            f"tuning job: got {got}; expected one JSON or YAML file in the words of SageMaker's "
            f"CreateHyperParameterTuningJob: the first word of smrl tune, a channel named {_CHANNEL}, or the "
            f"hyperparameter {_HYPERPARAMETER}."
        )
    return found[0]


def _check_ranges(job: TuningJob, container: Container) -> tuple[TuningJob, JobConfig]:
    """Resolves the settings with each range's ends, so that no trial fails for a value of the wrong kind.

    Returns:
        The job, whose trials sample in their own process, as they run side by side; and a trial's settings.
    """
    problems = Problems("the hyperparameters of this tuning")
    first = {one.name: one.ends[0] for one in job.ranges}
    seen: set[str] = set()
    found: JobConfig | None = None
    variants = [first] + [{**first, one.name: end} for one in job.ranges for end in one.ends[1:]]
    for point in variants:
        try:
            resolved = _resolve(container, {**job.settings, **point})
            found = found or resolved
        except UserError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            for line in lines[1:] if len(lines) > 1 else lines:
                if line not in seen:
                    seen.add(line)
                    problems.add_line(line)
    problems.raise_if_any()
    assert found is not None
    algorithm, family = find_parts(found, Request({}))
    runners = found.values().get("config.num_env_runners")
    if isinstance(runners, int) and runners > 0:
        source = found.sources["config.num_env_runners"]
        raise UserError(
            f"rl.training.config.num_env_runners: got {runners} from {source}; expected 0 in a tuning job, whose "
            "trials run side by side instead. Leave it out, and set MaxParallelTrainingJobs."
        )
    family.prepare(found, container)
    if not algorithm.acts_in_environment or _RUNNERS in job.static:
        return job, found
    return replace(job, static={**job.static, _RUNNERS: 0}), found


def _resolve(container: Container, overrides: Mapping[str, Any]) -> JobConfig:
    return resolve_config(replace(container, hyperparameters={}), Request(overrides, source="the tuning job"))


def _find_root(container: Container, request: TuningRequest, config: JobConfig) -> Path:
    """Finds the results folder; in a container the checkpoint folder, which survives a spot interruption."""
    if request.out is not None:
        root = request.out
    elif container.layout is not None:
        root = container.layout.checkpoints
    else:
        return new_results_folder(config, prefix="tune-")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out: got {str(root)!r}, which cannot be made ({error.strerror}); expected a folder."
        ) from None
    return root


def _make_plan(job: TuningJob, config: JobConfig, root: Path) -> Plan:
    """Makes the plan, with the trials of an earlier start if there was one."""
    path = root / JOB
    kept: dict[str, Any] = {}
    if path.is_file():
        kept = _read_kept(path)
        now = job.as_json()
        changed = [name for name in _FIXED if kept["job"].get(name) != now[name]]
        if changed:
            raise UserError(
                f"{root}: got a tuning of another job, which differs in {', '.join(changed)}; expected "
                "the same, as its trials are resumed. Choose another --out, or name this one in WarmStartConfig "
                "to learn from its trials."
            )
    elif any(root.glob("checkpoint*")) or (root / "metrics.jsonl").exists():
        raise UserError(f"{root}: got the results of another job; expected a new folder, or one of a tuning.")
    random_seed = kept.get("random_seed", job.random_seed if job.random_seed is not None else secrets.randbelow(2**31))
    first = kept.get("first_seed", config.algorithm.drawn_seed())
    drop_partial_line(root / FILE)
    write_json(path, {"job": job.as_json(), "random_seed": random_seed, "first_seed": first})
    seeds = tuple((first + number) % 2**32 for number in range(job.seeds))
    parents = [trial for place in job.parents for trial in _read_parent(Path(place))]
    return Plan(job, seeds, random_seed, root, gather_trials(read_records(root)), parents)


def _read_kept(path: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept["job"], dict):
            return kept
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: got a file that smrl tune did not write. Choose another --out.")


def _read_parent(place: Path) -> list[Trial]:
    folder = place.parent if place.name == FILE else place
    if not (folder / FILE).is_file():
        raise UserError(
            f"WarmStartConfig: got {str(place)!r}; expected the results folder of an earlier smrl tune, with its "
            f"{FILE}."
        )
    return gather_trials(read_records(folder))


def _write_results(
    plan: Plan, container: Container, trials: list[Trial], display: TuningLines, *, why: str, seconds: float
) -> JobResult | None:
    """Writes the best trial's model and preset and the plots, and returns the summary."""
    job, root = plan.job, plan.root
    best = best_trial(trials, seeds=len(plan.seeds), maximize=job.maximize)
    if best is None or best.objective is None:
        reasons = {record.reason for trial in trials for record in trial.jobs.values() if record.reason}
        if reasons and not any(trial.state == "started" for trial in trials):
            raise UserError(f"no trial of {len(trials)} completed; the reasons: {'; '.join(sorted(reasons))}")
        display.note(f"{why} before any trial has ended; start the tuning again to resume {root}")
        return None
    layout = container.layout
    source = _best_folder(root, best, maximize=job.maximize)
    model = root / "model" if layout is None else layout.model
    try:
        _write_preset(root / PRESET, best, job, source)
        with Exporting(display) as exporting:
            if (source / "model").is_dir():
                _copy_model(source / "model", model)
                exporting.start(model)
            else:
                display.note(f"the best trial was killed before it wrote its model; smrl train --out {source} ends it")
            pictures = _draw(root, job, trials, best, display)
            exporting.finish()
        if layout is not None:
            ignore = shutil.ignore_patterns("checkpoints", ".*")
            shutil.copytree(root, layout.data, dirs_exist_ok=True, ignore=ignore)
    except OSError as error:
        raise PlatformError(f"{root}: could not be written: {error.strerror or error}. {FILE} is whole.") from error
    states = [trial.state for trial in trials]
    spread = "" if best.spread is None else f" ± {best.spread:.3g} over {job.seeds} seeds"
    facts = {
        "best": f"{job.objective} {best.objective:.6g}{spread}, trial {best.number}",
        **{name: show_value(value) for name, value in best.hyperparameters.items()},
        "ended because": why,
        "trials": f"{len(trials)}: {', '.join(f'{states.count(state)} {state}' for state in dict.fromkeys(states))}",
        "steps": f"{sum(record.timesteps_total for trial in trials for record in trial.jobs.values()):,}",
        "seconds": f"{seconds:.1f}",
        "log": str(root / FILE),
        "preset": str(root / PRESET),
        "pictures": ", ".join(str(path) for path in pictures),
        "model": str(model),
    }
    values = {
        "objective": job.objective,
        "best_objective": best.objective,
        "best_trial": best.number,
        "hyperparameters": dict(best.hyperparameters),
        "trials": len(trials),
        "seconds": seconds,
        "ended_because": why,
        "results": str(root),
    }
    next_command = f"smrl train --preset {root / PRESET}"
    summary = Summary(f"tuned {len(job.ranges)} hyperparameters", facts, next_command, values)
    return JobResult(summary, display, layout or Layout.of_results(root))


def _best_folder(root: Path, best: Trial, *, maximize: bool) -> Path:
    """Finds the results of the best seed of the best trial."""
    sign = 1 if maximize else -1
    record = max(best.jobs.values(), key=lambda one: sign * (one.objective or 0.0))
    return root / record.folder


def _copy_model(source: Path, target: Path) -> None:
    if target.is_mount() or (target.is_dir() and not any(target.iterdir())):  # a volume cannot be renamed over
        shutil.copytree(source, target, dirs_exist_ok=True)
        flush_tree(target)
        return
    with writing_aside(target) as aside:
        shutil.copytree(source, aside)


def _draw(root: Path, job: TuningJob, trials: list[Trial], best: Trial, display: TuningLines) -> list[Path]:
    from runtime.tuning.search import importances  # Optuna's, and with it pandas

    try:
        return write_pictures(root, job, trials, best, importances(job, trials))
    except Exception as error:  # the best model is there; a picture must not turn success into failure
        display.note(f"no pictures: {type(error).__name__}: {error}")
        return []


def _write_preset(path: Path, best: Trial, job: TuningJob, results: Path) -> None:
    """Writes the best trial as a preset for `smrl train --preset`."""
    import yaml

    config = json.loads((results / CONFIG).read_text(encoding="utf-8"))
    training = _without_defaults(config, job)
    last = (read_rows(results / JSONL) or [{}])[-1]
    seconds = max(record.time_total_s for record in best.jobs.values())
    spread = "" if best.spread is None else f", with a standard deviation of {best.spread:.3g} over {job.seeds} seeds"
    preset = {
        "description": f"{training.get('env') or 'logged data'}, tuned for {job.objective}.",
        "source": f"Trial {best.number} of a tuning: {job.objective} {best.objective:.6g}{spread}.",
        "expected_return": float(last.get("episode_reward_mean", last.get("estimated_return", 0.0))),
        "minutes": round(max(seconds / 60, 0.01), 2),
        "steps": last.get("timesteps_total"),
        "training": training,
    }
    write_text(path, yaml.safe_dump(preset, sort_keys=False, allow_unicode=True))


def _without_defaults(config: Mapping[str, Any], job: TuningJob) -> dict[str, Any]:
    """Selects the nested settings that are not defaults and not specific to one machine, run or trial."""
    defaults = [name.removeprefix("rl.training.") for name in TRIAL_DEFAULTS if name not in job.static]
    left_out = {"config.seed", "config.num_env_runners", "restore", *defaults}
    tree: dict[str, Any] = {}
    for path, value in config["values"].items():
        if path in left_out or config["sources"].get(path, "default").startswith("default"):
            continue
        node = tree
        *parents, leaf = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
