"""The evaluation job: plays whole episodes with a trained policy, deterministically, and records the first."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.artifacts.resume import CHANNELS
from runtime.container.layout import CONFIG, Container, Layout
from runtime.container.scratch import scratch_folder
from runtime.container.signals import StopRequest
from runtime.errors import PlatformError, UserError
from runtime.files import write_json
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation
from runtime.interfaces.family import EnvFamily
from runtime.jobs.catalog import CATALOG, PLAIN, evaluation_settings, family_settings, resolve
from runtime.outputs.console import Reporter
from runtime.outputs.result import JobResult
from runtime.settings.resolve import Source
from runtime.settings.schema import ROOT, EvaluationSettings

FILE = "evaluation.json"
_ENV_CONFIG = "config.env_config"


@dataclass(frozen=True)
class _EvaluationRequest:
    """Resolved settings of an evaluation job; see Evaluation for their meaning."""

    settings: EvaluationSettings
    family_settings: Mapping[str, Any]
    env_config: Mapping[str, Any]
    training_settings: tuple[str, ...]


def run_evaluation(
    container: Container,
    stop: StopRequest,
    settings: Mapping[str, Any],
    *,
    model: Path | None = None,
    out: Path | None = None,
    car: Path | None = None,
    reporter: Reporter | None = None,
) -> JobResult:
    """Evaluates a policy and prints a line per episode, then mean, maximum and minimum.

    Args:
        container: The container that the job runs in.
        stop: The stop request; the episodes that ended until then are reported.
        settings: evaluate_episodes, env, algorithm, checkpoint, seed; they override the container's hyperparameters.
        model: Results folder, model directory or archive; None for the `model` channel.
        car: Archive of a DeepRacer car to evaluate in place of a model.
        out: Folder for evaluation.json and the video; None for the container's, or `evaluation/` beside the model.
        reporter: Shows the episodes and the summary; None prints them as lines.

    Raises:
        UserError: A setting, the model or the environment is invalid.
    """
    asked = _resolve_settings(container, settings)
    if car is not None and (model is not None or asked.settings.checkpoint is not None):
        raise UserError(
            f"--car: got {str(car)!r} beside {'a model' if model is not None else 'checkpoint=…'}; expected the "
            "archive alone, which holds one policy."
        )
    place = car or model or _find_model_channel(container)
    layout = _find_layout(container, place, out)
    reporter = reporter or Reporter()
    with _writing(layout.data):  # fails before any episode runs in vain
        layout.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch:
        context = RunContext(container, layout, reporter, stop, Path(scratch))
        evaluation, family = _open(asked, place, context, is_car=car is not None)
        result = family.evaluate(evaluation, context)
        with _writing(layout.data):
            write_json(layout.data / FILE, result.report)
    place_of_report = str(layout.data / FILE)
    summary = replace(
        result.summary,
        facts={"results": place_of_report, **result.summary.facts},
        values={**result.report, "results": place_of_report},
    )
    return JobResult(summary, reporter, _find_training(container, place, out))


def _resolve_settings(container: Container, settings: Mapping[str, Any]) -> _EvaluationRequest:
    sources = [Source(container.hyperparameters_source, container.hyperparameters)]
    sources.append(Source("the command line", settings))
    # The default preset has no effect here; resolving lists every problem, as for any job.
    config = resolve(sources, extras=evaluation_settings())
    names = {source.name for source in sources}
    given = [path for path, source in config.sources.items() if source in names and path not in config.extras]
    own = {name: value for name, value in config.extras.items() if name in EvaluationSettings.model_fields}
    env_config = config.algorithm.env_config
    return _EvaluationRequest(
        EvaluationSettings(**own),
        family_settings(config.extras),
        {name: value for name, value in env_config.items() if f"{_ENV_CONFIG}.{name}" in given},
        tuple(f"{ROOT}{path}" for path in given if path != _ENV_CONFIG and not path.startswith(f"{_ENV_CONFIG}.")),
    )


def _find_model_channel(container: Container) -> Path:
    found = next((container.channels[name] for name in CHANNELS if name in container.channels), None)
    if found is None:
        raise UserError("channel model: got no such channel; expected one that holds what training wrote.")
    return found


def _find_layout(container: Container, place: Path, out: Path | None) -> Layout:
    """Finds the folders to write to: the container's, or one folder for all results."""
    if out is None and container.layout is not None:
        return container.layout
    folder = out or (place if place.is_dir() else place.parent) / "evaluation"
    return replace(Layout.of_results(folder), videos=folder)


def _find_training(container: Container, place: Path, out: Path | None) -> Layout | None:
    """Finds the training whose report includes this evaluation, if the model is in its results folder."""
    layout = Layout.of_results(place) if out is None and container.layout is None else container.layout
    return layout if layout is not None and (layout.data / CONFIG).is_file() else None


def _open(asked: _EvaluationRequest, place: Path, context: RunContext, *, is_car: bool) -> tuple[Evaluation, EnvFamily]:
    """Opens the policy to evaluate, and finds the family of its environment."""
    from runtime.cluster.session import prepare_environment

    prepare_environment()
    from runtime.artifacts.checkpoint import find_rllib_checkpoint, read_state
    from runtime.artifacts.model_directory import open_model

    settings = asked.settings
    rllib = None if is_car else find_rllib_checkpoint(place)
    if rllib is not None:
        from runtime.artifacts.rllib_import import import_rllib  # imports RLlib

        if settings.checkpoint is not None:
            raise UserError(
                f"checkpoint: got {settings.checkpoint!r} for {rllib}, which RLlib wrote; expected no name, as it "
                "holds one policy. Name the folder of another checkpoint."
            )
        checkpoint = import_rllib(rllib, context.scratch / "model", note=context.reporter.note)
    elif is_car:
        from runtime.families.deepracer.car_import import import_car

        checkpoint = import_car(place, context.scratch / "car")
    else:
        checkpoint = open_model(place, scratch=context.scratch, checkpoint=settings.checkpoint)
    state = read_state(checkpoint)
    algorithm = CATALOG.algorithm_of(state.policy.get("algorithm"))
    family = CATALOG.family_of(state.env) if algorithm.acts_in_environment else PLAIN
    if settings.env is not None and not family.plays(settings.env):
        family = PLAIN
    # One in a channel is what the job's own settings name.
    is_archive = rllib is None and not checkpoint.is_relative_to(place)
    is_foreign = is_archive and place not in context.container.channels.values() and not settings.trust_checkpoint
    evaluation = Evaluation(
        checkpoint=checkpoint,
        state=state,
        algorithm=algorithm,
        place=place,
        settings=settings,
        family_settings=asked.family_settings,
        env_config=asked.env_config,
        training_settings=asked.training_settings,
        is_foreign=is_foreign,
    )
    return evaluation, family


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns write errors into a PlatformError that names the folder.

    Raises:
        PlatformError: The disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise PlatformError(
            f"{where}: could not be written: {error.strerror or error}. Choose another --out."
        ) from None
