"""Reads HDF5 logs: datasets of Minari, d3rlpy 2 and d3rlpy 1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.offline.data.log import Log

_MINARI = Path("data") / "main_data.hdf5"


def is_stored_dataset(path: Path) -> bool:
    """Whether a path is an HDF5 file or the folder of a Minari dataset."""
    return path.suffix in (".h5", ".hdf5") or (path / _MINARI).is_file()


def read_stored_dataset(path: Path) -> Log:
    """Reads a Minari dataset's folder, or an HDF5 file of Minari, d3rlpy 2 or d3rlpy 1.

    Raises:
        UserError: The file has another layout, or cannot be read.
    """
    import h5py

    file_path = path / _MINARI if path.is_dir() else path
    try:
        with h5py.File(file_path, "r") as file:
            if any(re.fullmatch(r"episode_\d+", name) for name in file):
                return _read_minari(path, file)
            if "observations_0" in file:
                return _read_d3rlpy(path, file)
            if {"observations", "actions", "rewards", "terminals"} <= set(file):
                return _read_flat(path, file)
            found = ", ".join(sorted(file)[:8])
    except KeyError as error:
        raise UserError(
            f"{file_path}: got an episode without all of its arrays ({error}); expected observations, actions, "
            "rewards and ends for each."
        ) from None
    except OSError as error:
        raise UserError(f"{file_path}: got a file that cannot be read ({error}); expected a whole HDF5 file.") from None
    raise UserError(
        f"{file_path}: got the groups {found}; expected a dataset of Minari (episode_0, …) or d3rlpy "
        "(observations_0, … or observations, actions, rewards, terminals)."
    )


def _read_minari(path: Path, file: Any) -> Log:
    """Reads Minari's layout: one group per episode, with one more observation than actions."""
    groups = [file[name] for name in sorted(file, key=_number)]
    parts = [_array(path, group, "observations") for group in groups]
    lengths = [len(group["rewards"]) for group in groups]
    final = {i: part[-1] for i, part in enumerate(parts) if len(part) == lengths[i] + 1}
    return _as_log(
        path,
        [part[:length] for part, length in zip(parts, lengths, strict=True)],
        [_array(path, group, "actions") for group in groups],
        [group["rewards"][:] for group in groups],
        terminated=[group["terminations"][:] for group in groups],
        final_observations=final,
    )


def _read_d3rlpy(path: Path, file: Any) -> Log:
    """Reads d3rlpy 2's layout: observations_0, actions_0, rewards_0, terminated_0, and so on for each episode."""
    count = sum(bool(re.fullmatch(r"observations_\d+", name)) for name in file)
    rewards = [file[f"rewards_{i}"][:].reshape(-1) for i in range(count)]
    ends = [np.arange(len(part)) == len(part) - 1 for part in rewards]
    return _as_log(
        path,
        [file[f"observations_{i}"][:] for i in range(count)],
        [file[f"actions_{i}"][:] for i in range(count)],
        rewards,
        terminated=[end & bool(file[f"terminated_{i}"][()]) for i, end in enumerate(ends)],
    )


def _read_flat(path: Path, file: Any) -> Log:
    """Reads d3rlpy 1's layout: all steps in one array, with flags at the ends of episodes."""
    terminals = file["terminals"][:].reshape(-1).astype(bool)
    flags = next((name for name in ("episode_terminals", "timeouts") if name in file), None)
    ends = terminals | file[flags][:].reshape(-1).astype(bool) if flags else terminals.copy()
    ends[-1:] = True
    cuts = np.flatnonzero(ends)[:-1] + 1
    split = {name: np.split(file[name][:], cuts) for name in ("observations", "actions", "rewards")}
    return _as_log(
        path,
        split["observations"],
        split["actions"],
        [part.reshape(-1) for part in split["rewards"]],
        terminated=np.split(terminals, cuts),
    )


def _as_log(
    path: Path,
    observations: list[NDArray[Any]],
    actions: list[NDArray[Any]],
    rewards: list[NDArray[Any]],
    *,
    terminated: list[NDArray[Any]],
    final_observations: dict[int, NDArray[Any]] | None = None,
) -> Log:
    lengths = np.array([len(part) for part in rewards], np.int64)
    for name, parts in (("observations", observations), ("actions", actions), ("ends", terminated)):
        for episode, part in enumerate(parts):
            if len(part) != lengths[episode]:
                raise UserError(
                    f"{path}: {name}: got {len(part)} in episode {episode}, which has {lengths[episode]} rewards; "
                    "expected as many."
                )
    states = np.concatenate(observations).astype(np.float32)
    chosen = np.concatenate(actions)
    if chosen.ndim == 2 and chosen.shape[1] == 1 and np.issubdtype(chosen.dtype, np.integer):
        chosen = chosen[:, 0]
    starts = np.cumsum(lengths) - lengths

    def row_name(row: int) -> str:
        episode = int(np.searchsorted(starts, row, side="right")) - 1
        return f"step {row - starts[episode]} of episode {episode}"

    return Log(
        name=str(path),
        row_name=row_name,
        observations=states.reshape(len(states), -1),
        actions=chosen,
        rewards=np.concatenate(rewards).astype(np.float32),
        episodes=np.repeat(np.arange(len(lengths)), lengths),
        episode_names=list(range(len(lengths))),
        terminated=np.concatenate(terminated).astype(bool),
        final_observations={
            episode: np.asarray(state, np.float32).reshape(-1) for episode, state in (final_observations or {}).items()
        },
    )


def _array(path: Path, group: Any, name: str) -> NDArray[Any]:
    """Returns an array of a Minari episode.

    Raises:
        UserError: It is a group, as for a Dict or Tuple space.
    """
    if not hasattr(group[name], "shape"):
        raise UserError(
            f"{path}: got {name} of several parts ({', '.join(group[name])}); expected one array. Flatten the "
            "dataset's space first."
        )
    array: NDArray[Any] = group[name][:]
    return array


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])
