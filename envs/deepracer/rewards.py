"""Loads and calls `reward_function(params)`, with DeepRacer's 27 parameters; the default rewards the center line.

Source of keys, limits and the default: DeepRacer's simulation application 6.0.5, `agent_ctrl/constants.py`,
`rollout_agent_ctrl.py` and `defaults.py`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import io
import itertools
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from envs.deepracer import kernels

_numbers = itertools.count()  # of the modules that are loaded

RewardFunction = Callable[[dict[str, Any]], float]
LIMIT = 1e5
LONGEST_S = 10.0  # of one call
# What a reward function may print: so many characters at once, and so many a second when they are used up.
MOST_PRINTED = 100_000
_PRINTED_A_SECOND = 1_000
_NOTED_EVERY_S = 60.0
# Default reward: bands of the distance to the center line, as shares of the track's width, and the reward of each.
_BANDS = (0.1, 0.25, 0.5)
_BAND_PAY = (1.0, 0.5, 0.1, 1e-3)


class _OverdueError(BaseException):
    """Raised inside a reward function that does not return; no Exception, which the user's code might catch."""


class _Watch:
    """Interrupts a call that takes longer than LONGEST_S, by an exception in the thread that makes it.

    A thread of its own looks once a second, so that a call costs nothing but the clock's reading.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._call: tuple[float, int] | None = None  # when it began, and its thread
        self._is_watching = False

    def begin(self) -> None:
        """Notes that a call begins in this thread."""
        if not self._is_watching:
            self._is_watching = True
            threading.Thread(target=self._look, name="reward-function-watch", daemon=True).start()
        self._call = time.monotonic(), threading.get_ident()

    def end(self) -> None:
        """Notes that it has ended; what interrupts calls does not do so any more when this returns."""
        with self._lock:
            self._call = None

    def _look(self) -> None:
        while True:
            time.sleep(min(1.0, LONGEST_S / 4))
            with self._lock:
                call = self._call
                if call is not None and time.monotonic() - call[0] > LONGEST_S:
                    self._call = None
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(call[1]), ctypes.py_object(_OverdueError))


_watch = _Watch()


class _Output(io.TextIOBase):
    """Stands for sys.stdout while a reward function runs, and passes on what a log has room for.

    Training calls the function thousands of times a second, where the simulator in the cloud called it 15 times.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._printed = io.StringIO()
        self._room = float(MOST_PRINTED)
        self._updated_at = self._noted_at = -math.inf
        self._stdout: TextIO = sys.stdout
        self._thread = 0

    def begin(self) -> None:
        """Takes the place of sys.stdout, for what this thread prints."""
        self._thread = threading.get_ident()
        self._stdout, sys.stdout = sys.stdout, self

    def write(self, text: str) -> int:
        """Keeps as much of a text as may be printed."""
        if threading.get_ident() != self._thread:
            return self._stdout.write(text)
        self._printed.write(text[: MOST_PRINTED + 1 - self._printed.tell()])
        return len(text)

    def end(self) -> None:
        """Puts sys.stdout back and writes what the function printed, or the part for which there is room."""
        sys.stdout = self._stdout
        if not self._printed.tell():
            return
        text = self._printed.getvalue()
        self._printed = io.StringIO()
        now = time.monotonic()
        self._room = min(MOST_PRINTED, self._room + _PRINTED_A_SECOND * (now - self._updated_at))
        self._updated_at = now
        shown = text[: int(self._room)]
        self._room -= len(shown)
        sys.stdout.write(shown)
        if len(shown) < len(text) and now - self._noted_at > _NOTED_EVERY_S:
            self._noted_at = now
            sys.stderr.write(
                f"\nsmrl: {self._place}: reward_function prints more than the log's share for it, {MOST_PRINTED:,} "
                f"characters and then {_PRINTED_A_SECOND:,} a second; the rest is left out. Print at some steps only, "
                "as `if params['steps'] % 50 == 0:`.\n"
            )


class RewardError(ValueError):
    """A reward function cannot be loaded, raises, or returns no finite number within the limit."""


def load_reward_function(path: Path) -> RewardFunction:
    """Runs a file as a module of its own and returns its `reward_function(params)`, whose every call is checked.

    Raises:
        RewardError: The file cannot be run, or defines no such function.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise RewardError(f"{path}: got {found}; expected Python with a function reward_function(params).")
    name = f"smrl_reward_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RewardError(f"{path}: got a file that is no Python module; expected one whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        raise RewardError(f"{path}{_line_of(error, path)}: could not be loaded: {_describe(error)}") from error
    function = getattr(module, "reward_function", None)
    if not callable(function):
        raise RewardError(f"{path}: got a file without reward_function; expected `def reward_function(params):`.")
    return check_calls(function, path)


def check_calls(function: Callable[[dict[str, Any]], Any], path: Path | None = None) -> RewardFunction:
    """Wraps a reward function: an error or an invalid reward raises RewardError, with file, line and parameters."""
    code = getattr(function, "__code__", None)
    place = path or Path(getattr(code, "co_filename", "reward_function"))
    output = _Output(place)

    def call_reward_function(params: dict[str, Any]) -> float:
        process = os.getpid()
        try:
            _watch.begin()
            output.begin()
            try:
                reward = float(function(params))
            finally:
                if os.getpid() != process:  # a fork by the user's function, which must not train as well
                    os._exit(0)
                _watch.end()
                output.end()
        except _OverdueError as error:
            raise RewardError(
                f"{place}{_line_of(error, place)}: reward_function did not return within {LONGEST_S:g} s; expected a "
                f"number at once, as a training calls it millions of times. It was given {_short(params)}"
            ) from None
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raise RewardError(
                f"{place}{_line_of(error, place)}: reward_function failed: {_describe(error)}. "
                f"It was given {_short(params)}"
            ) from error
        if not math.isfinite(reward) or abs(reward) > LIMIT:
            line = f":{code.co_firstlineno}" if code is not None else ""
            raise RewardError(
                f"{place}{line}: reward_function returned {reward}; expected a finite number from {-LIMIT:g} to "
                f"{LIMIT:g}. It was given {_short(params)}"
            )
        return reward

    return call_reward_function


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # the user's own exception class may raise here too
        return type(error).__name__


def _line_of(error: BaseException, path: Path) -> str:
    """Finds the line of the user's file that raised the error, as `:12`."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}" if error.lineno else ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f":{lines[-1]}" if lines else ""


def _short(params: dict[str, Any]) -> str:
    """Formats the parameters, without the waypoints and empty lists."""
    shown = ((key, value) for key, value in params.items() if key != "waypoints" and value != [])
    return ", ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value!r}" for key, value in shown)


def reward_function(params: dict[str, Any]) -> float:
    """Default reward: higher the closer to the center line, in three bands of the track's width."""
    away = params["distance_from_center"] / params["track_width"]
    return next((reward for edge, reward in zip(_BANDS, _BAND_PAY, strict=False) if away <= edge), _BAND_PAY[-1])


def default_rewards(cars: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (C,) default reward of each car, without a call for each."""
    away = cars[:, kernels.CENTER_DISTANCE] / cars[:, kernels.WIDTH]
    return np.take(_BAND_PAY, np.searchsorted(_BANDS, away))
