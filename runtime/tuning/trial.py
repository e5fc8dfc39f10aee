"""A training job inside a tuning: the training of `smrl train`, in a process that Ray Tune reuses."""

from __future__ import annotations

import contextlib
import queue
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from runtime.container.layout import Container
from runtime.container.signals import Interrupted, Phase, StopRequest
from runtime.errors import JobError, PlatformError
from runtime.jobs.training import Request, run_training
from runtime.outputs.console import Reporter, Summary, quiet_ray
from runtime.outputs.metrics import JSONL, read_rows
from runtime.outputs.result import Finish

LOG = "log.txt"
_STOP = ".stop"
# The processes of a killed tuning end shortly after it, and lock their folders until then.
_LOCK_TIMEOUT_S = 60.0
_TUNING = "the tuning"  # named as what stopped a job


def ask_to_stop(folder: Path) -> None:
    """Asks the job of a results folder, in any process, to end before its next iteration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STOP).touch()


def forget_stops(root: Path) -> None:
    """Removes the stop requests of an earlier start of the tuning."""
    for pattern in (f"trials/*/{_STOP}", f"trials/*/*/{_STOP}"):
        for path in root.glob(pattern):
            path.unlink()


class _TuningStop(StopRequest):
    """A stop request from the tuning; signals go to the tuning's main process."""

    def __init__(self) -> None:
        self.signal_name = None

    def ask(self) -> None:
        """Ends the job after its iteration."""
        self.signal_name = _TUNING

    def begin(self, phase: Phase) -> None:
        pass

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        pass

    def arm(self) -> None:
        pass

    def release(self) -> None:
        pass


class _TurnReporter(Reporter):
    """Passes each row of metrics to Ray Tune and waits for the next turn; all other output goes into a file."""

    def __init__(self, log: Path, stop: _TuningStop) -> None:
        self._log = log
        self._stop = stop
        self.why = ""
        self.rows: queue.Queue[dict[str, float] | None] = queue.Queue()
        self.may_go_on = threading.Semaphore(0)

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
        self.rows.put(dict(row))
        if not self._stop.is_set:
            self.may_go_on.acquire()


class _Thread:
    """Runs functions one after the other in a thread, which ends with the process."""

    def __init__(self) -> None:
        self._calls: queue.Queue[tuple[Callable[[], None], Future[None]]] = queue.Queue()
        threading.Thread(target=self._run_all, name="training", daemon=True).start()

    def submit(self, function: Callable[[], None]) -> Future[None]:
        """Runs a function after those before it; the result says when it has returned."""
        call: Future[None] = Future()
        self._calls.put((function, call))
        return call

    def _run_all(self) -> None:
        while True:
            function, call = self._calls.get()
            try:
                call.set_result(function())
            except BaseException as error:  # for who waits for the result
                call.set_exception(error)


class _Run:
    """Runs one training in a thread, which pauses between the tuning's turns.

    Args:
        thread: Runs it.
        container: The job's container.
        overrides: Its settings.
        folder: Its results folder.
        finish: Ends it.
    """

    def __init__(
        self, thread: _Thread, container: Container, overrides: Mapping[str, Any], folder: Path, finish: Finish
    ) -> None:
        self._finish = finish
        folder.mkdir(parents=True, exist_ok=True)
        self._container = container
        self._asked = _TuningStop()
        self._turns = _TurnReporter(folder / LOG, self._asked)
        self._request = Request(
            overrides, source="the tuning job", results=folder, reporter=self._turns, lock_timeout_s=_LOCK_TIMEOUT_S
        )
        self._fault = ""
        self.is_platforms = False
        self._is_paused = False
        self._ended = thread.submit(self._train)

    def _train(self) -> None:
        try:
            self._finish(run_training(self._container, self._asked, self._request))
        except Interrupted:
            self._turns.why = f"stopped by {_TUNING} before its first iteration"
        except PlatformError as error:
            self._fault = str(error)
            self.is_platforms = True
        except JobError as error:
            self._fault = str(error)
        except BaseException as error:  # the reason is for the tuning's log; the trial's log has the traceback
            self._fault = f"{type(error).__name__}: {error}"
            self._turns.line(traceback.format_exc())
        finally:
            self._turns.rows.put(None)

    def advance(self) -> tuple[dict[str, float] | None, str]:
        """Runs to the next row of metrics (None after the job's end); also returns why it failed, if it did."""
        if self._is_paused:
            self._turns.may_go_on.release()
        row = self._turns.rows.get()
        self._is_paused = row is not None
        if row is None:
            self._ended.result()
        return row, self._fault

    def end(self) -> bool:
        """Stops the job after its iteration and waits for its results; returns whether it had finished by itself."""
        self._asked.ask()
        self._turns.may_go_on.release()
        self._ended.result()
        return bool(self._turns.why) and _TUNING not in self._turns.why


class TrialJob(tune.Trainable):  # type: ignore[misc]
    """Ray Tune's view of a training job: a step is an iteration."""

    def setup(self, config: dict[str, Any], fixed: Mapping[str, Any]) -> None:
        """Starts the job that a config describes."""
        quiet_ray()
        self._fixed = fixed
        # One for all jobs of the process: what malloc keeps for a thread, 400 MB of freed worlds, no other thread uses.
        self._thread = _Thread()
        self._run: _Run | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Ends the last job and starts another in the same process, which saves imports and compilation."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        fixed = self._fixed
        seed = {"rl.training.config.seed": config["seed"]}
        overrides = {**fixed["job"].settings, **config["point"], **seed}
        container = replace(fixed["container"], hyperparameters={}, num_cpus=fixed["cpus"], num_gpus=fixed["gpus"])
        self._row: dict[str, float] = {}
        self._read = fixed["job"].read_objective
        self._folder = Path(fixed["root"]) / config["folder"]
        self._run = _Run(self._thread, container, overrides, self._folder, fixed["finish"])

    def step(self) -> dict[str, Any]:
        """Runs one iteration of training; returns its metrics, or how the job ended."""
        assert self._run is not None
        if (self._folder / _STOP).exists():
            run = self._run
            self._run = None
            return self._result("", has_ended=run.end(), done=True)
        row, fault = self._run.advance()
        if row is not None:
            self._row = row
        elif not self._row and not fault:  # it had nothing left to do when it resumed
            rows = read_rows(self._folder / JSONL)
            self._row = rows[-1] if rows else {}
        is_platforms = self._run.is_platforms
        return self._result(fault, has_ended=row is None, done=row is None, is_platforms=is_platforms)

    def _result(self, fault: str, **how: bool) -> dict[str, Any]:
        result: dict[str, Any] = {"row": self._row, "iteration": int(self._row.get("training_iteration", 0))}
        objective = self._read(self._row)
        if objective is not None and self.config["is_scheduled"]:  # the scheduler ignores results without it
            result["objective"] = objective
        return {**result, "fault": fault, **how}

    def cleanup(self) -> None:
        """Stops the job and waits until its model is written."""
        if self._run is not None:
            self._run.end()
            self._run = None
