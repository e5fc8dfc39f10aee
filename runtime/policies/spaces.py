"""Observation and action spaces as JSON, for the manifest and for stored policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError

# Which discrete actions are allowed: an entry of Dict observations, and a column of RLlib's batches.
ACTION_MASK = "action_mask"


class MaskedBox(gymnasium.spaces.Box):
    """Rows of numbers whose last M are an action mask: 1 for a discrete action that is allowed, 0 for one that is not.

    Attributes:
        mask_size: M, the number of actions.

    Args:
        numbers: (O,) space of the numbers before the mask.
        mask_size: M.
    """

    def __init__(self, numbers: gymnasium.spaces.Box, mask_size: int) -> None:
        self.mask_size = mask_size
        low = np.concatenate([numbers.low, np.zeros(mask_size)])
        high = np.concatenate([numbers.high, np.ones(mask_size)])
        super().__init__(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    @property
    def numbers(self) -> gymnasium.spaces.Box:
        """The (O,) space of the numbers before the mask."""
        low, high = (side[: -self.mask_size] for side in (self.low, self.high))
        return gymnasium.spaces.Box(low, high, dtype=np.float32)


def mask_size(space: gymnasium.Space[Any]) -> int:
    """Returns how many of an observation's last numbers are an action mask; 0 if it has none."""
    return space.mask_size if isinstance(space, MaskedBox) else 0


def split_masks(rows: NDArray[Any], size: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Splits rows (B, O + M) into the numbers (B, O) and the masks (B, M) at their end, None where M is 0."""
    return (rows[:, :-size], rows[:, -size:] != 0) if size else (rows, None)


def join_mask(observation: Mapping[str, Any], space: MaskedBox) -> NDArray[np.float32]:
    """Returns the row of a dict with the entry `action_mask`: the numbers of its other entries, then the mask.

    Raises:
        UserError: There is no mask, or they are not as many numbers as the space has.
    """
    given = {key: np.ravel(value) for key, value in observation.items()}
    masks = [given.pop(ACTION_MASK) != 0] if ACTION_MASK in given else []
    row = np.concatenate([*given.values(), *masks]).astype(np.float32)
    if not masks or row.shape != space.shape:
        sizes = ", ".join(f"{key} of {np.size(value)} numbers" for key, value in observation.items())
        raise UserError(
            f"observation: got the entries {sizes}; expected {ACTION_MASK} of {space.mask_size} and others of "
            f"{space.numbers.shape[0]} together."
        )
    return row


def count_choices(space: gymnasium.Space[Any]) -> tuple[int, ...]:
    """Returns the number of choices of each discrete action; an empty tuple for actions that are not discrete."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return tuple(space.nvec.ravel().tolist())
    return ()


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
        "type": "Box" if isinstance(space, gymnasium.spaces.Box) else type(space).__name__,
        "shape": list(space.shape or ()),
        "dtype": str(space.dtype),
    }
    if isinstance(space, gymnasium.spaces.Box):
        described["low"] = _bounds(space.low)
        described["high"] = _bounds(space.high)
        if isinstance(space, MaskedBox):
            described["mask_size"] = space.mask_size
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
    """Restores the Box that `describe_space` described; a MaskedBox if its last numbers are an action mask.

    Raises:
        UserError: It is no Box; environments are made so that a policy's observations are.
    """
    if described["type"] != "Box":
        raise UserError(f"manifest: got observations in a {described['type']} space; expected a Box.")
    shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"])
    low, high = (np.asarray(described[side], np.float64) for side in ("low", "high"))
    low, high = (np.broadcast_to(side.reshape(shape) if side.size > 1 else side, shape) for side in (low, high))
    box = gymnasium.spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)
    size = described.get("mask_size", 0)
    if not size:
        return box
    return MaskedBox(gymnasium.spaces.Box(box.low[:-size], box.high[:-size], dtype=dtype.type), size)


def _bounds(side: Any) -> Any:
    """One number where all are equal, else the list; infinities as text, which JSON lacks."""
    values = [value if np.isfinite(value) else str(value) for value in np.asarray(side, float).ravel().tolist()]
    return values[0] if len(set(values)) == 1 else values
