"""A scene's settings, settled before anything heavy starts: which player, whose logs where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.unity.options import read_options
from runtime.container import Container
from runtime.errors import Problems, UserError
from runtime.hyperparameters import JobConfig

EXECUTABLE_CHANNEL = "train"
# What RLlib's own runner would heed.
_WITHOUT_EFFECT = ("horizon", "gym_env_vectorize_mode", "restart_failed_sub_environments")
# Settings that only lead to the player.
_OF_FINDING = ("env_name", "registry_url", "cache_folder", "folder")
_WHERE = "rl.training.config.env_config"


def settle_scene(config: JobConfig, container: Container) -> dict[str, Any]:
    """Settings of the environment for this machine: its player found, or downloaded.

    Raises:
        UserError: They are wrong, or a setting of PPO has no effect here; all problems are listed.
    """
    problems = Problems()
    why = "a Unity scene ends its own episodes, and a player that fails is started anew in any case"
    for line in config.describe_without_effect(_WITHOUT_EFFECT, why=why):
        problems.add_line(line)
    found = {}
    try:
        found = find_scene(config.env_config, container.channels)
    except UserError as error:
        for line in str(error).splitlines():
            problems.add_line(line)
    problems.raise_if_any()
    return found


def find_scene(settings: Mapping[str, Any], channels: Mapping[str, Path], *, where: str = _WHERE) -> dict[str, Any]:
    """Settings with `file_name` set: a player of the channel `train` where there is one.

    Args:
        settings: As the user wrote them.
        channels: Of the job.
        where: The user wrote them, for messages.

    Raises:
        UserError: They are wrong; a line for each problem.
    """
    settled = dict(settings)
    if EXECUTABLE_CHANNEL in channels and "file_name" not in settings:
        settled["folder"] = channels[EXECUTABLE_CHANNEL]
    try:
        options = read_options(**settled)
    except (ValueError, TypeError) as error:
        raise UserError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None
    kept = {name: value for name, value in settled.items() if name not in _OF_FINDING}
    return {**kept, "file_name": str(options.executable), "additional_args": list(options.arguments)}
