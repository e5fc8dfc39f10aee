"""Reward functions: the user's own file, called with the contract's 27 parameters, and the default of the centre line.

Source of keys, limits and the default: DeepRacer's simulation application 6.0.5, `agent_ctrl/constants.py`,
`rollout_agent_ctrl.py` and `defaults.py`.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.deepracer import kernels

RewardFunction = Callable[[dict[str, Any]], float]
LIMIT = 1e5
# Of the default: bands of the distance to the centre line, as shares of the track's width, and what each pays.
_BANDS, _PAID = (0.1, 0.25, 0.5), (1.0, 0.5, 0.1, 1e-3)


class RewardError(ValueError):
    """A reward function that cannot be loaded, fails, or returns what is no reward."""


def load_reward_function(path: Path) -> RewardFunction:
    """The function `reward_function(params)` of a file, which is run once.

    Raises:
        RewardError: There is none.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise RewardError(f"{path}: got {found}; expected Python with a function reward_function(params).")
    name = f"smrl_reward_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RewardError(f"{path}: got a file that is no Python module; expected one whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise RewardError(f"{path}{_line_of(error, path)}: could not be loaded: {_describe(error)}") from error
    function = getattr(module, "reward_function", None)
    if not callable(function):
        raise RewardError(f"{path}: got a file without reward_function; expected `def reward_function(params):`.")
    return checked(function, path)


def checked(function: Callable[[dict[str, Any]], Any], path: Path | None = None) -> RewardFunction:
    """The same function, whose failures name the place, the value and the parameters."""
    code = getattr(function, "__code__", None)
    place = path or Path(getattr(code, "co_filename", "reward_function"))

    def call(params: dict[str, Any]) -> float:
        try:
            reward = float(function(params))
        except (Exception, SystemExit) as error:  # whatever the user's function raises
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

    return call


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # the user's own class may fail at this as well
        return type(error).__name__


def _line_of(error: BaseException, path: Path) -> str:
    """`:12`, the last line of the file in the traceback; of a syntax error its own."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}" if error.lineno else ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f":{lines[-1]}" if lines else ""


def _short(params: dict[str, Any]) -> str:
    """The parameters without the long lists."""
    shown = ((key, value) for key, value in params.items() if key != "waypoints" and value != [])
    return ", ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value!r}" for key, value in shown)


def reward_function(params: dict[str, Any]) -> float:
    """The default: more the nearer to the centre line, in three bands of the track's width."""
    away = params["distance_from_center"] / params["track_width"]
    return next((reward for edge, reward in zip(_BANDS, _PAID, strict=False) if away <= edge), _PAID[-1])


def default_rewards(cars: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C,) what `reward_function` pays each car, without a call for each."""
    away = cars[:, kernels.CENTER_DISTANCE] / cars[:, kernels.WIDTH]
    return np.take(_PAID, np.searchsorted(_BANDS, away))
