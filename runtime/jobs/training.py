"""The training job from end to end: settings, resuming, training, export and report."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runtime.artifacts.resume import find_start
from runtime.artifacts.run_record import recording_run
from runtime.cluster.hosts import (
    is_secondary,
    refuse_several_hosts,
    reporting_failure,
    start_head_node,
    support_head_node,
)
from runtime.cluster.session import prepare_environment
from runtime.container.layout import CONFIG, SUMMARY, Container, Layout
from runtime.container.scratch import scratch_folder
from runtime.container.signals import LOOKING, RESUMING, STARTING, WORKING, StopRequest
from runtime.environments.spec import EnvCreator, check_env_name
from runtime.errors import PlatformError, Problems, UserError
from runtime.files import FORKS_END_WITHIN_S, lock, make_writable, write_json
from runtime.interfaces.algorithm import Algorithm, Training
from runtime.interfaces.context import RunContext, WriteModel
from runtime.interfaces.family import EnvFamily
from runtime.jobs.catalog import CATALOG, PLAIN, resolve
from runtime.jobs.exporting import Exporting
from runtime.outputs.console import Reporter, Summary
from runtime.outputs.result import JobResult
from runtime.outputs.tracking import check_tracker, tracking
from runtime.policies.spaces import Spaces
from runtime.ppo.own_network import check_module
from runtime.settings.resolve import DRAWN_SEED, Source
from runtime.settings.schema import ROOT, JobConfig
from runtime.settings.sizes import Room, check_sizes
from runtime.settings.types import Setting

SaveModel = Callable[[Callable[[], None], JobConfig], None]
# Hyperparameters of Coach scripts, and of the 2020 example that split one training into a GPU job and a CPU job.
_EXTRAS = {
    "save_model": Setting("bool", "Accepted; the model is always written."),
    "rl_cluster_type": Setting("text", "Which of two jobs this one was.", choices=("primary", "secondary")),
    "rl_num_instances_secondary": Setting("int", "Hosts of the other job.", low=0),
}


@dataclass(frozen=True)
class Request:
    """Request for a training: its sources of settings and its options.

    Attributes:
        overrides: Settings by dotted name.
        kept: Settings of the job that this one resumes, which every other source overrides; empty for a new job.
        preset: Name of the preset that the kept settings began with.
        source: Name of the source of the overrides, for messages.
        results: Results folder on a laptop; None for a new one under `results/`.
        experiment: A launcher's nested experiment config, or None.
        experiment_source: Name of the source of that config, for messages.
        find_creator: Finds a launcher's environment creator by name; None finds none.
        ray_options: A launcher's arguments of ray.init.
        family: The environment's family, if it is not the catalog's.
        reporter: Shows the job's progress; None chooses one for the terminal or the pipe.
    """

    overrides: Mapping[str, Any]
    kept: tuple[Source, ...] = ()
    preset: str | None = None
    source: str = "the command line"
    results: Path | None = None
    experiment: Mapping[str, Any] | None = None
    experiment_source: str = "get_experiment_config()"
    find_creator: Callable[[str], EnvCreator | None] = lambda name: None
    ray_options: Mapping[str, Any] | None = None
    family: EnvFamily | None = None
    reporter: Reporter | None = None


def run_training(
    container: Container, stop: StopRequest, request: Request, *, save_model: SaveModel | None = None
) -> JobResult | None:
    """Trains a policy and writes everything about it.

    Args:
        container: The container that the job runs in.
        stop: The stop request.
        request: The training to run.
        save_model: A launcher's hook, which is called with the function that writes the model directory.

    Returns:
        The result of the job; None on a host that does not train.

    Raises:
        UserError: The settings, the environment or a checkpoint are invalid.
        PlatformError: A file could not be written, or the machine failed.
    """
    started = time.perf_counter()
    stop.begin(LOOKING)
    config = resolve_config(container, request)
    algorithm, family = find_parts(config, request)
    if not algorithm.uses_cluster:
        refuse_several_hosts(container, f"runs {config.run}")
    if is_secondary(config.extras):
        return None
    if len(container.hosts) > 1 and container.is_master:
        start_head_node(container, stop, request.ray_options)  # first, so that the other hosts notice if the rest fails
    with reporting_failure(container, stop):
        prepared = family.prepare(config, container)
    config = prepared.config
    if not container.is_master:
        support_head_node(container, stop, timeout_s=config.cluster_timeout_s)
        return None
    layout = _find_layout(config, container, request)
    title = f"smrl train {config.preset or config.env or 'logged data'}"
    in_container = container.base is not None
    reporter = request.reporter or _make_reporter(title, config.stop.given(), in_container=in_container)
    stop.tell = reporter.answer
    training = Training(prepared, family, request.find_creator(config.env_id))
    try:
        with (
            _only_writer(layout),
            tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch,
            recording_run(layout.data, container) as run,
            tracking(config.tracking, reporter.note, lambda: stop.is_set) as tracked,
            Exporting(reporter) as exporting,
        ):
            write_config(layout, config)
            for path, value in config.values().items():
                reporter.detail(f"{ROOT}{path} = {value!r}, from {config.sources[path]}")
            name = container.job_name or layout.root.resolve().name
            tracked.start(name, config.values(), layout.data, ids=layout.checkpoints)
            context = RunContext(
                container=container,
                layout=layout,
                reporter=reporter,
                stop=stop,
                scratch=Path(scratch),
                start=find_start(config, container, layout, Path(scratch)),
                write_model=_make_model_writer(config, layout, exporting, save_model),
                ray_options=request.ray_options,
                tracking=tracked,
            )
            summary = _train(algorithm, training, context)
            run.reason = summary.facts.get("ended because", "")
            reporter.show_phase("exporting")
            exporting.finish()
            tracked.describe(
                summary.values, {"model": layout.model, "checkpoints": layout.checkpoints, "data": layout.data}
            )
        exports = _describe_exports(layout.model)
    except BaseException:
        reporter.close()
        raise
    seconds = f"{summary.facts['seconds']}, {time.perf_counter() - started:.1f} in all"
    facts = {**summary.facts, "seconds": seconds, "exports": exports}
    summary = replace(summary, facts=facts)
    with _noting_full_disk(reporter):
        write_json(layout.data / SUMMARY, asdict(summary))
    return JobResult(summary, reporter, layout)


@contextlib.contextmanager
def _noting_full_disk(reporter: Reporter) -> Iterator[None]:
    """Notes that a file could not be written that the job's success does not hang on."""
    try:
        yield
    except OSError as error:
        reporter.note(f"no {SUMMARY}: {error.strerror or error}")


