"""Sends a training's settings, metrics, summary and paths to an experiment tracker: Weights & Biases, or MLflow.

A thread of its own does so, as a server may be slow or absent: a tracker delays a training only at its end, for a
limited time, and never ends one. It reads its own environment variables, as WANDB_MODE or MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from runtime.errors import Problems
from runtime.files import write_json

RUN_IDS = "tracking.json"
TRACKERS = {"wandb": "wandb", "mlflow": "mlflow-skinny"}  # to the package that has its client
_FINISH_S = 30.0
_FINISH_WHEN_STOPPED_S = 3.0


class Tracker(Protocol):
    """A client of one tracker; all calls come from one thread."""

    def start(self, name: str, settings: Mapping[str, Any], folder: Path, run_id: str | None) -> str:
        """Starts a run, or resumes the run of that id; returns its id."""

    def write(self, row: Mapping[str, float], step: int) -> None:
        """Writes the metrics of an iteration."""

    def describe(self, summary: Mapping[str, Any], paths: Mapping[str, str]) -> None:
        """Writes the last screen of the training, and the paths of its files by name."""

    def end(self, *, has_failed: bool) -> None:
        """Ends the run."""


class _Wandb:
    """The client of Weights & Biases."""

    def start(self, name: str, settings: Mapping[str, Any], folder: Path, run_id: str | None) -> str:
        import wandb

        # Without a login it would ask for one at the terminal, which the training has.
        quiet = wandb.Settings(silent=True, console="off", login_timeout=5)
        self._run = wandb.init(
            name=name, config=dict(settings), dir=str(folder), id=run_id, resume="allow", settings=quiet
        )
        return str(self._run.id)

    def write(self, row: Mapping[str, float], step: int) -> None:
        self._run.log(dict(row), step=step)

    def describe(self, summary: Mapping[str, Any], paths: Mapping[str, str]) -> None:
        self._run.summary.update({**summary, **{f"path/{name}": path for name, path in paths.items()}})

    def end(self, *, has_failed: bool) -> None:
        self._run.finish(exit_code=int(has_failed))


class _MLflow:
    """The client of MLflow."""

    def start(self, name: str, settings: Mapping[str, Any], folder: Path, run_id: str | None) -> str:
        import mlflow
        from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT

        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # stdout has the metric lines
        for logger in ("mlflow", "alembic"):  # which report how they make a new database
            logging.getLogger(logger).setLevel(logging.WARNING)
        run = mlflow.start_run(run_id=run_id, run_name=name)
        # MLflow never changes a parameter: what a resumed training has changed becomes a tag.
        known = run.data.params
        given = {path: str(value) for path, value in settings.items()}
        mlflow.log_params({path: value for path, value in given.items() if path not in known})
        changed = {path: value for path, value in given.items() if known.get(path, value) != value}
        mlflow.set_tags({f"resumed with/{path}": value for path, value in changed.items()})
        return str(run.info.run_id)

    def write(self, row: Mapping[str, float], step: int) -> None:
        import mlflow

        mlflow.log_metrics(dict(row), step=step)

    def describe(self, summary: Mapping[str, Any], paths: Mapping[str, str]) -> None:
        import mlflow

        texts = {f"summary/{name}": str(value) for name, value in summary.items()}
        mlflow.set_tags({**texts, **{f"path/{name}": path for name, path in paths.items()}})

    def end(self, *, has_failed: bool) -> None:
        import mlflow

        mlflow.end_run("FAILED" if has_failed else "FINISHED")


_CLIENTS: Mapping[str, Callable[[], Tracker]] = {"wandb": _Wandb, "mlflow": _MLflow}


def check_tracker(values: Mapping[str, Any], sources: Mapping[str, str], problems: Problems) -> None:
    """Notes a tracker whose package is not installed.

    Args:
        values: Path below rl.training to value.
        sources: Path to the name of the source that set it.
        problems: Receives the problem.
    """
    name = values.get("tracking")
    if name in TRACKERS and importlib.util.find_spec(name) is None:
        problems.add(
            "rl.training.tracking",
            name,
            sources["tracking"],
            expected=f"a tracker whose package is installed; {name} is not",
            remedy=f"pip install {TRACKERS[name]}, or leave the setting out.",
        )


class Tracking:
    """The run of one training.

    Args:
        client: The tracker's client; None tracks nothing.
        service: The tracker's name.
        note: Prints a warning of one line; called by the training's thread only.
        finish_s: Returns the longest wait at the end in seconds.
    """

    def __init__(
        self,
        client: Tracker | None,
        service: str,
        note: Callable[[str], None],
        *,
        finish_s: Callable[[], float] = lambda: _FINISH_S,
    ) -> None:
        self._client = client
        self._service = service
        self._note = note
        self._finish_s = finish_s
        self._error: Exception | None = None
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self, name: str, settings: Mapping[str, Any], folder: Path, *, ids: Path) -> None:
        """Starts the run, or resumes the known one.

        Args:
            name: Name of the run.
            settings: Settings of the training.
            folder: For the tracker's own files.
            ids: Folder of tracking.json, which knows the run; it has to outlive an interruption.
        """
        client = self._client
        if client is None:
            return

        def start() -> None:
            path = ids / RUN_IDS
            known: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
            known[self._service] = client.start(name, settings, folder, known.get(self._service))
            ids.mkdir(parents=True, exist_ok=True)
            write_json(path, known)

        self._calls.put(start)
        self._thread.start()

    def write(self, row: Mapping[str, float]) -> None:
        """Sends the finite metrics of an iteration, by the number of the iteration."""
        client = self._client
        if client is None:
            return
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        self._calls.put(lambda: client.write(finite, int(row["training_iteration"])))
        self._warn()

    def describe(self, summary: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
        """Sends the summary of the training, and the paths of those files that there are."""
        client = self._client
        if client is None:
            return
        there = {name: str(path.resolve()) for name, path in paths.items() if path.exists()}
        self._calls.put(lambda: client.describe(summary, there))

    def end(self, *, has_failed: bool) -> None:
        """Ends the run; waits a limited time until all has been sent."""
        client = self._client
        if client is None or not self._thread.is_alive():
            self._warn()
            return
        self._calls.put(lambda: client.end(has_failed=has_failed))
        self._calls.put(None)
        longest = self._finish_s()
        self._thread.join(longest)
        if self._thread.is_alive() and self._error is None:
            self._error = TimeoutError(f"no answer within {longest:g} s")
        self._warn()

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None:
                call()
        except Exception as error:  # whatever a tracker raises, the training goes on without it
            self._error = error

    def _warn(self) -> None:
        """Prints what the tracker's thread failed with, once; nothing is sent after that."""
        if self._error is None or self._client is None:
            return
        first, *_ = str(self._error).strip().splitlines() or [""]
        self._note(f"tracking by {self._service} has ended: {type(self._error).__name__}: {first[:200]}")
        self._client = None


@contextlib.contextmanager
def tracking(
    service: str | None, note: Callable[[str], None], is_stopping: Callable[[], bool] = lambda: False
) -> Iterator[Tracking]:
    """Yields the tracking of a training, which fails with the block.

    Args:
        service: A tracker of `TRACKERS`; None tracks nothing.
        note: Prints a warning of one line.
        is_stopping: Whether the training is to end soon, when the wait at its end is short.
    """
    client = None if service is None else _CLIENTS[service]()
    run = Tracking(client, service or "", note, finish_s=lambda: _FINISH_WHEN_STOPPED_S if is_stopping() else _FINISH_S)
    try:
        yield run
    except BaseException:
        run.end(has_failed=True)
        raise
    run.end(has_failed=False)
