"""Logs as tables: CSV in the form of the batch RL notebook, and Parquet with the same columns.

Columns: action (or action_0, action_1, … of continuous ones), reward, episode_id, state_feature_0, state_feature_1, …;
and where there are any all_action_probabilities (a list as text, or action_probability_0, …), transition_number,
cumulative_rewards, terminated, truncated.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import Problems, UserError
from runtime.offline.data.log import Log
from runtime.offline.data.probability_lists import NAME as _PROBABILITIES
from runtime.offline.data.probability_lists import parse_lists
from runtime.offline.data.table_columns import Columns, check_types, column_names, find_columns, is_parquet

_BLOCK_BYTES = 16 * 2**20
_ROWS = 65536
_SHOWN = 5

_WORDS = {"true": 1.0, "false": 0.0}


@dataclass
class _Chunks:
    """The parts of each column that were read so far."""

    numbers: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    episodes: list[NDArray[np.int64]] = field(default_factory=list)
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)
    ids: dict[Any, int] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)

    def take(self, name: str) -> NDArray[np.float32]:
        """Joins the parts of a column and frees them."""
        return np.concatenate(self.numbers.pop(name))


def read_tables(paths: Sequence[Path]) -> Log:
    """Reads CSV or Parquet files as one log.

    Args:
        paths: At least one; all with the same columns.

    Raises:
        UserError: A file's columns or types are wrong; all problems are listed.
    """
    chunks = _Chunks()
    names = None
    for path in paths:
        found = find_columns(path, column_names(path))
        if names is not None and names != found:
            raise UserError(
                f"{path}: got other columns than {paths[0]} has; expected the same in every file of the data."
            )
        names = found
        before, earlier, first_batch = sum(chunks.rows), len(chunks.ids), len(chunks.episodes)
        for batch in _batches(path, names):
            _take_batch(chunks, names, batch, path, first_row=sum(chunks.rows) - before)
            chunks.rows.append(batch.num_rows)
        if "transition_number" not in names.others:
            _check_ids(chunks, path, earlier=earlier, first_batch=first_batch)
    assert names is not None
    return _as_log(paths, names, chunks)


def _check_ids(chunks: _Chunks, path: Path, *, earlier: int, first_batch: int) -> None:
    """Checks that an episode spans two files only if its steps are numbered.

    Raises:
        UserError: An episode id is in an earlier file too.
    """
    shared = next(
        (int(part[part < earlier][0]) for part in chunks.episodes[first_batch:] if (part < earlier).any()), None
    )
    if shared is not None:
        name = list(chunks.ids)[shared]
        raise UserError(
            f"{path}: episode_id: got {name!r}, which an earlier file has too; expected an id for each episode of all "
            "files. Rename one of them, or add a column transition_number if it is one episode."
        )


def _batches(path: Path, names: Columns) -> Iterator[Any]:
    """Yields record batches of the columns that are used.

    Raises:
        UserError: A cell has a wrong type.
    """
    import pyarrow as pa

    try:
        if is_parquet(path):
            import pyarrow.parquet

            wanted = [*names.numbers, *names.texts]
            check_types(path, names)
            yield from pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS, columns=wanted)
        else:
            yield from _csv(path, names)
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        if not is_parquet(path):
            with contextlib.suppress(pa.ArrowException, OSError, EOFError, zlib.error):
                _explain(path, names)
        raise UserError(
            f"{path}: got a file that cannot be read ({_first_line(error)}); expected a whole table."
        ) from None


def _csv(path: Path, names: Columns) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    # Flags arrive as true, True or 1: they are read as text and turned into numbers later.
    texts = [*names.texts, *({"terminated", "truncated"} & set(names.others))]
    options = csv.ConvertOptions(
        column_types={
            **dict.fromkeys(names.numbers, pa.float32()),
            **dict.fromkeys(texts, pa.string()),
            "transition_number": pa.float64(),  # float32 runs out of whole numbers at 16 million
        },
        include_columns=[*names.numbers, *names.texts],
        null_values=["", "nan", "NaN", "NA", "null", "None"],
        strings_can_be_null=True,
    )
    return csv.open_csv(path, csv.ReadOptions(block_size=_BLOCK_BYTES), convert_options=options)


def _explain(path: Path, names: Columns) -> None:
    """Reads every cell as text to name the cells that are not numbers and the lines of the wrong length.

    Raises:
        UserError: Such a cell or line was found.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    problems = Problems()
    broken = []

    def keep(row: Any) -> str:
        broken.append((row.number, row.actual_columns, row.expected_columns))
        return "skip"

    columns = [*names.numbers, *names.texts]
    options = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=columns)
    parse = csv.ParseOptions(invalid_row_handler=keep)
    # Row numbers are available with a single thread only.
    table = csv.read_csv(path, csv.ReadOptions(use_threads=False), parse, options)
    for name in names.numbers:
        cells = pc.utf8_trim_whitespace(table[name])
        number = pc.match_substring_regex(
            cells, r"^([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf|nan|NaN|NA|null|None|)$"
        )
        if name in ("terminated", "truncated"):
            number = pc.or_(number, pc.match_substring_regex(cells, "^(?i)(true|false)$"))
        wrong = np.flatnonzero(~number.to_numpy(zero_copy_only=False).astype(bool))
        if len(wrong):
            shown = ", ".join(f"{cells[int(row)].as_py()!r} in {_line(path, int(row))}" for row in wrong[:_SHOWN])
            more = f" and {len(wrong) - _SHOWN:,} more" if len(wrong) > _SHOWN else ""
            problems.add_line(f"{path}: {name}: got {shown}{more}; expected numbers.")
    if broken:
        shown = ", ".join(f"{got} cells in line {number}" for number, got, _ in broken[:_SHOWN])
        problems.add_line(
            f"{path}: got {shown}; expected {broken[0][2]} in each. A last line may have been cut off: drop it."
        )
    problems.raise_if_any()