def _make_reporter(title: str, stop: Mapping[str, float], *, in_container: bool) -> Reporter:
    """Makes a live panel in a terminal; plain lines in a pipe, and in a container even with a terminal."""
    if in_container or not sys.stdout.isatty():
        return Reporter()
    from runtime.outputs.panel import LiveReporter  # imports rich, which a job in a container does without

    return LiveReporter(title, stop)


def find_parts(config: JobConfig, request: Request) -> tuple[Algorithm, EnvFamily]:
    """Returns the algorithm of a job, and the family of the environment that it acts in."""
    algorithm = CATALOG.algorithm_of(config.run)
    if not algorithm.acts_in_environment:
        return algorithm, PLAIN
    return algorithm, request.family or CATALOG.family_of(config.env_id)


def _train(algorithm: Algorithm, training: Training, context: RunContext) -> Summary:
    """Notes what the job is and resumes from, and trains."""
    config = training.prepared.config
    starting = RESUMING if context.start.is_same_job else STARTING
    context.stop.begin(starting if algorithm.acts_in_environment else WORKING)
    for note in config.notes:
        context.reporter.note(note)
    container = context.container
    if container.is_for_gpus and not container.num_gpus and len(container.hosts) == 1:
        context.reporter.note(
            "no GPU found: training on the CPU; with a GPU and its driver, start the container with --gpus all"
        )
    return algorithm.train(training, context)


