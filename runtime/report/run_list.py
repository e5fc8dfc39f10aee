"""The command `smrl list`: the trainings and tunings below a folder, newest first."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.container.layout import CONFIG, SUMMARY, Layout
from runtime.errors import UserError
from runtime.files import is_locked
from runtime.outputs.metrics import JSONL, read_rows

_TUNING = "tuning.json"
_RETURNS = ("episode_reward_mean", "estimated_return")


@dataclass(frozen=True)
class Run:
    """A training or tuning.

    Attributes:
        folder: Its results folder.
        env: Name of its environment; its algorithm's for a log without one.
        state: "running"; "finished", by a stop criterion; "stopped", by a signal; "ended", where nothing says how, as
            of a tuning; "unfinished", as of a job that was killed.
        mean_return: Latest mean return, or estimated return of a job on logged data; a tuning's best objective.
        best_return: Highest mean return of an iteration.
        timesteps_total: Environment steps, or None where there are none.
        age_s: Seconds since its last change.
    """

    folder: str
    env: str
    state: str
    mean_return: float | None
    best_return: float | None
    timesteps_total: int | None
    age_s: float


def find_runs(place: Path) -> list[Run]:
    """Finds the runs in a folder, the newest first; the folder itself may be one.

    Raises:
        UserError: There is no such folder.
    """
    if not place.is_dir():
        raise UserError(
            f"list: got {str(place)!r}, which is no folder; expected one that holds results folders. Name it, or start "
            "in the folder where smrl train was started."
        )
    found = [run for folder in (place, *sorted(place.iterdir())) if (run := _read_run(folder)) is not None]
    return sorted(found, key=lambda run: run.age_s)


def list_runs(place: Path, *, as_json: bool = False) -> str:
    """Lists the runs in a folder as a table, or as a JSON array.

    Raises:
        UserError: There is no such folder.
    """
    runs = find_runs(place)
    if as_json:
        return json.dumps([asdict(run) for run in runs], indent=2)
    if not runs:
        return f"no runs in {place}"
    header = ("folder", "environment", "state", "return", "best", "steps", "age")
    table = [header, *(_cells(run) for run in runs)]
    return "\n".join(_align(row, table) for row in table)


def _read_run(folder: Path) -> Run | None:
    layout = Layout.of_results(folder)
    config = _read(layout.data / CONFIG)
    is_tuning = (folder / _TUNING).is_file()
    if not (folder.is_dir() and (config or is_tuning)):
        return None
    rows = read_rows(layout.data / JSONL)
    returns = [row[name] for row in rows for name in _RETURNS if name in row]
    summary = _read(layout.data / SUMMARY).get("values", {})
    steps = rows[-1].get("timesteps_total") if rows else None
    values = config.get("values", {})
    changed = max(path.stat().st_mtime for path in _changing(layout))
    return Run(
        folder=str(folder),
        env="tuning" if is_tuning else str(values.get("env") or values.get("run") or ""),
        state=_state(layout, summary),
        mean_return=returns[-1] if returns else summary.get("best_objective"),
        best_return=max(returns, default=summary.get("best_objective")),
        timesteps_total=None if steps is None else int(steps),
        age_s=round(max(time.time() - changed, 0.0), 1),
    )


def _state(layout: Layout, summary: dict[str, Any]) -> str:
    locks = (layout.checkpoints / ".lock", layout.root)  # of a training, and of a tuning
    if any(lock.exists() and is_locked(lock) for lock in locks):
        return "running"
    if summary:
        return "finished" if summary.get("is_finished") else "stopped"
    config, manifest = layout.data / CONFIG, layout.model / "manifest.json"
    is_written = manifest.is_file() and not (
        config.is_file() and config.stat().st_mtime > manifest.stat().st_mtime  # of a job that was resumed since
    )
    return "ended" if is_written else "unfinished"


def _changing(layout: Layout) -> list[Path]:
    """The files that a run changes while it runs, those that exist."""
    names = (JSONL, CONFIG, SUMMARY, _TUNING, "tuning.jsonl")
    return [path for path in (layout.data / name for name in names) if path.is_file()]


def _cells(run: Run) -> tuple[str, ...]:
    returns = ["–" if value is None else f"{value:,.2f}" for value in (run.mean_return, run.best_return)]
    steps = "–" if run.timesteps_total is None else f"{run.timesteps_total:,}"
    return (run.folder, run.env, run.state, *returns, steps, _age(run.age_s))


def _align(row: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = 3  # columns of text; numbers are aligned at the right
    cells = [
        cell.ljust(width) if at < left else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _age(seconds: float) -> str:
    """Formats an age by its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or being written
        return {}
    return found if isinstance(found, dict) else {}
