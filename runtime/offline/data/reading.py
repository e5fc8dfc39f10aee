"""Finds and reads the log of a batch RL job, in any supported format."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError
from runtime.offline.data.rllib_logs import JSON, is_rllib_parquet, read_rllib_json, read_rllib_parquet
from runtime.offline.data.stored_datasets import is_stored_dataset, read_stored_dataset
from runtime.offline.data.table_columns import column_names, is_parquet
from runtime.offline.data.tables import read_tables
from runtime.offline.data.transitions import Transitions, arrange

_TABLES = (".csv", ".csv.gz", ".parquet")


def is_log(path: Path) -> bool:
    """Whether a path looks like a log that `read_transitions` reads."""
    return path.name.endswith(_TABLES) or is_stored_dataset(path)


def read_transitions(place: Path, *, num_actions: int | None = None) -> Transitions:
    """Reads a log: CSV or Parquet, a folder of either, a Minari dataset's folder, HDF5 of d3rlpy, or RLlib's output.

    RLlib's output is a file or folder of its JSON lines, or of its Parquet, of steps or of whole episodes.

    Args:
        place: File or folder of the log.
        num_actions: Number of discrete actions, if known.

    Raises:
        UserError: There is no log, or it breaks rules; all of a kind are listed, with rows.
    """
    if not place.exists():
        raise UserError(f"data: got {str(place)!r}, which does not exist; expected a CSV, Parquet, HDF5 or JSON file.")
    if place.is_dir() and not is_stored_dataset(place):
        place = _stored_in(place) or place  # a SageMaker channel is always a folder
    if is_stored_dataset(place):
        return arrange(read_stored_dataset(place), num_actions=num_actions)
    if batches := _json_in(place):
        return arrange(read_rllib_json(batches), num_actions=num_actions)
    tables = _tables_in(place)
    if is_parquet(tables[0]) and is_rllib_parquet(column_names(tables[0])):
        return arrange(read_rllib_parquet(tables), num_actions=num_actions)
    return arrange(read_tables(tables), num_actions=num_actions)


def _stored_in(folder: Path) -> Path | None:
    """Finds the only stored dataset below a folder without tables; None if there is none."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {
        path.parent.parent if path.match("data/main_data.hdf5") else path for path in files if is_stored_dataset(path)
    }
    has_tables = any(path.name.endswith(_TABLES) for path in files)
    return found.pop() if len(found) == 1 and not has_tables else None


def _json_in(place: Path) -> list[Path]:
    """Lists the JSON files of a path without tables, which can be RLlib's alone."""
    if place.is_file():
        return [place] if place.suffix in JSON else []
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name[0] not in "._")
    if any(path.name.endswith(_TABLES) for path in files):
        return []
    return [path for path in files if path.suffix in JSON]


def _tables_in(place: Path) -> list[Path]:
    """Lists the table files of a folder, all of one format.

    Raises:
        UserError: There is none, or of several kinds.
    """
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    tables = [path for path in files if path.name.endswith(_TABLES) and (path == place or path.name[0] not in "._")]
    if not tables:
        found = ", ".join(path.name for path in files[:5]) or "nothing"
        raise UserError(
            f"data: got {found} in {place}; expected .csv, .csv.gz, .parquet, .h5, RLlib's .json, or the "
            "folder of a Minari dataset."
        )
    stored = [path for path in files if is_stored_dataset(path)]
    if stored or len({path.suffix == ".parquet" for path in tables}) > 1:
        names = ", ".join(path.name for path in [*tables, *stored][:5])
        raise UserError(f"data: got files of several kinds in {place} ({names}); expected one kind. Name one of them.")
    return tables
