"""The evaluation job of the DeepRacer notebook: evaluation_params.yaml says which models race, and where results go.

Source of the keys: DeepRacer's simulation application 6.0.5, `M/evaluation_worker.py`. A key with several values, as
MODEL_S3_PREFIX, is of several cars on one track.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.artifacts.model_directory import open_model
from runtime.artifacts.resume import CHANNELS
from runtime.cluster.session import prepare_environment
from runtime.container.layout import Container, Layout
from runtime.container.scratch import scratch_folder
from runtime.container.signals import StopRequest
from runtime.errors import Problems, UserError, suggest
from runtime.families.deepracer.evaluation import race
from runtime.families.deepracer.job_files import JobFile
from runtime.families.deepracer.places import PLACES, Places
from runtime.families.deepracer.storage import Bucket, Uploads
from runtime.files import write_json
from runtime.interfaces.context import RunContext
from runtime.outputs.console import Reporter

PARAMS = "evaluation_params.yaml"
_NAMES = (*PLACES, "evaluation_params", "seed")


def run_evaluation_worker(container: Container, stop: StopRequest, settings: Mapping[str, Any]) -> None:
    """Runs the notebook's evaluation job, and uploads its files if a bucket is given.

    Args:
        container: The container that the job runs in.
        stop: The stop request.
        settings: Settings of the command line, which override the container's hyperparameters.

    Raises:
        UserError: A hyperparameter, a file or a model is invalid.
        PlatformError: The storage fails.
    """
    values = _read_values({**container.hyperparameters, **settings})
    reporter = Reporter()
    prepare_environment()
    with tempfile.TemporaryDirectory(prefix="deepracer-", dir=scratch_folder()) as scratch:
        places = Places(values, container, Path(scratch))
        job = places.params(values.get("evaluation_params"), PARAMS, is_training=False, stop=stop)
        for note in job.notes:
            reporter.note(note)
        cars = job.cars or ({},)
        checkpoints = [_find_model(places, container, car, f"car_{n}", Path(scratch)) for n, car in enumerate(cars)]
        layout = container.layout or Layout.of_results(Path("results") / f"races-{time.strftime('%Y%m%d-%H%M%S')}")
        folder = layout.deepracer
        folder.mkdir(parents=True, exist_ok=True)
        chosen: dict[str, Any] = {"job": job, **({"seed": int(values["seed"])} if "seed" in values else {})}
        context = RunContext(container, replace(layout, data=folder), reporter, stop, Path(scratch))
        names = [car.get("DISPLAY_NAME") or car.get("RACER_NAME") or f"car {n}" for n, car in enumerate(cars)]
        result = race(checkpoints, chosen, context, names=names)
        write_json(folder / "evaluation.json", result.report)
        if places.bucket is not None:
            Uploads(folder, _find_uploads(places, folder, job)).send()
    reporter.finish(result.summary)


def _read_values(asked: Mapping[str, Any]) -> dict[str, str]:
    problems = Problems()
    for name, raw in asked.items():
        if name not in _NAMES:
            problems.add(
                name, raw, "the hyperparameters", expected=f"one of {', '.join(_NAMES)}", remedy=suggest(name, _NAMES)
            )
    seed = str(asked.get("seed", "0")).strip('"')
    if not seed.isdigit():
        problems.add("seed", seed, "the hyperparameters", expected="a whole number of at least 0")
    problems.raise_if_any()
    return {name: str(raw).strip('"') for name, raw in asked.items()}


def _find_model(places: Places, container: Container, car: Mapping[str, Any], name: str, scratch: Path) -> Path:
    """Finds a car's checkpoint: below its prefix, or in a channel."""
    is_best = car.get("EVAL_CHECKPOINT", "best") == "best"
    if prefix := car.get("MODEL_S3_PREFIX"):
        place = places.checkpoint(car.get("MODEL_S3_BUCKET"), prefix, is_best=is_best, name=name)
    else:
        found = next((container.channels[channel] for channel in CHANNELS if channel in container.channels), None)
        if found is None:
            raise UserError(
                f"MODEL_S3_PREFIX: missing in {PARAMS}; expected where a training job left its model, or a channel "
                f"named {' or '.join(CHANNELS)}."
            )
        place = found
    unpacked = scratch / f"{name}_unpacked"
    unpacked.mkdir()
    return open_model(place, scratch=unpacked)


def _find_uploads(places: Places, folder: Path, job: JobFile) -> dict[str, tuple[Bucket, str]]:
    """Finds the S3 destination of each car's files: by its keys, else below the job's prefix."""
    assert places.bucket is not None
    found: dict[str, tuple[Bucket, str]] = {"": (places.bucket, f"{places.prefix}/")}
    for number, car in enumerate(job.cars):
        own = f"agent_{number}/" if len(job.cars) > 1 else ""
        traces = next((folder / own).glob("evaluation-*/evaluation-simtrace"), None)
        for place, bucket, key in (
            ("evaluation_metrics.json", "METRICS_S3_BUCKET", car.get("METRICS_S3_OBJECT_KEY")),
            (
                f"{traces.parent.name}/evaluation-simtrace/" if traces is not None else "",
                "SIMTRACE_S3_BUCKET",
                _below(car.get("SIMTRACE_S3_PREFIX"), "evaluation-simtrace/"),
            ),
        ):
            if key and place:
                found[own + place] = (places.open(car.get(bucket)) or places.bucket, key)
    # The videos are of the whole track; the first car's key counts.
    if key := _below(job.values.get("MP4_S3_OBJECT_PREFIX"), ""):
        found["mp4/"] = (places.open(job.values.get("MP4_S3_BUCKET")) or places.bucket, key)
    return found


def _below(prefix: str | None, rest: str) -> str | None:
    return f"{prefix.rstrip('/')}/{rest}" if prefix else None
