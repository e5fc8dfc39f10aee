"""Converts text to typed values by a setting's kind; never truncates or guesses."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["int", "float", "bool", "text", "ints", "layers", "schedule", "mapping", "int_or_auto", "names", "any"]

_TOO_LARGE = 2**63  # for the arrays and files that numbers go into
_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no"}
_RULES: dict[Kind, str] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "text": "a text",
    "ints": "a list of whole numbers such as [64, 64]",
    "layers": "a list of [channels, kernel, stride]",
    "schedule": "a number, or a list of [timestep, value] that starts at timestep 0",
    "mapping": "a mapping of names to values",
    "int_or_auto": 'a whole number or "auto"',
    "names": "a name, or a list of names",
    "any": "a value",
}


@dataclass(frozen=True)
class Setting:
    """The rule of a setting: its type, range and description.

    Attributes:
        kind: Type of the value, and thus how text is parsed.
        doc: Description of one line for the documentation.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: True when `low` itself is not allowed.
        choices: The only texts allowed; empty allows any.
        none_ok: Whether null switches it off.
    """

    kind: Kind
    doc: str
    low: float | None = None
    high: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()
    none_ok: bool = False

    @property
    def rule(self) -> str:
        """The rule in words, for error messages and docs."""
        text = f"one of {', '.join(self.choices)}" if self.choices else _RULES[self.kind]
        if self.low is not None and self.high is not None:
            text += f" between {_show(self.low)} and {_show(self.high)}"
        elif self.low is not None:
            text += f" {'above' if self.above else 'of at least'} {_show(self.low)}"
        return text + (" or null" if self.none_ok else "")


def coerce(raw: Any, setting: Setting) -> Any:
    """Turns what arrived (text, or an already typed value) into the setting's type.

    Raises:
        ValueError: It is not of the setting's kind, or out of its range.
    """
    value = _untext(raw, setting)
    if value is None and setting.none_ok:
        return None
    value = _CONVERTERS[setting.kind](value)
    if setting.choices and value not in setting.choices:
        raise ValueError(setting.rule)
    for number in _numbers(value, is_schedule=setting.kind == "schedule"):
        if isinstance(number, int) and abs(number) >= _TOO_LARGE:
            raise ValueError(f"{setting.rule}, of at most 64 bits")
        too_low = setting.low is not None and (number < setting.low or (setting.above and number == setting.low))
        if too_low or (setting.high is not None and number > setting.high):
            raise ValueError(setting.rule)
    return value


def parse_text(text: str) -> Any:
    """Reads JSON or a Python literal; text that is neither stays text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _untext(raw: Any, setting: Setting) -> Any:
    """Undoes the layers of quoting that the SDK and the tuner put around values."""
    for _ in range(3):
        if not isinstance(raw, str) or (setting.kind == "text" and not raw.startswith('"')):
            break
        parsed = parse_text(raw)
        if parsed == raw:
            break
        raw = parsed
    return raw


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _bool(value: Any) -> bool:
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _ints(value: Any) -> list[int]:
    if not isinstance(value, list | tuple):
        raise ValueError
    return [_int(item) for item in value]


def _layers(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) and len(row) == 3 for row in value):
        raise ValueError
    return [
        [_int(row[0]), *(_ints(part) if isinstance(part, list) else _int(part) for part in row[1:])] for row in value
    ]


def _schedule(value: Any) -> float | list[list[float]]:
    if not isinstance(value, list | tuple):
        return _float(value)
    points = [[_int(step), _float(at)] for step, at in value]
    steps = [step for step, _ in points]
    if len(points) < 2 or steps[0] != 0 or steps != sorted(set(steps)):
        raise ValueError
    return points


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError
    return value


def _int_or_auto(value: Any) -> int | str:
    return value if value == "auto" else _int(value)


def _names(value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError
    return [_text(name.strip()) for name in names]


def _convert(converter: Any, kind: Kind) -> Any:
    def checked(value: Any) -> Any:
        try:
            return converter(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(_RULES[kind]) from None

    return checked


_CONVERTERS: dict[Kind, Any] = {
    "int": _convert(_int, "int"),
    "float": _convert(_float, "float"),
    "bool": _convert(_bool, "bool"),
    "text": _convert(_text, "text"),
    "ints": _convert(_ints, "ints"),
    "layers": _convert(_layers, "layers"),
    "schedule": _convert(_schedule, "schedule"),
    "mapping": _convert(_mapping, "mapping"),
    "int_or_auto": _convert(_int_or_auto, "int_or_auto"),
    "names": _convert(_names, "names"),
    "any": lambda value: value,
}


def _numbers(value: Any, *, is_schedule: bool) -> list[float]:
    """Returns the numbers that a range applies to: the value, a list's items, a schedule's values."""
    if isinstance(value, bool | str | dict):
        return []
    if isinstance(value, list):
        items = [point[1] for point in value] if is_schedule else value
        return [number for item in items for number in _numbers(item, is_schedule=False)]
    return [value] if isinstance(value, int | float) else []


def _show(number: float) -> str:
    return f"{number:g}"
