"""Grad-CAM: which parts of a picture a policy's choice depends on, drawn over frames of a race.

Source: Selvaraju et al. 2017, eq. 1 and 2, of the third convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from ray.rllib.core.columns import Columns
from torch import nn
from torch.nn import functional

from envs.deepracer.metadata import Metadata
from envs.deepracer.racing import decode_actions
from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.families.deepracer.driving import Explorer
from runtime.families.deepracer.policy_layers import camera_layers
from runtime.policies.sac_module import SACModule

MOST_FRAMES = 8
_LAYER = 2  # the third, as a car's model has it for deepracer-utils
_SCALE = 2
_COLUMNS = 4


def find_heat(
    module: Any, observations: NDArray[Any], *, is_discrete: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Computes the heat of pictures: how much the score of the likeliest action, or the steering, depends on each part.

    Args:
        module: The policy's network.
        observations: (B, H, W, C) pictures, or (B, N) rows of a picture and a scan.
        is_discrete: Whether its actions are discrete.

    Returns:
        (B, H, W) heat from 0 to 1, with 1 at each picture's hottest place, and (B, L) logits.
    """
    layer = [layer for layer in camera_layers(module) if isinstance(layer, nn.ReLU)][_LAYER]
    maps: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    try:
        with torch.enable_grad():
            batch = {Columns.OBS: torch.as_tensor(np.asarray(observations, np.float32))}
            forward = module._forward_inference if isinstance(module, SACModule) else module._forward
            logits = forward(batch)[Columns.ACTION_DIST_INPUTS]
            score = logits.max(dim=1).values if is_discrete else logits[:, 0].abs()
            (gradients,) = torch.autograd.grad(score.sum(), maps)
    finally:
        handle.remove()
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    heat = functional.relu((weights * maps[0]).sum(dim=1, keepdim=True)).detach()
    heat = functional.interpolate(heat, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)[:, 0]
    heat = heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    return heat.numpy(), logits.detach().numpy()


def draw_heat(module: Any, observations: NDArray[Any], metadata: Metadata) -> Image.Image:
    """Draws frames with their heat over them, and the commands that the policy gave.

    Args:
        module: The policy's network.
        observations: (B, H, W, C) pictures, or (B, N) rows of a picture and a scan; eight of them are drawn.
        metadata: Metadata of the car.
    """
    chosen = np.unique(np.linspace(0, len(observations) - 1, MOST_FRAMES).astype(int))
    observations = observations[chosen]
    heat, logits = find_heat(module, observations, is_discrete=metadata.actions is not None)
    commands = decode_actions(metadata, Explorer(metadata, seed=None).likeliest(logits))
    width, height = _SCALE * WIDTH, _SCALE * HEIGHT
    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (width * min(_COLUMNS, len(chosen)), height * rows))
    draw = ImageDraw.Draw(sheet)
    for number, (grey, hot, command) in enumerate(zip(_pictures(observations, metadata), heat, commands, strict=True)):
        share = 0.8 * hot[..., None] ** 2
        color = np.stack([np.full_like(hot, 255), 255 * hot, 0 * hot], axis=-1)  # from red to yellow
        mixed = (1 - share) * grey[..., None] + share * color
        tile = Image.fromarray(mixed.astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
        at = width * (number % _COLUMNS), height * (number // _COLUMNS)
        sheet.paste(tile, at)
        draw.text((at[0] + 8, at[1] + 6), f"{command[0]:g}°, {command[1]:.3g} m/s", fill=(255, 255, 255))
    return sheet


def _pictures(observations: NDArray[Any], metadata: Metadata) -> NDArray[np.float32]:
    """Returns (B, H, W) the gray values of observations; of two cameras those of the left one."""
    if observations.ndim == 2:
        size = observations.shape[1] - metadata.scan_size
        is_picture_first = metadata.sensors == tuple(sorted(metadata.sensors))
        observations = observations[:, :size] if is_picture_first else observations[:, -size:]
        observations = observations.reshape(len(observations), HEIGHT, WIDTH, -1)
    return np.asarray(observations[..., 0], np.float32)
