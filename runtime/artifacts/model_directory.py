"""The model directory: what a job leaves to be served, evaluated or trained further."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime.artifacts.checkpoint import (
    POLICIES,
    UPLOAD_MARKS,
    JobState,
    best_checkpoint,
    find_checkpoint,
    is_whole,
    read_state,
    save_checkpoint,
    write_state,
)
from runtime.artifacts.exports import CAR_MODEL, ONNX, SAVED_MODEL, TORCH
from runtime.artifacts.manifest import MANIFEST, note_exports, unpack
from runtime.errors import PlatformError, UserError
from runtime.files import folder_aside, sweep, write_json, writing_aside
from runtime.policies.policy_mapping import PolicyMapping
from runtime.policies.spaces import Spaces, describe_space
from runtime.settings.schema import JobConfig

PARAMS = "params.json"
_FINAL = "checkpoint"
_BEST = "best"
_VERSIONED = ("ray", "torch", "gymnasium", "numpy", "pybullet", "d3rlpy")


def write_model(folder: Path, checkpoint: Path, config: JobConfig, *, spaces: Spaces, facts: Mapping[str, Any]) -> None:
    """Writes the model directory.

    Args:
        folder: The model directory; what an earlier start of the job wrote there is replaced.
        checkpoint: The final checkpoint.
        config: The job's settings.
        spaces: Observation and action space of the policy.
        facts: Further entries of the manifest, as the estimated return of a policy that no environment has tested.
    """
    best = best_checkpoint(checkpoint.parent)
    found = {_FINAL: checkpoint} if best is None else {_FINAL: checkpoint, _BEST: best}
    settings = config.algorithm
    params = {
        "preset": config.preset,
        "training": config.as_tree(),
        "sources": dict(config.sources),
        # Where Ray wrote them, and evaluation scripts of 2020 read them.
        "env": config.env or None,
        "env_config": settings.env_config,
    }
    # How a policy that acts in its environment filters observations and scales actions; those of a log do neither.
    names = ("observation_filter", "normalize_actions", "clip_actions")
    acting = {
        "algorithm": config.run,
        "env": config.env or None,
        "env_config": settings.env_config,
        "horizon": settings.horizon,
        **{name: getattr(settings, name) for name in names if hasattr(settings, name)},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        for name, place in found.items():
            _replace(place, folder / name)
        _forget_exports(folder)
        states = {name: read_state(place) for name, place in found.items()}
        mapping = config.policy_mapping
        policies = _write_policies(folder, found, states, PolicyMapping(mapping), acting, spaces) if mapping else {}
        write_json(folder / PARAMS, params)
        write_json(folder / MANIFEST, {**_manifest(states, acting, spaces), **policies, **facts})
    except OSError as error:
        raise PlatformError(
            f"{folder}: the model could not be written: {error.strerror or error}. The checkpoint {checkpoint} is "
            "whole; free some space and start the job again."
        ) from error


def _write_policies(
    folder: Path,
    checkpoints: Mapping[str, Path],
    states: Mapping[str, JobState],
    mapping: PolicyMapping,
    acting: Mapping[str, Any],
    spaces: Spaces,
) -> dict[str, Any]:
    """Writes a model directory for each policy of several agents, by its name, to be exported and served alone.

    Returns:
        The entry of the manifest: the agents of each policy.
    """
    observations: Any = spaces.observation
    actions: Any = spaces.action
    groups = mapping.group(actions)
    for policy, agents in groups.items():
        own = Spaces(observations[agents[0]], actions[agents[0]])
        with writing_aside(folder / policy) as aside:
            for name, source in checkpoints.items():
                _write_policy(aside / name, source, states[name], policy, own)
            write_json(aside / MANIFEST, {**_manifest(states, acting, own), "policy": policy, "agents": agents})
    return {"policies": groups}


def _write_policy(folder: Path, checkpoint: Path, state: JobState, policy: str, spaces: Spaces) -> None:
    """Writes the checkpoint of one policy: what it acts by, and nothing that training resumes from."""
    shutil.copytree(checkpoint / POLICIES / policy, folder)
    acting = {name: value for name, value in state.policy.items() if name != "policy_mapping"}
    own = replace(
        state,
        observation_shape=list(spaces.observation.shape or ()),
        action_space=str(spaces.action),
        policy={**acting, "policy": policy},
    )
    write_state(folder, own)


def write_imported_model(
    folder: Path,
    state: JobState,
    *,
    spaces: Spaces,
    facts: Mapping[str, Any],
    write_policy: Callable[[Path], None],
) -> Path:
    """Writes the model directory of a policy that another program trained.

    Args:
        folder: The model directory; an earlier import there is replaced.
        state: Counters of the training, and how the policy acts.
        spaces: Observation and action space of the policy.
        facts: Further entries of the manifest.
        write_policy: Writes the policy into a checkpoint's folder.

    Returns:
        Folder of the checkpoint in it.

    Raises:
        PlatformError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with folder_aside(folder, "import") as aside:
            _replace(save_checkpoint(aside, state, write_algorithm=write_policy), folder / _FINAL)
        _forget_exports(folder)
        acting = {"env": state.env or None, **state.policy}
        write_json(folder / MANIFEST, {**_manifest({_FINAL: state}, acting, spaces), **facts})
    except OSError as error:
        raise PlatformError(
            f"{folder}: the model could not be written: {error.strerror or error}. Copy the checkpoint to a folder "
            "that can be written to, with some free space."
        ) from error
    return folder / _FINAL


