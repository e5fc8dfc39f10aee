"""Describes what an environment returned, and how an observation breaks its space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Tuple


def describe_kind(value: Any) -> str:
    """Describes a value by its type, and what it holds."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    return f"a {type(value).__name__}"


def is_finite_number(value: Any) -> bool:
    """Whether a value is one finite number, as a reward has to be."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def observation_problem(space: Any, value: Any, name: str = "observation") -> str | None:
    """Describes how a value breaks its space, entry by entry of a Dict or Tuple; None if it does not."""
    if isinstance(space, Dict | Tuple):
        parts = dict(space.spaces) if isinstance(space, Dict) else dict(enumerate(space.spaces))
        given = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, tuple) else None
        if given is None or set(given) != set(parts):
            return f"the {name} {value!r}; expected the entries {', '.join(map(repr, parts))}"
        found = (observation_problem(part, given[key], f"{name}[{key!r}]") for key, part in parts.items())
        return next((problem for problem in found if problem), None)
    if isinstance(space, Box):
        return _box_problem(space, value, name)
    return None if space.contains(value) else f"the {name} {value!r}; expected one of {space}"


def _box_problem(space: Box, value: Any, name: str) -> str | None:
    try:
        array = np.asarray(value)
    except ValueError:
        return f"the {name} {value!r}; expected an array"
    if not isinstance(value, np.ndarray | np.generic) and array.dtype == object:
        return f"{describe_kind(value)} as {name}; expected an array"
    if array.shape != space.shape:
        return f"an {name} of shape {array.shape}; expected {space.shape}, that of observation_space"
    if not np.isfinite(array).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
        return f"{array[place]} in {name}{list(place)}; expected finite numbers"
    outside = (array < space.low) | (array > space.high)
    if outside.any():
        place = tuple(map(int, np.argwhere(outside)[0]))
        rule = f"{space.low[place]} to {space.high[place]}, the range of observation_space"
        return f"{array[place]} in {name}{list(place)}; expected {rule}"
    if not space.contains(value):
        return f"{describe_kind(value)} as {name}; expected an array of {space.dtype}"
    return None
