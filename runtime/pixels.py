"""The layer that turns a camera's bytes into the numbers that a network learns from."""

from __future__ import annotations

import torch
from torch import nn


class PixelScale(nn.Module):
    """Multiplies by a constant, in the floating-point type of the network; pictures arrive as bytes or as floats.

    Args:
        scale: The constant.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        if not pixels.is_floating_point():
            pixels = pixels.to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return pixels * self.scale
