"""Settings of networks for images, where a job leaves them open: RLlib has them for a few sizes only."""

from __future__ import annotations

from typing import Any

import gymnasium

from runtime.environments.adapting import is_image
from runtime.policies.pixels import pixel_scale
from runtime.settings.schema import JobConfig

_LARGE = [[32, 8, 4], [64, 4, 2], [64, 3, 1]]  # Mnih et al. 2015, for 84 by 84 pixels
_MEDIUM = [[32, 4, 2], [64, 3, 1]]
_SMALL = [[32, 3, 1]]
_HALVING = [64, 3, 2]
_LARGE_SIDE, _MEDIUM_SIDE = 36, 12  # pixels of the shorter side, from which they fit
_MOST_FEATURES = 64 * 100  # of the last convolution; a dense layer follows
_HIDDENS = [256]
_FILTERS = "config.model.conv_filters"


def choose_convolutions(shape: tuple[int, ...]) -> list[list[Any]]:
    """Chooses convolutions without padding, as [channels, kernel, stride, padding], for images of a shape.

    Args:
        shape: (height, width, channels) of the images.
    """
    side = min(shape[:2])
    layers = _LARGE if side >= _LARGE_SIDE else _MEDIUM if side >= _MEDIUM_SIDE else _SMALL
    chosen: list[list[Any]] = [[*layer] for layer in layers]
    while _count_features(shape, chosen) > _MOST_FEATURES:
        chosen.append([*_HALVING])
    return [[*layer, "valid"] for layer in chosen]


def _count_features(shape: tuple[int, ...], layers: list[list[Any]]) -> int:
    height, width = shape[:2]
    for _, kernel, stride in layers:
        height, width = ((side - kernel) // stride + 1 for side in (height, width))
    return int(height * width * layers[-1][0])


def fit_images(config: JobConfig, observations: gymnasium.Space[Any]) -> tuple[JobConfig, list[str]]:
    """Fits a job's settings to observations that are images; those that the user or a preset set stay.

    Returns:
        The config, and a note of what was chosen.
    """
    if not is_image(observations):
        return config, []
    wanted: dict[str, Any] = {}
    if config.run == "PPO":
        wanted = {"config.observation_filter": "NoFilter", "config.model.vf_share_layers": True}
    if config.values().get(_FILTERS):
        return config.replace({path: value for path, value in wanted.items() if config.is_default(path)}), []
    shape = observations.shape or ()
    wanted["config.model.head_fcnet_hiddens"] = _HIDDENS
    changes: dict[str, Any] = {path: value for path, value in wanted.items() if config.is_default(path)}
    changes[_FILTERS] = choose_convolutions(shape)
    layers = ", ".join(f"{channels} of {kernel}/{stride}" for channels, kernel, stride, _ in changes[_FILTERS])
    return config.replace(changes), [f"images of {'×'.join(map(str, shape))}: convolutions {layers}"]


def find_pixel_scale(observations: gymnasium.Space[Any]) -> float | None:
    """Returns what to multiply pixels with for a range of 0 to 1; None where observations are no images of 0 to 255."""
    if not is_image(observations) or not isinstance(observations, gymnasium.spaces.Box):
        return None
    return pixel_scale(observations)
