"""The column all_action_probabilities: lists of numbers as text, in the forms that notebooks have written it in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError

NAME = "all_action_probabilities"
_TO_BLANKS = bytes.maketrans(b"[](){},;", b"        ")

RowName = Callable[[int], str]


def parse_lists(column: Any, row_name: RowName, path: Path) -> NDArray[np.float32]:
    """(B, A) numbers of cells such as `[0.5, 0.5]`, `[np.float64(0.5), …]`, `[0.5 0.5]` or `0.5;0.5`; NaN where empty.

    Raises:
        UserError: Cells hold different counts of numbers, or what is no number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        return np.full((len(column), 1), np.nan, np.float32)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        lengths = np.asarray(pc.list_value_length(column).fill_null(0))
        return _as_rows(column.flatten().to_numpy(zero_copy_only=False), lengths, row_name, path)
    encoded = column.fill_null("").dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    # Where few texts differ, as with a policy that ignores the state, each is parsed once.
    parsed = _parse_texts(encoded.dictionary.to_pylist(), lambda code: row_name(int(np.argmax(codes == code))), path)
    return np.asarray(parsed[codes], np.float32)


def _parse_texts(texts: list[str], row_name: RowName, path: Path) -> NDArray[np.float32]:
    """Parses all texts in one call where each holds equally many numbers; otherwise one by one."""
    joined = "|".join(texts).encode()
    if b"np.float" in joined:
        joined = re.sub(rb"np\.float\d+\(", b"", joined)
    cleaned = joined.translate(_TO_BLANKS)
    together = _to_numbers(cleaned.replace(b"|", b" ").split())
    if together is not None and all(texts) and len(together) % len(texts) == 0:
        table = together.reshape(len(texts), -1)
        if np.abs(table.sum(axis=1) - 1).max() < 0.5:  # a row that borrowed from its neighbor does not sum to 1
            return table
    rows = [_to_numbers(part.split()) for part in cleaned.split(b"|")]
    for number, row in enumerate(rows):
        if row is None:
            raise UserError(
                f"{path}: {NAME}: got {texts[number]!r} in {row_name(number)}; expected numbers such as [0.5, 0.5]."
            )
    found = [row for row in rows if row is not None]
    return _as_rows(np.concatenate(found), np.array([len(row) for row in found]), row_name, path)


def _to_numbers(words: list[bytes]) -> NDArray[np.float32] | None:
    """Returns the words as numbers, or None if one is not a number."""
    import pyarrow as pa

    try:
        numbers = pa.array(words, pa.string()).cast(pa.float32())
    except pa.ArrowInvalid:
        return None
    return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float32)


def _as_rows(flat: NDArray[Any], lengths: NDArray[Any], row_name: RowName, path: Path) -> NDArray[np.float32]:
    """Reshapes numbers to rows of equal length; an empty row is NaN.

    Raises:
        UserError: The lengths differ.
    """
    width = int(lengths.max(initial=1)) or 1
    odd = np.flatnonzero((lengths != width) & (lengths != 0))
    if len(odd):
        raise UserError(
            f"{path}: {NAME}: got {lengths[odd[0]]} numbers in {row_name(int(odd[0]))} and {width} elsewhere; "
            "expected one for each action in every row."
        )
    rows = np.full((len(lengths), width), np.nan, np.float32)
    rows[lengths == width] = flat.reshape(-1, width) if len(flat) else 0
    return rows
