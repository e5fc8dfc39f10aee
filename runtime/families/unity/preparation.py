"""Resolves a scene's settings before anything heavy starts: its player and the folder of its logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.unity.options import MAX_RESTARTS, Options, is_of_registry, read_options
from runtime.container.layout import Container
from runtime.errors import Problems, UserError
from runtime.interfaces.family import PreparedEnv
from runtime.ppo.settings import PPOSettings, describe_module
from runtime.settings.schema import JobConfig

EXECUTABLE_CHANNEL = "train"
# Settings that only RLlib's own env runner uses.
_WITHOUT_EFFECT = ("horizon", "training_horizon", "gym_env_vectorize_mode", "restart_failed_sub_environments")
_FIXED = ("normalize_actions", "clip_actions")
# Settings that only lead to the player.
_OF_FINDING = ("env_name", "registry_url", "cache_folder", "folder")
_WHERE = "rl.training.config.env_config"


def prepare_scene(config: JobConfig, container: Container) -> PreparedEnv:
    """Finds or downloads the player, and returns the environment's settings for this machine.

    Returns:
        The config, paths in it made absolute, so that its policy can be evaluated from another folder; and the settings
        of this machine.

    Raises:
        UserError: The settings are wrong, or a setting of PPO has no effect here; all problems are listed.
    """
    problems = Problems()
    why = "a Unity scene ends its own episodes, and a player that fails is restarted in any case"
    about_actions = "Unity's continuous actions are in ±1 and clipped to it"
    for line in (
        *config.describe_policies(),
        *config.describe_without_effect(_WITHOUT_EFFECT, why=why),
        *describe_module(config, why="a Unity scene's observations and masks need the network for them"),
        *config.describe_without_effect(_FIXED, why=about_actions),
    ):
        problems.add_line(line)
    ppo = PPOSettings.of(config)
    if ppo.model.use_lstm:
        problems.add_line(
            "rl.training.config.model.use_lstm: got true; expected false, as a scene's agents come and go."
        )
    settings = dict(ppo.env_config)
    found: dict[str, Any] = {}
    if settings.get("observations") == "dict":
        problems.add_line(f"{_WHERE}.observations: got 'dict'; expected 'flat', the form that networks take.")
    needed_s = sample_timeout_s(settings)
    asked_s = ppo.sample_timeout_s
    if "sample_timeout_s" in ppo.given() and asked_s < needed_s:
        problems.add_line(
            f"rl.training.config.sample_timeout_s: got {asked_s:g}; expected at least {needed_s:g}, the time that a "
            "player which fell silent may take to be restarted. Leave it out, or lower env_config.timeout_s."
        )
    try:
        found = find_scene(settings, container.channels)
    except UserError as error:
        for line in str(error).splitlines():
            problems.add_line(line)
    why = "a player that is watched while it learns shows the same"
    for line in config.describe_without_effect(("evaluation_episodes",), why=why):
        problems.add_line(line)
    problems.raise_if_any()
    if EXECUTABLE_CHANNEL not in container.channels and not is_of_registry(settings.get("env_name"), None):
        settings = {name: value for name, value in settings.items() if name != "env_name"}
        settings["file_name"] = found["file_name"]
    return PreparedEnv(config.replace({"config.env_config": settings}), found)


def sample_timeout_s(settings: Mapping[str, Any]) -> float:
    """Returns the least timeout of an env runner's sample in seconds, which allows for restarts of hung players."""
    timeout_s = settings.get("timeout_s", Options.timeout_s)
    return float(timeout_s) * 2 * (MAX_RESTARTS + 1) if isinstance(timeout_s, int | float) else 0.0


def find_scene(settings: Mapping[str, Any], channels: Mapping[str, Path], *, where: str = _WHERE) -> dict[str, Any]:
    """Sets `file_name` to the player's executable, which may come from the channel `train`.

    Args:
        settings: The environment's settings as the user wrote them.
        channels: Folders of the job's input channels, by name.
        where: Name of the settings in error messages.

    Raises:
        UserError: The settings are wrong; a line for each problem.
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
