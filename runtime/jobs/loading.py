"""Loads a trained policy to act with, outside of any job."""

from __future__ import annotations

from pathlib import Path

from runtime.artifacts.manifest import find_model_directory, read_manifest
from runtime.jobs.catalog import CATALOG
from runtime.policies.acting import ActingPolicy


def load_policy(place: Path, name: str) -> ActingPolicy:
    """Loads the policy of a checkpoint.

    Args:
        place: Results folder or model directory.
        name: Name of the checkpoint, as `best`.

    Raises:
        UserError: There is no such checkpoint.
    """
    from runtime.cluster.session import prepare_environment

    prepare_environment()
    from runtime.artifacts.checkpoint import read_state
    from runtime.artifacts.model_directory import held_checkpoint
    from runtime.policies.spaces import read_space

    folder = find_model_directory(place)
    checkpoint = held_checkpoint(folder, name)
    state = read_state(checkpoint)
    algorithm = CATALOG.algorithm_of(state.policy.get("algorithm"))
    action_space = read_space(read_manifest(folder)["action_space"])
    return algorithm.load_policy(checkpoint, action_space, state, trust=False)
