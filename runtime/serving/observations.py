"""Converts numbers from requests to arrays, and checks their types, shapes and finiteness."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.serving.served_policy import ServedPolicy

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxlist = 9
_SHORT.maxdict = 6
_SHORT.maxstring = 40
_LIST = frozenset({list})
JSON_TYPES: dict[str, frozenset[type]] = {
    "float32": frozenset({int, float}),
    "int32": frozenset({int}),
    "int64": frozenset({int}),
    "bool": frozenset({bool}),
}


class RequestError(Exception):
    """An invalid request, with the HTTP status and the message for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def to_observations(value: Any, policy: ServedPolicy, *, field: str) -> NDArray[np.float32]:
    """Converts nested lists of numbers to a (B, …) float32 array.

    Raises:
        RequestError: A value is not a finite number, or the shape is not the policy's; the message names the field.
    """
    disallowed = find_disallowed(value, JSON_TYPES["float32"], depth=len(policy.observation_shape) + 1)
    if disallowed is not None:
        raise RequestError(400, f"{field}: got {short(disallowed.value)}; expected numbers in nested lists.")
    return check_observations(to_array(value, field=field), policy, field=field)


def to_array(value: Any, *, field: str) -> NDArray[np.float32]:
    """Converts nested lists of numbers to float32; numbers beyond its range become infinite.

    Raises:
        RequestError: The lists are ragged.
    """
    try:
        with np.errstate(over="ignore"):
            return np.array(value, np.float32)
    except (ValueError, OverflowError, TypeError):
        raise RequestError(400, f"{field}: got lists of different lengths or depths; expected equal ones.") from None


def check_observations(observations: NDArray[np.float32], policy: ServedPolicy, *, field: str) -> NDArray[np.float32]:
    """Checks that an array has shape (B, …) with at least one row and finite numbers, and returns it.

    Raises:
        RequestError: The shape is wrong, or a number is not finite.
    """
    _check_rows(observations, policy.observation_shape, "this policy's observations", field=field)
    return observations


def to_masks(value: Any, policy: ServedPolicy, *, rows: int, field: str) -> NDArray[np.float32]:
    """Converts nested lists of 0 and 1 to (B, M) float32 masks.

    Raises:
        RequestError: A value is not 0 or 1, the shape is not that of the observations' masks, or a mask allows nothing.
    """
    disallowed = find_disallowed(value, JSON_TYPES["float32"], depth=2)
    if disallowed is not None:
        raise RequestError(400, f"{field}: got {short(disallowed.value)}; expected 0 or 1 in nested lists.")
    masks = to_array(value, field=field)
    if len(masks.shape) > 0 and len(masks) != rows:
        raise RequestError(400, f"{field}: got {len(masks)} masks; expected {rows}, one for each observation.")
    return check_masks(masks, policy, field=field)


def check_masks(masks: NDArray[np.float32], policy: ServedPolicy, *, field: str) -> NDArray[np.float32]:
    """Checks that an array has shape (B, M) and only 0 and 1, with a 1 in each row, and returns it.

    Raises:
        RequestError: It has not.
    """
    _check_rows(masks, (policy.mask_size,), "a number for each action", field=field)
    wrong = (masks != 0) & (masks != 1)
    if wrong.any():
        place = tuple(int(axis) for axis in np.argwhere(wrong)[0])
        raise RequestError(400, f"{field}{list(place)}: got {masks[place]:g}; expected 0 or 1.")
    if not masks.any(axis=1).all():
        row = int(np.argmin(masks.any(axis=1)))
        raise RequestError(400, f"{field}[{row}]: got a mask that allows no action; expected a 1 for one at least.")
    return masks


def check_joined(rows: NDArray[np.float32], policy: ServedPolicy, *, field: str) -> NDArray[np.float32]:
    """Checks (B, O + M) observations with their masks after them, as formats without names have them.

    Raises:
        RequestError: As `check_observations` and `check_masks`.
    """
    size = policy.mask_size
    if not size:
        return check_observations(rows, policy, field=field)
    _check_rows(rows, policy.row_shape, "an observation and its action mask", field=field)
    check_masks(rows[:, -size:], policy, field=f"{field}, action mask")
    return rows


def _check_rows(observations: NDArray[np.float32], shape: tuple[int, ...], what: str, *, field: str) -> None:
    if observations.shape[1:] != shape or not len(observations):
        expected = f"expected (batch, {', '.join(map(str, shape))}), {what}"
        raise RequestError(400, f"{field}: got shape {observations.shape}; {expected}.")
    if not np.isfinite(observations).all():
        place = tuple(int(axis) for axis in np.argwhere(~np.isfinite(observations))[0])
        raise RequestError(
            400, f"{field}{list(place)}: got {observations[place]}; expected a finite number that a float32 can hold."
        )


@dataclass(frozen=True)
class Disallowed:
    """A value of a type that is not allowed."""

    value: Any


def find_disallowed(value: Any, allowed: frozenset[type], *, depth: int) -> Disallowed | None:
    """Returns the first value in nested lists whose type is not allowed; Python's bool does not count as a number."""
    if type(value) in allowed:
        return None
    level = [value]
    for _ in range(depth + 1):
        kinds = set(map(type, level))
        if kinds <= allowed:
            return None
        if wrong := kinds - allowed - _LIST:
            return Disallowed(next(item for item in level if type(item) in wrong))
        level = list(chain.from_iterable(level if kinds == _LIST else (item for item in level if type(item) is list)))
    return None


def short(value: Any) -> str:
    """Returns a value as text for a message, cut to a short length and depth."""
    return _SHORT.repr(value)
