"""Layers of networks that see: from a camera's bytes to numbers, and the last layer, which stays exact."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


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
            kind = pixels.device.type
            pixels = pixels.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
        return pixels * self.scale


class ExactLinear(nn.Linear):
    """A linear layer in float32 whatever the others are in: a value of 230 in bfloat16 would be off by half a point."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in) to (B, out)."""
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(x.float() if x.dtype == torch.bfloat16 else x, self.weight, self.bias)
