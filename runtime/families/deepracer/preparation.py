"""Checks a DeepRacer job's settings before anything heavy starts, and embeds its metadata in them."""

from __future__ import annotations

from pathlib import Path

from envs.deepracer.racing import Options, read_options
from runtime.container.layout import Container
from runtime.errors import UserError
from runtime.families.deepracer import sac_settings
from runtime.ppo.settings import PPOSettings, describe_module
from runtime.settings.presets import PRESET_DIR
from runtime.settings.schema import JobConfig

TRACKS_CHANNEL = "tracks"
# Settings that name a file, which may be in a channel.
_FILES = ("reward_function", "model_metadata")
_SAC = "SAC"
# Settings that only RLlib's own env runner and learner use.
_WITHOUT_EFFECT = (
    *(
        "train_batch_size",
        "rollout_fragment_length",
        "batch_mode",
        "num_envs_per_env_runner",
        "horizon",
        "training_horizon",
    ),
    *("gym_env_vectorize_mode", "observation_filter", "explore", "use_kl_loss", "kl_coeff", "kl_target"),
    *("vf_clip_param", "use_gae", "use_critic", "grad_clip_by", "torch_skip_nan_gradients"),
)


def prepare_cars(config: JobConfig, container: Container) -> JobConfig:
    """Replaces the metadata's file name by its content, so that a checkpoint can act on any machine.

    Tracks of the channel `tracks` are found by name. SAC's metadata says afterwards that it trains.

    Raises:
        UserError: The environment's settings are wrong, or a setting has no effect here; all are listed.
    """
    wrong = config.describe_policies()
    trains_sac = config.run == _SAC
    if trains_sac:
        why = "the network scales a camera's pictures, and cars are stepped where their traces are kept"
        wrong += config.describe_without_effect(sac_settings.WITHOUT_EFFECT, why=why)
    else:
        why = "DeepRacer's rollouts are whole episodes, episodes_per_iteration of them, and its loss is Clipped PPO's"
        wrong += config.describe_without_effect(_WITHOUT_EFFECT, why=why)
    wrong += describe_module(config, why="a DeepRacer car runs the network of its own")
    why = "DeepRacer evaluates the car after each iteration, and its progress chooses the best checkpoint"
    wrong += config.describe_without_effect(("evaluation_episodes",), why=why)
    settings = dict(config.algorithm.env_config)
    if TRACKS_CHANNEL in container.channels and "tracks" not in settings:
        settings["tracks"] = str(container.channels[TRACKS_CHANNEL])
    for name in _FILES:
        given = settings.get(name)
        if isinstance(given, str) and not Path(given).exists() and (found := _find(given, container)) is not None:
            settings[name] = str(found)
    try:
        options = read_options(**settings)
        _check_algorithm(config, options, trains_sac=trains_sac)
    except (ValueError, UserError) as error:
        wrong += [f"rl.training.config.env_config: {line}" for line in str(error).splitlines()]
        raise UserError("\n".join(wrong)) from error.__cause__
    if wrong:
        raise UserError("\n".join(wrong))
    settings["model_metadata"] = dict(options.metadata.source)
    if trains_sac:
        settings["model_metadata"]["training_algorithm"] = "sac"
        config = sac_settings.fit_to_camera(config, options.metadata)
    return config.replace({"config.env_config": settings})


def _check_algorithm(config: JobConfig, options: Options, *, trains_sac: bool) -> None:
    tracks = 1 + len(options.others)
    if trains_sac:
        if wrong := sac_settings.find_misfits(options.metadata, tracks=tracks):
            raise UserError("\n".join(wrong))
        return
    if options.metadata.algorithm == "sac":
        raise UserError(
            "model_metadata.training_algorithm: got 'sac' for a training by PPO; expected 'clipped_ppo'. Set "
            "rl.training.run=SAC without a preset, and rl.training.env=DeepRacer-v0."
        )
    episodes = PPOSettings.of(config).episodes_per_iteration
    if episodes < tracks:
        raise UserError(
            f"track: got {tracks} tracks and config.episodes_per_iteration {episodes}; expected an episode on each "
            "track in every iteration. Name fewer tracks, or ask for more episodes."
        )


def _find(name: str, container: Container) -> Path | None:
    """Finds a file in the channels or beside the user's code, else beside the presets, one of which may name it."""
    beside_presets = PRESET_DIR / name
    return container.find_input(name) or (beside_presets if beside_presets.is_file() else None)
