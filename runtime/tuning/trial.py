"""A training job inside a tuning: the training of `smrl train`, in a worker that pauses it after each iteration."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runtime.container.environment_variables import show_gpus
from runtime.container.layout import Container
from runtime.container.signals import Interrupted, Phase, StopRequest
from runtime.errors import JobError, PlatformError
from runtime.jobs.training import Request, run_training
from runtime.outputs.console import Reporter, Summary, quiet_ray
from runtime.outputs.metrics import JSONL, read_rows
from runtime.outputs.result import Finish

LOG = "log.txt"
_TUNING = "the tuning"  # named as what stopped a job


@dataclass(frozen=True)
class TrialJob:
    """What all training jobs of a worker have in common.

    Attributes:
        container: Their container, with the CPUs and the number of GPUs of one job.
        settings: Hyperparameters that are not tuned.
        root: Results folder of the tuning.
        finish: Ends a job.
        gpus: Names of the worker's GPUs.
    """

    container: Container
    settings: Mapping[str, Any]
    root: Path
    finish: Finish
    gpus: Sequence[str] = ()

    def run(self, config: Mapping[str, Any], connection: Connection) -> None:
        """Runs a training job; sends a `Progress` after each iteration and at its end.

        After each but the last it waits for the answer: whether the job continues.

        Args:
            config: Number of the trial, its point, seed and folder, as `PointSearch.suggest` returns them.
            connection: To the tuning.
        """
        if self.gpus:
            show_gpus(self.gpus)
        quiet_ray()
        folder = self.root / config["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        seed = {"rl.training.config.seed": config["seed"]}
        with _printing_into(folder / LOG):
            connection.send(self._train({**self.settings, **config["point"], **seed}, folder, connection))

    def _train(self, overrides: Mapping[str, Any], folder: Path, connection: Connection) -> Progress:
        stop = _TuningStop()
        turns = _TurnReporter(folder / LOG, stop, connection)
        request = Request(overrides, source="the tuning job", results=folder, reporter=turns)
        fault, is_platforms = "", False
        try:
            self.finish(run_training(self.container, stop, request))
        except Interrupted:
            turns.why = f"stopped by {_TUNING} before its first iteration"
        except PlatformError as error:
            fault, is_platforms = str(error), True
        except JobError as error:
            fault = str(error)
        except BaseException as error:  # the reason is for the tuning's log; the trial's log has the traceback
            fault = f"{type(error).__name__}: {error}"
            turns.line(traceback.format_exc())
        if not turns.last_row and not fault:  # it had nothing left to do when it resumed
            rows = read_rows(folder / JSONL)
            turns.last_row = rows[-1] if rows else {}
        has_ended = bool(turns.why) and _TUNING not in turns.why
        return Progress(turns.last_row, is_over=True, has_ended=has_ended, fault=fault, is_platforms=is_platforms)


@dataclass(frozen=True)
class Progress:
    """State of a training job after an iteration, or at its end.

    Attributes:
        row: Metrics of its last iteration; empty if it has none.
        is_over: Whether the job has ended.
        has_ended: Whether it ended by itself, and not because the tuning stopped it.
        fault: Why it failed; empty if it did not.
        is_platforms: Whether it failed because of the machine.
    """

    row: Mapping[str, float] = field(default_factory=dict)
    is_over: bool = False
    has_ended: bool = False
    fault: str = ""
    is_platforms: bool = False

    @property
    def iteration(self) -> int:
        """Iterations of training done."""
        return int(self.row.get("training_iteration", 0))


@contextlib.contextmanager
def _printing_into(log: Path) -> Iterator[None]:
    """Appends what this process and its libraries print to a trial's log for the length of a block."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(target, number)
    os.close(target)
    with (
        contextlib.redirect_stdout(os.fdopen(1, "w", buffering=1, closefd=False)),
        contextlib.redirect_stderr(os.fdopen(2, "w", buffering=1, closefd=False)),
    ):
        yield


class _TuningStop(StopRequest):
    """A stop request from the tuning; signals go to the tuning's own process."""

    def __init__(self) -> None:
        self.signal_name = None

    def ask(self) -> None:
        """Ends the job before its next iteration."""
        self.signal_name = _TUNING

    def begin(self, phase: Phase) -> None:
        pass

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        pass

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        yield

    def arm(self) -> None:
        pass

    def release(self) -> None:
        pass


class _TurnReporter(Reporter):
    """Passes each row of metrics to the tuning and waits for its answer; all other output goes into a file."""

    def __init__(self, log: Path, stop: _TuningStop, connection: Connection) -> None:
        self._log = log
        self._stop = stop
        self._connection = connection
        self.why = ""
        self.last_row: dict[str, float] = {}

    def note(self, text: str) -> None:
        self.line(f"smrl: {text}")

    def line(self, text: str) -> None:
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def finish(self, summary: Summary) -> None:
        super().finish(summary)
        self.why = summary.facts.get("ended because", "")

    def row(self, row: dict[str, float]) -> None:
        super().row(row)
        self.last_row = dict(row)
        if self._stop.is_set:
            return
        self._connection.send(Progress(self.last_row))
        if not self._connection.recv():
            self._stop.ask()
