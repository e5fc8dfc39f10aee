"""The training job from end to end: what to train, where to go on from, and what to hand over."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from envs import DEEPRACER_ID, UNITY_ID
from runtime.artifacts.resume import Start, find_start
from runtime.cluster.hosts import is_secondary, ray_hosts, refuse_several_hosts, support_first_host
from runtime.container.paths import CONFIG, Container, Layout
from runtime.container.scratch import scratch_folder
from runtime.container.signals import LOOKING, RESUMING, STARTING, WORKING, Interrupted, StopRequest
from runtime.environments.spec import EnvCreator, EnvSpec, check_env_name
from runtime.errors import JobError, PlatformError, Problems, UserError
from runtime.files import write_json
from runtime.outputs.console import Reporter, Summary, make_reporter
from runtime.report.report_command import write_report
from runtime.settings.resolve import DRAWN_SEED, JobConfig, Source, resolve
from runtime.settings.sizes import Room, check_sizes
from runtime.settings.types import Setting

if TYPE_CHECKING:
    from runtime.families.deepracer.callbacks import RecordSettings
    from runtime.offline.algorithm import HandOver
    from runtime.ppo.loop import Observe, Outcome

SaveModel = Callable[[Callable[[], None], JobConfig], None]
# What scripts for Coach send along, and the two jobs that one training with GPUs and CPUs was made of in 2020.
_EXTRAS = {
    "save_model": Setting("bool", "Accepted; the model is always written."),
    "rl_cluster_type": Setting("text", "Which of two jobs this one was.", choices=("primary", "secondary")),
    "rl_num_instances_secondary": Setting("int", "Hosts of the other job.", low=0),
}


@dataclass(frozen=True)
class Request:
    """A training as it was asked for.

    Attributes:
        overrides: By dotted name.
        source: Where those are from, for messages.
        results: Results folder on a laptop; None for a new one under `results/`.
        experiment: A launcher's nested experiment config, or None.
        find_creator: Finds a launcher's environment creator by name; None finds none.
        ray_options: A launcher's arguments of ray.init.
        records: How a DeepRacer training is recorded, where that is not the usual way.
        env_config: The environment's settings on this machine, where those are not the config's.
        reporter: Who is told of each iteration; None for the terminal's or the pipe's own.
        patience_s: How long to wait for a folder that another job is writing to.
    """

    overrides: Mapping[str, Any]
    source: str = "the command line"
    results: Path | None = None
    experiment: Mapping[str, Any] | None = None
    find_creator: Callable[[str], EnvCreator | None] = lambda name: None
    ray_options: Mapping[str, Any] | None = None
    records: RecordSettings | None = None
    env_config: Mapping[str, Any] | None = None
    reporter: Reporter | None = None
    patience_s: float = 0.0


def run_training(
    container: Container, stop_request: StopRequest, request: Request, *, save_model: SaveModel | None = None
) -> None:
    """Trains a policy and writes everything about it.

    Args:
        container: Where we run.
        stop_request: The platform's wish to stop.
        request: What to train.
        save_model: A launcher's hook; it is given the function that writes the model directory.

    Raises:
        UserError: The settings, the environment or a checkpoint are at fault.
        PlatformError: The machine is.
    """
    started = time.perf_counter()
    stop_request.begin(LOOKING)
    config, found = settle(resolve_config(container, request), container)
    if config.is_offline:
        refuse_several_hosts(container, "learns from logged data")
    if is_secondary(config):
        return
    if not container.is_master:
        support_first_host(config, container, stop_request)
        return
    if found is not None:
        request = replace(request, env_config=found)
    layout = _find_layout(config, container, request)
    reporter = request.reporter or make_reporter(
        f"smrl train {config.preset or config.env or 'logged data'}",
        config.stop,
        in_container=container.base is not None,
    )
    try:
        stop_request.tell = reporter.answer
        with (
            _only_writer(layout, request.patience_s),
            tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch,
        ):
            write_config(layout, config)
            start = find_start(config, container, layout, Path(scratch))
            stop_request.begin(WORKING if config.is_offline else RESUMING if start.is_same_job else STARTING)
            for note in config.notes:
                reporter.note(note)
            hand_over = _make_hand_over(config, layout, reporter, save_model)
            if config.is_offline:
                summary = _learn(config, container, (layout, start), (reporter, stop_request), hand_over)
            else:
                outcome = _train(config, container, (layout, start), (reporter, stop_request), request, hand_over)
                _plot(config, layout, outcome, reporter)
                summary = _summarise(config, layout, outcome)
        wall = {"seconds": f"{summary.facts['seconds']}, {time.perf_counter() - started:.1f} in all"}
        exports = {"exports": _describe_exports(layout.model)}
        if (report := write_report(layout, reporter)) is not None:
            exports["report"] = str(report)
        reporter.finish(replace(summary, facts={**summary.facts, **wall, **exports}))
    finally:
        reporter.close()


def settle(config: JobConfig, container: Container) -> tuple[JobConfig, Mapping[str, Any] | None]:
    """The config with its environment's files found and checked, and the environment's settings on this machine.

    Raises:
        UserError: They do not fit; all problems are listed.
    """
    if config.env == DEEPRACER_ID and not config.is_offline:
        from runtime.families.deepracer.preparation import settle_environment

        return settle_environment(config, container), None
    if config.env == UNITY_ID and not config.is_offline:
        from runtime.families.unity.preparation import settle_scene

        return settle_scene(config, container)
    return config, None


def resolve_config(container: Container, request: Request) -> JobConfig:
    """The job's settings, its environment's name checked, its seed drawn where none was set."""
    sources = [Source(container.hyperparameters_source, container.hyperparameters)]
    if request.experiment is not None:
        sources.insert(0, Source("get_experiment_config()", {"rl": request.experiment}, is_old_script=True))
    sources.append(Source(request.source, request.overrides))

    def check_env(where: str, name: str, source: str, problems: Problems) -> None:
        if request.find_creator(name) is None:
            check_env_name(where, name, source, problems)

    is_script = request.experiment is not None
    room = Room(container.memory_bytes, container.num_cpus, len(container.hosts))
    config = resolve(
        sources,
        extras=None if is_script else _EXTRAS,
        default_preset=not is_script,
        check_env=check_env,
        check_sizes=partial(check_sizes, room=room),
    )
    if config.algorithm.get("seed") is None:
        seeded = {**config.values, "config.seed": secrets.randbelow(2**31)}
        config = replace(config, values=seeded, sources={**config.sources, "config.seed": DRAWN_SEED})
    return config


def write_config(layout: Layout, config: JobConfig) -> None:
    """Writes config.json: the resolved settings with their sources, for whoever looks while the job runs.

    Raises:
        PlatformError: The disk is full.
    """
    described = {
        "preset": config.preset,
        "values": dict(config.values),
        "sources": dict(config.sources),
        "notes": list(config.notes),
    }
    try:
        write_json(layout.data / CONFIG, described)
    except OSError as error:
        raise PlatformError(f"{layout.data / CONFIG}: could not be written: {error.strerror or error}.") from None


def _find_layout(config: JobConfig, container: Container, request: Request) -> Layout:
    """Where to write: the folder that was asked for, the container's, or a new one under `results/`."""
    if request.results is not None:
        try:
            request.results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out: got {str(request.results)!r}, which cannot be made ({error.strerror}); expected a folder."
            ) from None
        return Layout.of_results(request.results)
    return container.layout or Layout.of_results(new_results_folder(config))