def resolve_config(container: Container, request: Request) -> JobConfig:
    """Resolves the job's settings; draws a seed if none was set."""
    sources = [*request.kept, Source(container.hyperparameters_source, container.hyperparameters)]
    if request.experiment is not None:
        experiment = {"rl": request.experiment}
        sources.insert(0, Source(request.experiment_source, experiment, is_old_script=True, is_typed=True))
    sources.append(Source(request.source, request.overrides))

    prepare_environment()  # as the module of an environment may import ray

    def check_env(where: str, name: str, source: str, problems: Problems) -> None:
        if request.find_creator(name) is None:
            check_env_name(where, name, source, problems)

    def check_machine(values: Mapping[str, Any], sources: Mapping[str, str], problems: Problems) -> None:
        check_sizes(values, sources, problems, room=room)
        check_tracker(values, sources, problems)
        check_module(values, sources, problems)

    is_script = request.experiment is not None
    room = Room(container.memory_bytes, container.num_cpus, len(container.hosts))
    config = resolve(
        sources,
        extras=None if is_script else _EXTRAS,
        default_preset=not is_script and not request.kept,
        check_env=check_env,
        check_sizes=check_machine,
    )
    if request.kept:
        config = config.model_copy(update={"preset": request.preset})
    if config.algorithm.seed is None:
        config = config.replace({"config.seed": secrets.randbelow(2**31)}, source=DRAWN_SEED)
    return config


def write_config(layout: Layout, config: JobConfig) -> None:
    """Writes config.json: the resolved settings with their sources, to be read while the job runs.

    Raises:
        PlatformError: The disk is full.
    """
    described = {
        "preset": config.preset,
        "values": config.values(),
        "sources": dict(config.sources),
        "notes": list(config.notes),
    }
    try:
        (layout.data / SUMMARY).unlink(missing_ok=True)  # of the job before it was resumed
        write_json(layout.data / CONFIG, described)
    except OSError as error:
        raise PlatformError(f"{layout.data / CONFIG}: could not be written: {error.strerror or error}.") from None


def _find_layout(config: JobConfig, container: Container, request: Request) -> Layout:
    """Finds the folders to write to: the one asked for, the container's, or a new one under `results/`."""
    if request.results is not None:
        try:
            request.results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out: got {str(request.results)!r}, which cannot be made ({error.strerror}); expected a folder."
            ) from None
        return Layout.of_results(request.results)
    return container.layout or Layout.of_results(new_results_folder(config))


def _make_model_writer(
    config: JobConfig, layout: Layout, exporting: Exporting, save_model: SaveModel | None
) -> WriteModel:
    """Makes the function that writes the model directory, through a launcher's hook if there is one."""

    def write_model_directory(checkpoint: Path, spaces: Spaces, facts: Mapping[str, Any]) -> None:
        from runtime.artifacts.manifest import only_writer
        from runtime.artifacts.model_directory import write_model

        def write() -> None:
            layout.model.mkdir(parents=True, exist_ok=True)
            with only_writer(layout.model):
                write_model(layout.model, checkpoint, config, spaces=spaces, facts=facts)
            if config.export:
                exporting.start(layout.model)

        if save_model is None:
            write()
            return

        def write_all() -> None:
            write()
            exporting.finish()  # as the hook may copy the folder then

        save_model(write_all, config)

    return write_model_directory


@contextlib.contextmanager
def _only_writer(layout: Layout) -> Iterator[None]:
    """Locks the folder for this job; the lock is released when the process ends, however it ends.

    Raises:
        UserError: Another job holds the lock.
        PlatformError: The folder cannot be written to.
    """
    with contextlib.ExitStack() as locked:
        try:
            for folder in (layout.checkpoints, layout.data, layout.model):
                make_writable(folder)
            locked.enter_context(lock(layout.checkpoints / ".lock", timeout_s=FORKS_END_WITHIN_S))
        except BlockingIOError:
            raise UserError(
                f"{layout.root}: got a folder that another job is writing to; expected one of this job's own. "
                "Choose another --out, or wait."
            ) from None
        except OSError as error:
            where = error.filename or layout.root
            raise PlatformError(
                f"{where}: got a folder that cannot be written to ({error.strerror or error}); expected a folder of "
                "this job's own. Choose another --out, mount it for writing, or make room."
            ) from None
        yield


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


def _describe_exports(model: Path) -> str:
    from runtime.artifacts.manifest import largest_difference, read_manifest

    manifest = read_manifest(model)
    exports = manifest.get("exports")
    if not exports:
        return f"none: {manifest.get('not_exported', 'rl.training.export is false').splitlines()[0]}"
    files = ", ".join(export["file"] for export in exports)
    return f"{files}; within {largest_difference(exports):.1g} of the policy"
