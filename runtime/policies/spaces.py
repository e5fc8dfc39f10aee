"""Observation and action spaces as JSON, for the manifest and for stored policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from runtime.errors import UserError


@dataclass(frozen=True)
class Spaces:
    """The observation and the action space of a policy."""

    observation: gymnasium.Space[Any]
    action: gymnasium.Space[Any]


def describe_space(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """Describes a space as JSON: type, shape, dtype, and bounds, count or parts."""
    if isinstance(space, gymnasium.spaces.Tuple):
        return {"type": "Tuple", "spaces": [describe_space(part) for part in space.spaces]}
    described: dict[str, Any] = {
        "type": type(space).__name__,
        "shape": list(space.shape or ()),
        "dtype": str(space.dtype),
    }
    if isinstance(space, gymnasium.spaces.Box):
        described["low"] = _bounds(space.low)
        described["high"] = _bounds(space.high)
    elif isinstance(space, gymnasium.spaces.Discrete):
        described["n"] = int(space.n)
        described["start"] = int(space.start)
    elif isinstance(space, gymnasium.spaces.Dict):
        described["spaces"] = {name: describe_space(part) for name, part in space.spaces.items()}
    elif isinstance(space, gymnasium.spaces.MultiDiscrete):
        described["nvec"] = space.nvec.tolist()
    return described


def read_space(described: dict[str, Any]) -> gymnasium.Space[Any]:
    """Restores the space that `describe_space` described.

    Raises:
        UserError: It is of another type than Box, Discrete, MultiDiscrete, or a Tuple or Dict of these.
    """
    if described["type"] == "Tuple":
        return gymnasium.spaces.Tuple([read_space(part) for part in described["spaces"]])
    if described["type"] == "Dict":
        return gymnasium.spaces.Dict([(name, read_space(part)) for name, part in described["spaces"].items()])
    if described["type"] == "Discrete":
        return gymnasium.spaces.Discrete(described["n"], start=described["start"])
    if described["type"] == "MultiDiscrete":
        return gymnasium.spaces.MultiDiscrete(described["nvec"])
    return read_box(described)


def read_box(described: dict[str, Any]) -> gymnasium.spaces.Box:
    """Restores the Box that `describe_space` described.

    Raises:
        UserError: It is no Box; environments are made so that a policy's observations are.
    """
    if described["type"] != "Box":
        raise UserError(f"manifest: got observations in a {described['type']} space; expected a Box.")
    shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"])
    low, high = (np.asarray(described[side], np.float64) for side in ("low", "high"))
    low, high = (np.broadcast_to(side.reshape(shape) if side.size > 1 else side, shape) for side in (low, high))
    return gymnasium.spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)


def _bounds(side: Any) -> Any:
    """One number where all are equal, else the list; infinities as text, which JSON lacks."""
    values = [value if np.isfinite(value) else str(value) for value in np.asarray(side, float).ravel().tolist()]
    return values[0] if len(set(values)) == 1 else values