def _train(
    config: JobConfig,
    container: Container,
    places: tuple[Layout, Start],
    listeners: tuple[Reporter, StopRequest],
    request: Request,
    hand_over: HandOver,
) -> Outcome:
    from runtime.cluster.session import prepare_environment

    (layout, start), (reporter, stop_request) = places, listeners
    prepare_environment()
    from runtime.ppo.loop import TrainingJob
    from runtime.ppo.restart import train, write_from_newest

    env = _describe_env(config, request, layout)
    job = TrainingJob(
        config,
        env,
        layout,
        resume_from=start.checkpoint,
        is_same_job=start.is_same_job,
        hand_over=lambda checkpoint, spaces: hand_over(checkpoint, spaces, {}),
        observe=_find_observer(config, env, request, layout, reporter),
    )
    try:
        with ray_hosts(config, container, listeners, request.ray_options) as (machines, take_events):
            return train(replace(job, machines=machines, take_events=take_events), reporter, stop_request)
    except Interrupted:
        return write_from_newest(job, stop_request)


def _describe_env(config: JobConfig, request: Request, layout: Layout) -> EnvSpec:
    """The job's environment; a scene is not opened yet, as the threads of its server do not go with Ray's forks."""
    settings = config.env_config if request.env_config is None else request.env_config
    has_jobs_seed = config.env == UNITY_ID and "seed" not in settings
    if config.env == UNITY_ID:
        logs = str((layout.intermediate / "unity").absolute())
        settings = {"log_folder": logs, "seed": config.algorithm["seed"], **settings}
    horizon, creator = config.algorithm.get("horizon"), request.find_creator(config.env)
    return EnvSpec(config.env, settings, horizon, creator, has_jobs_seed)


def _find_observer(
    config: JobConfig, env: EnvSpec, request: Request, layout: Layout, reporter: Reporter
) -> Observe | None:
    """What is told of each iteration beside the metrics that every environment has."""
    if env.name == DEEPRACER_ID:
        from runtime.families.deepracer.callbacks import RecordSettings, TrainingRecords
        from runtime.families.deepracer.ppo_settings import describe_hyperparameters

        records = request.records or RecordSettings(layout.deepracer)
        records = replace(records, hyperparameters=describe_hyperparameters(config))
        return TrainingRecords(records, env, reporter, seed=config.algorithm["seed"]).after_iteration
    if env.name == UNITY_ID:
        from runtime.families.unity.callbacks import PlayerFaults

        return PlayerFaults(reporter).after_iteration
    return None


