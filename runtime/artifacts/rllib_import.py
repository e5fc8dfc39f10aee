"""Makes a model directory of a checkpoint that RLlib itself wrote, for evaluation, export and serving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.artifacts.checkpoint import JobState
from runtime.artifacts.model_directory import write_imported_model
from runtime.artifacts.rllib_checkpoint import read_rllib_checkpoint
from runtime.policies.spaces import Spaces

# RLlib's algorithms that learn from logs -> the one whose network they have; those of these names here have their own.
_WITH_NETWORK_OF = {"BC": "PPO", "MARWIL": "PPO", "CQL": "SAC"}


def import_rllib(place: Path, folder: Path, *, note: Callable[[str], None]) -> Path:
    """Writes the model directory.

    Args:
        place: Folder that `Algorithm.save_to_path` wrote.
        folder: The model directory; an earlier import there is replaced.
        note: Called with each line for the log.

    Returns:
        Folder of the checkpoint in it.

    Raises:
        UserError: It holds no policy that can be read, or one with a network or connectors of its author's own.
        PlatformError: The folder cannot be written.
    """
    found = read_rllib_checkpoint(place)
    actions = found.policy.action_space
    state = JobState(
        found.env,
        list(found.observation_space.shape),
        str(actions),
        training_iteration=found.training_iteration,
        timesteps_total=found.timesteps_total,
        policy={
            "algorithm": _WITH_NETWORK_OF.get(found.algorithm, found.algorithm),
            "env_config": dict(found.env_config),
            "horizon": None,
            "normalize_actions": found.normalize_actions,
            "clip_actions": found.clip_actions,
        },
    )
    env = found.env or "an environment that it does not name"
    note(f"{place}: RLlib's checkpoint of {found.algorithm} after {found.timesteps_total:,} steps in {env}")
    for name in found.left_out:
        note(f"env_config.{name} of the checkpoint is an object of its author's, which is left out")
    return write_imported_model(
        folder,
        state,
        spaces=Spaces(found.observation_space, actions),
        facts={"observation_filter": "NoFilter" if found.policy.observation_filter is None else "MeanStdFilter"},
        write_policy=found.policy.write,
    )
