"""A DeepRacer job's environment settings, checked before anything heavy starts and freed from files of this machine."""

from __future__ import annotations

import dataclasses

from envs.deepracer.racing import read_options
from runtime.container import Container
from runtime.deepracer.network import network_settings
from runtime.errors import UserError
from runtime.hyperparameters import JobConfig

TRACKS_CHANNEL = "tracks"


def settle_environment(config: JobConfig, container: Container) -> JobConfig:
    """The same config, whose environment can be made anew from a checkpoint on another machine.

    The metadata's content takes the place of its file. Tracks of the channel `tracks` are found by name.

    Raises:
        UserError: The environment's settings are wrong; all that is wrong is listed.
    """
    settings = config.env_config
    if TRACKS_CHANNEL in container.channels and "tracks" not in settings:
        settings["tracks"] = str(container.channels[TRACKS_CHANNEL])
    try:
        options = read_options(**settings)
        network_settings(options.metadata)
    except (ValueError, UserError) as error:
        lines = "\n".join(f"rl.training.config.env_config: {line}" for line in str(error).splitlines())
        raise UserError(lines) from error.__cause__
    settings["model_metadata"] = dict(options.metadata.source)
    return dataclasses.replace(config, values={**config.values, "config.env_config": settings})
