"""Reports each iteration's metrics: a line for SageMaker's regexes, metrics.jsonl, TensorBoard events."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.files import write_text
from runtime.outputs.tracking import Tracking

JSONL = "metrics.jsonl"
# TensorBoard's groups, by how a metric's name begins and ends; the first that fits, else "train".
_GROUPS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("time", ("training_iteration", "episodes_total", "timesteps_total", "time_total_s", "updates"), ()),
    ("time", (), ("_lost", "_restarted", "_restarts", "_rejoined")),
    ("rollout", ("episode_",), ()),
    ("estimates", ("estimated_return", "weighted_", "sequential_"), ()),
)


def metric_line(row: Mapping[str, float]) -> str:
    """One line of `name: value` pairs.

    SageMaker's default regexes are unanchored, want one blank after the colon, and a plain number: a value that is
    not finite is left out, and no other name may end in `episode_reward_mean` or `episode_reward_max`.
    """
    return " ".join(f"{name}: {_format_value(value)}" for name, value in row.items() if math.isfinite(value))


def _format_value(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}"


def tag_of(name: str) -> str:
    """Returns a metric's tag in TensorBoard, as `rollout/episode_reward_mean`, by which its page groups charts."""
    for group, beginnings, ends in _GROUPS:
        if name.startswith(beginnings) or name.endswith(ends):
            return f"{group}/{name}"
    return f"train/{name}"


def _open_events(folder: Path, **options: Any) -> Any:
    """Opens TensorBoard's event file.

    boto3, which tensorboardX imports so that it could write to S3, would take a job half a second: it is hidden.
    """
    hidden = {} if "boto3" in sys.modules else {"boto3": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None is what Python takes for a module that is not there
    try:
        from tensorboardX import SummaryWriter
    finally:
        for name in hidden:
            del sys.modules[name]
    return SummaryWriter(str(folder), **options)


class MetricsLog:
    """Appends rows to metrics.jsonl and TensorBoard events.

    Args:
        folder: Folder of both files; created if absent.
        earlier: Rows of the run that this one resumes; metrics.jsonl starts with them.
        step: The metric that TensorBoard's steps are.
        tracking: Receives the rows, too.
    """

    def __init__(
        self,
        folder: Path,
        earlier: list[dict[str, Any]],
        *,
        step: str = "timesteps_total",
        tracking: Tracking | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JSONL
        self._step = step
        self._tracking = tracking
        self.rows = list(earlier)
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in earlier))
        # Events after the step that a resumed job starts from are void: TensorBoard hides them by purge_step.
        purge = int(earlier[-1][step]) + 1 if earlier else None
        self._events = _open_events(folder / "tensorboard", purge_step=purge, flush_secs=10)

    def write(self, row: dict[str, float]) -> None:
        """Writes a row."""
        self.rows.append(row)
        # Opened again for each row: SageMaker uploads a file when it is closed.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            self._events.add_scalar(tag_of(name), value, int(row[self._step]))
        if self._tracking is not None:
            self._tracking.write(row)

    def describe(self, settings: Mapping[str, Any]) -> None:
        """Writes the job's settings for TensorBoard's HParams tab, where jobs are compared.

        Args:
            settings: Values by name; what is neither number nor text is written as text.
        """
        from tensorboardX.summary import hparams

        values = {name: value if isinstance(value, int | float) else str(value) for name, value in settings.items()}
        # The list of columns stays away: TensorBoard would take one job's for all, and those of other algorithms have
        # settings of their own. Without it, the tab has every setting and metric of every job.
        _columns, start, end = hparams(values, {})
        for summary in (start, end):
            self._events.file_writer.add_summary(summary)

    def add_video(self, name: str, gif: bytes, size: tuple[int, int], step: int) -> None:
        """Writes a video for TensorBoard's Images tab, which plays GIFs.

        Args:
            name: Name of the picture.
            gif: The file's bytes.
            size: Its width and height.
            step: TensorBoard's step.
        """
        from tensorboardX.proto.summary_pb2 import Summary

        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=gif)
        self._events.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        """Flushes the events."""
        self._events.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line cut by a kill is dropped."""
    rows = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict):
                break
            rows.append(row)
    return rows
