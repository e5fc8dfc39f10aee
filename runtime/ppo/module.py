"""The policy and value network: RLlib's default, plus the settings that it lacks."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from torch import nn

from runtime.pixels import ExactLinear, PixelScale
from runtime.ppo.masks import apply_mask

_MEAN_SCALE = 0.01  # length of each row of weights


class PPOModule(DefaultPPOTorchRLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's PPO network with `initial_log_std`, the width of exploration before training, and `pixel_scale`.

    A batch's column `action_mask` says which discrete choices are allowed; the others are never drawn.

    RLlib starts at a standard deviation of 1, which for actions in ±1 is mostly clipped noise. A pixel scale takes
    whole numbers as they come from a camera, so that a rollout keeps one byte a pixel.
    """

    def setup(self) -> None:
        """Builds the network; called by RLlib."""
        super().setup()
        initial = self.model_config.get("initial_log_std")
        if initial is not None and hasattr(self.pi, "log_std"):
            with torch.no_grad():
                self.pi.log_std.fill_(float(initial))
        scale = self.model_config.get("pixel_scale")
        if scale is not None:
            for encoder in self.encoder.children():
                layers = encoder.net[0]
                layers.cnn = nn.Sequential(PixelScale(float(scale)), *layers.cnn)
            for head in (self.pi, *([self.vf] if hasattr(self, "vf") else [])):
                last = head.net.mlp[-1]
                last.__class__ = ExactLinear
                nn.init.xavier_uniform_(last.weight)
                if hasattr(head, "log_std"):  # means begin near the middle of their ranges
                    with torch.no_grad():
                        last.weight.mul_(_MEAN_SCALE / last.weight.norm(dim=1, keepdim=True))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return apply_mask(batch, super()._forward(batch, **kwargs))

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return apply_mask(batch, super()._forward_train(batch, **kwargs))
