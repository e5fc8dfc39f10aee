"""A training job inside a tuning: `smrl train` itself in a process that Ray Tune keeps for the next one."""

from __future__ import annotations

import contextlib
import queue
import threading
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from runtime.console import Reporter
from runtime.container import Container
from runtime.errors import JobError
from runtime.metrics import JSONL, read_rows
from runtime.ray_session import quiet_ray
from runtime.stop import StopRequest
from runtime.training import Request, run_training

LOG = "log.txt"


class _AskedStop(StopRequest):
    """A stop that the tuning asks for; signals go to the tuning's main process."""

    def __init__(self) -> None:
        self.signal_name = None

    def ask(self) -> None:
        """Ends the job after its iteration."""
        self.signal_name = "the tuning"

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def arm(self) -> None:
        pass

    def release(self) -> None:
        pass


class _Turns(Reporter):
    """Hands each row over and waits to be told to go on; whatever else is said goes into a file."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.rows: queue.Queue[dict[str, float] | None] = queue.Queue()
        self.may_go_on = threading.Semaphore(0)

    def note(self, text: str) -> None:
        self.line(f"smrl: {text}")

    def line(self, text: str) -> None:
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def row(self, row: dict[str, float]) -> None:
        super().row(row)
        self.rows.put(dict(row))
        self.may_go_on.acquire()


class _Run(threading.Thread):
    """One training, in a thread that stands still between the tuning's turns."""

    def __init__(self, container: Container, overrides: Mapping[str, Any], folder: Path) -> None:
        super().__init__(name="training", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._container = container
        self._turns, self._asked = _Turns(folder / LOG), _AskedStop()
        self._request = Request(overrides, source="the tuning job", results=folder, reporter=self._turns)
        self._fault = ""
        self._is_paused = False

    def run(self) -> None:
        try:
            run_training(self._container, self._asked, self._request)
        except JobError as error:
            self._fault = str(error)
        except BaseException as error:  # a reason for the tuning's log; the trace is in the trial's own
            self._fault = f"{type(error).__name__}: {error}"
            self._turns.line(traceback.format_exc())
        finally:
            self._turns.rows.put(None)

    def advance(self) -> tuple[dict[str, float] | None, str]:
        """The next row, None once the job has ended and its results are written; and why it failed, if it did."""
        if self._is_paused:
            self._turns.may_go_on.release()
        row = self._turns.rows.get()
        self._is_paused = row is not None
        if row is None:
            self.join()
        return row, self._fault

    def end(self) -> None:
        """Stops the job after its iteration, and waits until all is written."""
        self._asked.ask()
        if self._is_paused:
            self._turns.may_go_on.release()
        self.join()


class TrialJob(tune.Trainable):  # type: ignore[misc]
    """Ray Tune's view of a training job: a step is an iteration."""

    def setup(self, config: dict[str, Any], fixed: Mapping[str, Any]) -> None:
        """Begins the job that a config names."""
        quiet_ray()
        self._fixed = fixed
        self._run: _Run | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Ends the last job, and begins another in the same process, which has all imported and compiled."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        fixed, seed = self._fixed, {"rl.training.config.seed": config["seed"]}
        overrides = {**fixed["job"].settings, **config["point"], **seed}
        container = replace(fixed["container"], hyperparameters={}, num_cpus=fixed["cpus"], num_gpus=fixed["gpus"])
        self._row: dict[str, float] = {}
        self._read = fixed["job"].read_objective
        self._folder = Path(fixed["root"]) / config["folder"]
        self._run = _Run(container, overrides, self._folder)
        self._run.start()

    def step(self) -> dict[str, Any]:
        """An iteration of training, or what ends it."""
        assert self._run is not None
        row, fault = self._run.advance()
        if row is not None:
            self._row = row
        elif not self._row and not fault:  # it had nothing left to do when it went on
            rows = read_rows(self._folder / JSONL)
            self._row = rows[-1] if rows else {}
        result: dict[str, Any] = {"row": self._row, "iteration": int(self._row.get("training_iteration", 0))}
        objective = self._read(self._row)
        if objective is not None and self.config["is_judged"]:  # else the scheduler leaves it alone
            result["objective"] = objective
        return {**result, "fault": fault, "has_ended": row is None, "done": row is None}

    def cleanup(self) -> None:
        """Ends the job, with its model written."""
        if self._run is not None:
            self._run.end()
            self._run = None
