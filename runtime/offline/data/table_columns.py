"""Finds the columns of a log's table and checks their types."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import Problems, UserError, suggest
from runtime.offline.data.probability_lists import NAME as _PROBABILITIES
from runtime.policies.spaces import ACTION_MASK

_ONCE = ("episode_id", "reward")
_MAYBE = ("transition_number", "cumulative_rewards", "terminated", "truncated")
_NUMBERED = {
    "state": "state_feature_",
    "action": "action_",
    "probability": "action_probability_",
    "mask": f"{ACTION_MASK}_",
}


@dataclass(frozen=True)
class Columns:
    """The columns of a log's table.

    Attributes:
        states: state_feature_0, state_feature_1, …
        actions: `action`, or action_0, action_1, …
        probabilities: action_probability_0, …; empty where there are none.
        masks: action_mask_0, …; likewise.
        has_list: Whether the column all_action_probabilities exists.
        others: The optional columns of _MAYBE that exist.
    """

    states: list[str]
    actions: list[str]
    probabilities: list[str]
    masks: list[str]
    has_list: bool
    others: list[str]

    @property
    def numbers(self) -> list[str]:
        """Names of all columns that are read as numbers."""
        return [*self.states, *self.actions, *self.probabilities, *self.masks, "reward", *self.others]

    @property
    def texts(self) -> list[str]:
        """Names of all columns that are read as text."""
        return ["episode_id", *([_PROBABILITIES] if self.has_list else [])]


def find_columns(path: Path, columns: list[str]) -> Columns:
    """Assigns column names to their roles.

    Raises:
        UserError: Columns are missing or doubled.
    """
    problems = Problems()
    numbered = {kind: _numbered(columns, prefix, path, problems) for kind, prefix in _NUMBERED.items()}
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        problems.add_line(f"{path}: columns: got {', '.join(doubled)} more than once; expected each once.")
    if ACTION_MASK in columns:
        problems.add_line(
            f"{path}: columns: got {ACTION_MASK}; expected {ACTION_MASK}_0, {ACTION_MASK}_1, …, one for each action."
        )
    missing = [name for name in _ONCE if name not in columns]
    if not numbered["state"]:
        missing.append("state_feature_0")
    if "action" not in columns and not numbered["action"]:
        missing.append("action")
    elif "action" in columns and numbered["action"]:
        problems.add_line(f"{path}: columns: got action beside {numbered['action'][0]}; expected one form of actions.")
    for name in missing:
        problems.add_line(
            f"{path}: columns: got {', '.join(columns[:12])}{', …' if len(columns) > 12 else ''}; expected {name} "
            f"among them.{suggest(name, columns)}"
        )
    problems.raise_if_any()
    return Columns(
        numbered["state"],
        ["action"] if "action" in columns else numbered["action"],
        numbered["probability"],
        numbered["mask"],
        _PROBABILITIES in columns and not numbered["probability"],
        [name for name in _MAYBE if name in columns],
    )


def _numbered(columns: list[str], prefix: str, path: Path, problems: Problems) -> list[str]:
    found = {int(name[len(prefix) :]) for name in columns if re.fullmatch(rf"{prefix}(0|[1-9]\d*)", name)}
    expected = set(range(len(found)))
    if found != expected:
        problems.add_line(
            f"{path}: columns: got {', '.join(f'{prefix}{i}' for i in sorted(found))}; expected {prefix}0 to "
            f"{prefix}{len(found) - 1} without a gap."
        )
    return [f"{prefix}{i}" for i in sorted(found)]


def column_names(path: Path) -> list[str]:
    """Returns the names of a file's columns, unchanged.

    Raises:
        UserError: The file cannot be read.
    """
    if is_parquet(path):
        import pyarrow.parquet

        try:
            return list(pyarrow.parquet.read_schema(path).names)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: got a file that is not Parquet ({error}); expected a table.") from None
    try:
        with _open(path) as file:
            header = file.readline(2**20).decode("utf-8-sig", errors="replace").strip("\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: got a file that cannot be read ({error}); expected a whole table.") from None
    if not header:
        raise UserError(f"{path}: got an empty file; expected a header line and rows.")
    # Blanks stay, as the column is read by its exact name.
    return [name.strip('"') for name in header.split(",")]


def _open(path: Path) -> Any:
    if path.suffix == ".gz":
        import gzip

        return gzip.open(path)
    return path.open("rb")


def is_parquet(path: Path) -> bool:
    """Whether the file is Parquet, by its name."""
    return path.suffix == ".parquet"


def check_types(path: Path, names: Columns) -> None:
    """Checks the column types of a Parquet file.

    Raises:
        UserError: A column has a wrong type.
    """
    import pyarrow as pa
    import pyarrow.parquet

    def is_number(kind: Any) -> bool:
        return any(is_kind(kind) for is_kind in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean))

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    def is_list(kind: Any) -> bool:
        is_nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return is_nested and is_number(kind.value_type)

    problems = Problems(str(path))
    schema = pyarrow.parquet.read_schema(path)
    for name in dict.fromkeys([*names.numbers, *names.texts]):
        kind = schema.field(name).type
        is_flag = name in ("terminated", "truncated")
        fits = is_number(kind)
        expected = "numbers"
        if name == "episode_id":
            fits = is_text(kind) or is_number(kind)
            expected = "text or numbers"
        elif name == _PROBABILITIES:
            fits = is_text(kind) or is_list(kind) or pa.types.is_null(kind)
            expected = "lists of numbers, or text"
        elif is_flag:
            fits = fits or pa.types.is_string(kind)
            expected = "true or false"
        if not fits:
            problems.add_line(f"{path}: {name}: got a column of {kind}; expected {expected}.")
    problems.raise_if_any()