def _learn(
    config: JobConfig,
    container: Container,
    places: tuple[Layout, Start],
    listeners: tuple[Reporter, StopRequest],
    hand_over: HandOver,
) -> Summary:
    from runtime.offline.algorithm import learn_from_log

    layout, start = places
    begin = start.checkpoint, start.is_same_job
    return learn_from_log(config, container, layout, start=begin, listeners=listeners, hand_over=hand_over)


def _make_hand_over(config: JobConfig, layout: Layout, reporter: Reporter, save_model: SaveModel | None) -> HandOver:
    """What writes the model directory in the end, by a launcher's hook if there is one."""

    def hand_over(checkpoint: Path, spaces: tuple[Any, Any], worth: Mapping[str, Any]) -> None:
        from runtime.artifacts.manifest import only_writer
        from runtime.artifacts.model_directory import write_model

        def write() -> None:
            layout.model.mkdir(parents=True, exist_ok=True)
            with only_writer(layout.model):
                write_model(layout.model, checkpoint, config, spaces=spaces, worth=worth)
                if config.values["export"]:
                    export_or_note(layout.model, reporter)

        if save_model is None:
            write()
        else:
            save_model(write, config)

    return hand_over


def export_or_note(model: Path, reporter: Reporter) -> None:
    """Exports the policy; whatever goes wrong is noted, as the model directory with its checkpoint stands already."""
    from runtime.artifacts.manifest import note_exports
    from runtime.export.exporter import export_model

    try:
        export_model(model)
    except Exception as error:
        why = str(error) if isinstance(error, JobError) else f"{type(error).__name__}: {error}"
        reporter.note(f"the policy is not exported: {why}")
        with contextlib.suppress(OSError):  # of a full disk; the manifest lists no exports then, as it did before
            note_exports(model, [], {}, checkpoint="checkpoint", not_exported=why)


@contextlib.contextmanager
def _only_writer(layout: Layout, patience_s: float) -> Iterator[None]:
    """Holds the folder for this job alone; the lock goes with the process, however it ends.

    Raises:
        UserError: Another job holds it.
        PlatformError: It cannot be written to.
    """
    try:
        for folder in (layout.checkpoints, layout.data, layout.model):
            folder.mkdir(parents=True, exist_ok=True)
        opened = (layout.checkpoints / ".lock").open("w")
    except OSError as error:
        where = error.filename or layout.root
        raise PlatformError(
            f"{where}: got a place that cannot be written to ({error.strerror or error}); expected a folder of this "
            "job's own. Choose another --out, or make room."
        ) from None
    with opened as lock:
        deadline = time.monotonic() + patience_s
        while not _is_locked(lock):
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{layout.root}: got a folder that another job is writing to; expected one of this job's own. "
                    "Choose another --out, or wait."
                )
            time.sleep(0.1)
        yield


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def new_results_folder(config: JobConfig, *, prefix: str = "") -> Path:
    """Makes `results/<prefix><preset>-<time>`, numbered where two jobs start in one second."""
    stem = Path(config.preset or config.env or "batch-rl").stem.replace(":", "-")
    name = f"{prefix}{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = Path("results") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _plot(config: JobConfig, layout: Layout, outcome: Outcome, reporter: Reporter) -> None:
    from runtime.outputs.learning_curve import FILE, plot_learning_curve

    title, goal = f"{config.preset or config.env} ({config.env}, PPO)", config.stop.get("episode_reward_mean")
    try:
        plot_learning_curve(layout.data / FILE, outcome.state.rows, title=title, goal=goal)
    except Exception as error:  # the model is written; a picture must not turn success into failure
        reporter.note(f"no learning curve: {type(error).__name__}: {error}")


def _summarise(config: JobConfig, layout: Layout, outcome: Outcome) -> Summary:
    from runtime.outputs.learning_curve import FILE

    state = outcome.state
    facts = {
        "mean return": "no episode has ended"
        if state.episode_reward_mean is None
        else f"{state.episode_reward_mean:.2f}",
        "ended because": outcome.why,
        "steps": f"{state.timesteps_total:,} in {state.training_iteration} iterations",
        "seconds": f"{state.time_total_s:.1f} of training",
        "metrics": str(layout.data / "metrics.jsonl"),
        "curve": str(layout.data / FILE) if (layout.data / FILE).exists() else "none: no episode has ended",
        "TensorBoard": str(layout.data / "tensorboard"),
        "video": str(outcome.last_video) if outcome.last_video else "none",
        "checkpoints": str(layout.checkpoints),
        "model": str(layout.model),
    }
    return Summary(f"trained {config.env}", facts, f"smrl evaluate {layout.root}, or smrl serve {layout.root}")


def _describe_exports(model: Path) -> str:
    from runtime.artifacts.manifest import read_manifest
    from runtime.export.exporter import largest_difference

    manifest = read_manifest(model)
    exports = manifest.get("exports")
    if not exports:
        return f"none: {manifest.get('not_exported', 'rl.training.export is false').splitlines()[0]}"
    files = ", ".join(export["file"] for export in exports)
    return f"{files}; within {largest_difference(exports):.1g} of the policy"