def _take_batch(chunks: _Chunks, names: Columns, batch: Any, path: Path, *, first_row: int) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in names.numbers:
        column = batch.column(name)
        if pa.types.is_boolean(column.type):
            column = pc.cast(column, pa.float32())
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = _flags(column, path, name, first_row)
        dtype = np.float64 if name == "transition_number" else np.float32
        values = column.to_numpy(zero_copy_only=False).astype(dtype)
        chunks.numbers.setdefault(name, []).append(values)
    encoded = batch.column("episode_id").dictionary_encode()
    known = [chunks.ids.setdefault(name, len(chunks.ids)) for name in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    if (codes < 0).any():
        row = _line(path, first_row + int(np.argmin(codes)))
        raise UserError(f"{path}: episode_id: got an empty cell in {row}; expected the episode of each row.")
    chunks.episodes.append(np.array(known, np.int64)[codes])
    if names.has_list:
        column = batch.column(_PROBABILITIES)
        parsed = parse_lists(column, lambda row: _line(path, first_row + row), path)
        chunks.probabilities.append(parsed)


def _flags(column: Any, path: Path, name: str, first_row: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    lower = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    for word, number in _WORDS.items():
        lower = pc.replace_substring_regex(lower, f"^{word}$", str(number))
    try:
        return pc.cast(lower, pa.float32())
    except pa.ArrowInvalid:
        values = column.to_pylist()
        bad = next(i for i, text in enumerate(lower.to_pylist()) if text is not None and not _is_number(text))
        raise UserError(
            f"{path}: {name}: got {values[bad]!r} in {_line(path, first_row + bad)}; expected true or false, 1 or 0."
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_log(paths: Sequence[Path], names: Columns, chunks: _Chunks) -> Log:
    """Builds the log of all files; parts are freed as they are joined, to save memory."""
    starts = np.cumsum([0, *chunks.rows])

    def row_name(row: int) -> str:
        file = int(np.searchsorted(starts, row, side="right")) - 1
        return _line(paths[file], int(row - starts[file]), alone=len(paths) == 1)

    count = int(starts[-1])
    features = [*names.states, *names.masks]
    observations = np.empty((count, len(features)), np.float32)
    for column, name in enumerate(features):
        observations[:, column] = chunks.take(name) if count else 0
    others: dict[str, Any] = {name: chunks.take(name) for name in names.others if count}
    for name in {"terminated", "truncated"} & others.keys():
        others[name] = np.nan_to_num(others[name]) != 0
    steps = others.pop("transition_number", None)
    probabilities = _join_probabilities(chunks.probabilities, paths[0]) if chunks.probabilities else None
    if names.probabilities and count:
        probabilities = np.stack([chunks.take(name) for name in names.probabilities], axis=1)
    actions = [chunks.take(name) if count else np.zeros(0, np.float32) for name in names.actions]
    return Log(
        name=str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)",
        row_name=row_name,
        observations=observations,
        actions=actions[0] if names.actions == ["action"] else np.stack(actions, axis=1),
        rewards=chunks.take("reward") if count else np.zeros(0, np.float32),
        episodes=np.concatenate(chunks.episodes) if count else np.zeros(0, np.int64),
        episode_names=list(chunks.ids),
        steps=None if steps is None else steps.astype(np.float64),
        probabilities=probabilities,
        mask_size=len(names.masks),
        **others,
    )


def _join_probabilities(parts: list[NDArray[np.float32]], path: Path) -> NDArray[np.float32]:
    """Joins the probabilities of all parts; parts without any number are widened with NaN.

    Raises:
        UserError: Parts hold different counts of numbers.
    """
    widths = {part.shape[1] for part in parts if not np.isnan(part).all()} or {1}
    if len(widths) > 1:
        found = " and ".join(map(str, sorted(widths)))
        raise UserError(
            f"{path}: {_PROBABILITIES}: got rows of {found} numbers; expected one for each action in every row."
        )
    (width,) = widths
    return np.concatenate(
        [part if part.shape[1] == width else np.full((len(part), width), np.nan, np.float32) for part in parts]
    )


def _line(path: Path, row: int, *, alone: bool = True) -> str:
    """Returns the name of row i for a message; in a CSV file, the line number that an editor shows."""
    where = "" if alone else f" of {path.name}"
    return f"row {row + 1}{where}" if is_parquet(path) else f"line {row + 2}{where}"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
