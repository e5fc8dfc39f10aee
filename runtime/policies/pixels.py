"""Layers of image networks: the scaling of a camera's bytes, and a last layer that stays in float32."""

from __future__ import annotations

import math

import gymnasium
import torch
from torch import nn
from torch.nn import functional


def pixel_scale(images: gymnasium.spaces.Box) -> float | None:
    """Returns what to multiply pixels with for a range of 0 to 1; None where they are in it, or have no such bounds."""
    high = float(images.high.max())
    return 1 / high if 1 < high < math.inf and float(images.low.min()) >= 0 else None


class PixelScale(nn.Module):
    """Multiplies by a constant, in the floating-point type of the network; pictures arrive as bytes or as floats.

    Args:
        scale: The constant.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scales inputs of any shape."""
        if not pixels.is_floating_point():
            kind = pixels.device.type
            pixels = pixels.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
        return pixels * self.scale


class ExactLinear(nn.Linear):
    """A linear layer that stays in float32: in bfloat16, a value estimate of 230 would be off by up to 0.5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, in) to (B, out)."""
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(x.float() if x.dtype == torch.bfloat16 else x, self.weight, self.bias)
