"""Reads the contents of a results folder, which may be incomplete while its job runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.artifacts.run_record import RunRecord, read_run_record
from runtime.container.layout import CONFIG, Layout
from runtime.errors import UserError
from runtime.outputs.metrics import JSONL, read_rows
from runtime.report.steps import StepCharts, find_traces, read_step_charts
from runtime.tuning.records import FILE as TUNING_LOG
from runtime.tuning.records import Trial, gather_trials, read_records
from runtime.tuning.request import TuningJob, restore_job

_MOST_VIDEOS = 4


@dataclass(frozen=True)
class Video:
    """A video: its file, and its caption."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Results:
    """A job's results.

    Attributes:
        name: Name of the folder.
        rows: Rows of metrics.jsonl.
        config: `{preset, values, sources, notes}` of a training; empty for results of an earlier version.
        manifest: Manifest of the model directory; empty while the job runs.
        evaluation: evaluation.json, or empty.
        estimates: ope.json of a job on logged data, or empty.
        videos: At most four videos, the newest ones.
        pictures: PNG files by caption: estimates, driven lines, importance.
        tuning: The tuning job, if these are the results of one.
        trials: Trials of the tuning.
        steps: Charts of DeepRacer's newest episodes, if there are any.
        run: Command, machine, versions and state of a training, if it was recorded.
    """

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    estimates: Mapping[str, Any] = field(default_factory=dict)
    videos: tuple[Video, ...] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)
    tuning: TuningJob | None = None
    trials: tuple[Trial, ...] = ()
    steps: StepCharts | None = None
    run: RunRecord | None = None

    @property
    def env(self) -> str:
        """Name of the environment, as far as anything says it."""
        return str(self.config.get("values", {}).get("env") or self.manifest.get("env") or "")

    @property
    def goal(self) -> float | None:
        """Mean return that the training was to stop at."""
        found = self.config.get("values", {}).get("stop.episode_reward_mean")
        return None if found is None else float(found)


def read_results(layout: Layout) -> Results:
    """Reads the files that exist.

    Raises:
        UserError: The folder is not a results folder.
    """
    data = layout.data
    evaluated = [data / "evaluation", layout.model / "evaluation", data]
    tuning = _read(data / "tuning.json")
    results = Results(
        name=layout.root.resolve().name if layout.data == layout.root else "job",
        rows=read_rows(data / JSONL),
        config=_read(data / CONFIG),
        manifest=_read(layout.model / "manifest.json"),
        evaluation=next((found for place in evaluated if (found := _read(place / "evaluation.json"))), {}),
        estimates=_read(data / "ope.json"),
        videos=_find_videos(layout, evaluated),
        pictures=_find_pictures(layout, evaluated),
        tuning=_restore(tuning),
        steps=_read_steps(layout, evaluated),
        run=read_run_record(data),
        trials=tuple(gather_trials(read_records(data))) if (data / TUNING_LOG).is_file() else (),
    )
    if not (results.rows or results.config or results.manifest or results.evaluation or results.tuning):
        raise UserError(
            f"report: got {str(layout.root)!r}, which holds no {JSONL}, {CONFIG} or {TUNING_LOG}; expected the results "
            "folder of a training, an evaluation or a tuning."
        )
    return results


def _read_steps(layout: Layout, evaluated: list[Path]) -> StepCharts | None:
    found = find_traces({layout.deepracer, *evaluated})
    return None if found is None else read_step_charts(*found)


def _restore(described: Mapping[str, Any]) -> TuningJob | None:
    try:
        return restore_job(described["job"])
    except (KeyError, TypeError):  # absent, or not ours
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or being written
        return {}
    return found if isinstance(found, dict) else {}


def _find_videos(layout: Layout, evaluated: list[Path]) -> tuple[Video, ...]:
    """Finds videos: the evaluation's, then the training's from the latest back; omits those in the middle."""
    found = [Video(path, _describe(path, "evaluation")) for place in evaluated for path in sorted(place.glob("*.mp4"))]
    found += [
        Video(path, _describe(path, "race")) for place in evaluated for path in sorted(place.glob("mp4/**/*.mp4"))
    ]
    training = sorted(layout.videos.glob("iteration-*.mp4"), reverse=True)
    last = layout.videos / "last.mp4"
    ordered = [*([last] if last.is_file() else []), *training]
    room = max(1, _MOST_VIDEOS - len(found))
    chosen = ordered if len(ordered) <= room else [*ordered[: room - 1], ordered[-1]]
    unique = {
        video.path.resolve(): video for video in [*found[:_MOST_VIDEOS], *(Video(p, _describe(p, "")) for p in chosen)]
    }
    return tuple(unique.values())


def _describe(path: Path, kind: str) -> str:
    if path.name == "last.mp4":
        return "the trained policy"
    number = re.fullmatch(r"iteration-0*(\d+)", path.stem)
    if number:
        return f"after iteration {number[1]}"
    if kind == "race":  # DeepRacer's cameras write files of one name into folders of theirs
        return f"race: {path.parent.name}"
    return kind if path.stem == kind else f"{kind}: {path.stem}"


def _find_pictures(layout: Layout, evaluated: list[Path]) -> dict[str, Path]:
    found = {"Off-policy estimate of each iteration": layout.data / "ope.png"}
    for place in evaluated:
        for path in sorted([*place.glob("driven_lines.png"), *place.glob("*/driven_lines.png")]):
            found.setdefault("Driven lines", path)
        for path in sorted([*place.glob("grad_cam.png"), *place.glob("*/grad_cam.png")]):
            found.setdefault("What the policy looks at (Grad-CAM)", path)
    found["Importance of each hyperparameter"] = layout.data / "importance.png"
    found["Hyperparameters and objective of every trial"] = layout.data / "parallel_coordinates.png"
    return {caption: path for caption, path in found.items() if path.is_file()}
