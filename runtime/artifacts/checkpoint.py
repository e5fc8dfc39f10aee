"""Saves checkpoints atomically: written aside, flushed to disk, then renamed; the newest 3 and the best are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from runtime.errors import PlatformError, UserError
from runtime.files import remove_folder, sweep, writing_aside
from runtime.outputs.metrics import JSONL, read_rows

_PREFIX = "checkpoint_"
STATE = "job.json"
HASHES = "sha256"
POLICIES = "policies"  # folder of the policies of several agents, each in a folder of its own
UPLOAD_MARKS = "*.sagemaker-upload*"  # .sagemaker-uploading and .sagemaker-uploaded
_FILES = "files"
_RNG = "rng.json"
_RLLIB = "rllib_checkpoint.json"
_KEPT = 3


@dataclass
class JobState:
    """State of a job that is saved beside the algorithm's own.

    Attributes:
        env: Name of the environment.
        observation_shape: Shape of the policy's input.
        action_space: As text; a policy only fits the space that it was trained for.
        training_iteration: Iterations done.
        timesteps_total: Environment steps taken.
        episodes_total: Episodes ended.
        time_total_s: Seconds of training, over all starts of the job.
        episode_reward_mean: Mean return then, None before the first episode's end.
        recent_episodes: Return and length of the episodes that the mean is of.
        extra: State of a family of environments, by the family's name, and of the evaluations. A `score` in it chooses
            the best checkpoint in place of the mean return.
        faults: Counts of processes and hosts that were lost and came back.
        policy: The algorithm, and settings for acting beside the network: env_config, horizon, normalize_actions,
            clip_actions.
        rows: Metrics of every iteration so far.
    """

    env: str
    observation_shape: list[int]
    action_space: str
    training_iteration: int = 0
    timesteps_total: int = 0
    episodes_total: int = 0
    time_total_s: float = 0.0
    episode_reward_mean: float | None = None
    recent_episodes: list[tuple[float, int]] = field(default_factory=list)
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(folder: Path, state: JobState, *, write_algorithm: Callable[[Path], None]) -> Path:
    """Writes a checkpoint and removes old ones.

    Args:
        folder: Folder of the job's checkpoints.
        state: The job's counters and metrics.
        write_algorithm: Writes the algorithm's state into a folder.

    Returns:
        The checkpoint's folder.

    Raises:
        PlatformError: The disk is full or fails; earlier checkpoints are untouched.
    """
    final = folder / f"{_PREFIX}{state.training_iteration:06d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with writing_aside(final) as aside:
            aside.mkdir()
            write_algorithm(aside)
            (aside / _RNG).write_text(json.dumps(_random_states()), encoding="utf-8")
            (aside / JSONL).write_text("".join(json.dumps(row) + "\n" for row in state.rows), encoding="utf-8")
            write_state(aside, state)
    except OSError as error:
        raise PlatformError(
            f"{final}: the checkpoint could not be written: {error.strerror or error}. "
            "Earlier checkpoints are whole; free some space and start the job again to resume from the last."
        ) from error
    _prune(folder)
    return final


def write_state(checkpoint: Path, state: JobState) -> None:
    """Writes the state into a checkpoint whose other files are complete: their sizes and hashes are part of it."""
    counters = {item.name: getattr(state, item.name) for item in fields(state) if item.name != "rows"}
    written = {str(path.relative_to(checkpoint)): path for path in _list_files(checkpoint)}
    sizes = {name: path.stat().st_size for name, path in written.items()}
    hashes = {name: hash_file(path) for name, path in written.items()}
    described = {**counters, _FILES: sizes, HASHES: hashes}
    (checkpoint / STATE).write_text(json.dumps(described, indent=2), encoding="utf-8")


def checkpoints_in(folder: Path) -> list[Path]:
    """Whole checkpoints of a job, oldest first."""
    found = folder.glob(f"{_PREFIX}*") if folder.is_dir() else []
    return sorted(path for path in found if is_whole(path))


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is present at its full size; SageMaker restores checkpoints file by file."""
    try:
        sizes = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))[_FILES]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def best_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint with the highest score, or mean return where none has a score; the newer of equals."""
    scored = [(*found, path) for path in checkpoints_in(folder) if (found := _score(path)) is not None]
    return max(scored)[2] if scored else None


def find_checkpoint(place: Path) -> Path | None:
    """Finds the checkpoint that a path refers to.

    A checkpoint itself, the last one of a checkpoints folder, a results folder, or a model directory.
    """
    if is_whole(place):
        return place
    for folder in (place, place / "checkpoints"):
        if found := checkpoints_in(folder):
            return found[-1]
    return place / "checkpoint" if is_whole(place / "checkpoint") else None


def find_rllib_checkpoint(place: Path) -> Path | None:
    """Finds the checkpoint of a path that RLlib alone wrote: the folder itself, or the last one of a Tune trial."""
    for folder in (place, *sorted(place.glob(f"{_PREFIX}*"), reverse=True)):
        if (folder / _RLLIB).is_file() and not (folder / STATE).is_file():
            return folder
    return None


def read_state(checkpoint: Path) -> JobState:
    """Reads the job's state from a checkpoint.

    Raises:
        UserError: The checkpoint is broken.
    """
    try:
        described = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        state = JobState(
            **{name: value for name, value in _upgrade_state(described).items() if name not in (_FILES, HASHES)}
        )
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{checkpoint / STATE}: got a file that cannot be read ({error}); expected a checkpoint of this program. "
            "Restore from another checkpoint, or start without."
        ) from None
    state.rows = read_rows(checkpoint / JSONL)
    return state


def _upgrade_state(described: dict[str, Any]) -> dict[str, Any]:
    """Converts the state of a 0.1 checkpoint, which kept the state of DeepRacer trainings at the top level."""
    if "extra" in described:
        return described
    kept = {name: value for name, value in described.items() if name not in ("racing", "score")}
    racing = {"score": described.get("score"), **described.get("racing", {})}
    has_any = described.get("racing") or described.get("score") is not None
    return {**kept, "extra": {"deepracer": racing} if has_any else {}}


def restore_random_states(checkpoint: Path) -> None:
    """Sets the random generators of this process to where they were.

    Environments draw from generators of their own, which cannot be saved; a resumed run is not bit-equal to one
    that was never stopped.
    """
    path = checkpoint / _RNG
    if not path.is_file():
        return
    import random

    import numpy as np
    import torch

    states = json.loads(path.read_text(encoding="utf-8"))
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(states["torch"]), dtype=torch.uint8))


def _random_states() -> dict[str, Any]:
    """States of the random generators of this process, as JSON."""
    import random

    import numpy as np
    import torch

    name, words, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(words).tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }


def _prune(folder: Path) -> None:
    kept = set(checkpoints_in(folder)[-_KEPT:])
    best = best_checkpoint(folder)
    for path in checkpoints_in(folder):
        if path not in kept and path != best:
            remove_folder(path)
    sweep(folder)


def _list_files(folder: Path) -> list[Path]:
    """Lists a checkpoint's files, without the temporary markers that SageMaker adds while it uploads."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not fnmatch(path.name, UPLOAD_MARKS))


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _score(checkpoint: Path) -> tuple[bool, float] | None:
    """Whether a checkpoint has been evaluated, and its score, else its mean return; None where it has neither."""
    try:
        described = _upgrade_state(json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
        scores = [kept["score"] for kept in described["extra"].values() if kept.get("score") is not None]
        value = scores[0] if scores else described["episode_reward_mean"]
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return None if value is None else (bool(scores), float(value))