def _manifest(states: Mapping[str, JobState], acting: Mapping[str, Any], spaces: Spaces) -> dict[str, Any]:
    state, best = states[_FINAL], states.get(_BEST)
    return {
        "format": 1,
        **acting,
        "observation_space": describe_space(spaces.observation),
        "action_space": describe_space(spaces.action),
        "episode_reward_mean": state.episode_reward_mean,
        "training_iteration": state.training_iteration,
        "timesteps_total": state.timesteps_total,
        "time_total_s": round(state.time_total_s, 3),
        "checkpoint": _FINAL,
        "best_checkpoint": _BEST if best is not None else None,
        "best_episode_reward_mean": best.episode_reward_mean if best is not None else None,
        "versions": {name: metadata.version(name) for name in _VERSIONED},
        "git_commit": _git_commit(),
    }


def open_model(place: Path, *, scratch: Path, checkpoint: str | None = None) -> Path:
    """Finds the checkpoint in a model directory, a results folder, a checkpoint, or a model.tar.gz.

    Args:
        place: Folder or file to search.
        scratch: An empty folder to unpack an archive into.
        checkpoint: Path below the model directory, as `best`; None for its final checkpoint.

    Raises:
        UserError: There is none.
    """
    if not place.exists():
        raise UserError(f"model: got {str(place)!r}; expected a model directory, a results folder or a model.tar.gz.")
    folder = place
    archives = [place] if place.is_file() else sorted(place.glob("*.tar.gz"))
    if archives and find_checkpoint(place) is None:
        folder = unpack(archives[0], scratch)
    # The model directory of a results folder first: its final checkpoint is the job's result.
    for root in (folder / "model", folder):
        found = find_checkpoint(root / checkpoint if checkpoint else root)
        if found is not None:
            return found
    named = f" named {checkpoint!r}" if checkpoint else ""
    raise UserError(
        f"model: got {str(place)!r}, which holds no whole checkpoint{named}; expected what a training job wrote "
        "to its model directory."
    )


def held_checkpoint(folder: Path, name: str) -> Path:
    """Returns a checkpoint of a model directory.

    Args:
        folder: The model directory.
        name: Name of the checkpoint, as `best`.

    Raises:
        UserError: It does not hold such a checkpoint.
    """
    if not is_whole(folder / name):
        held = [one for one in (_FINAL, _BEST) if is_whole(folder / one)]
        raise UserError(
            f"checkpoint: got {name!r}, which {folder} does not hold; expected {' or '.join(held) or 'a model'}."
        )
    return folder / name


def _forget_exports(folder: Path) -> None:
    """Removes what an earlier start exported from another checkpoint; first from the manifest, should a kill come."""
    if (folder / MANIFEST).is_file():
        note_exports(folder, [], {}, checkpoint=_FINAL, not_exported="the model is being written")
    for exported in (SAVED_MODEL, ONNX, TORCH, CAR_MODEL):
        (folder / exported).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # TF Serving would take the empty folder for a version
        (folder / SAVED_MODEL).parent.rmdir()


def _replace(source: Path, target: Path) -> None:
    with writing_aside(target) as aside:
        shutil.copytree(source, aside, ignore=shutil.ignore_patterns(UPLOAD_MARKS))


def _git_commit() -> str | None:
    """Returns the commit of this program, where it runs from a clone of its own."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's clone
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
