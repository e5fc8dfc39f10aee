"""The policy and value network: RLlib's default, plus the settings that it lacks."""

from __future__ import annotations

import torch
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule


class PPOModule(DefaultPPOTorchRLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's PPO network with `initial_log_std`, the width of exploration before training.

    RLlib starts at a standard deviation of 1, which for actions in ±1 is mostly clipped noise.
    """

    def setup(self) -> None:
        """Builds the network; called by RLlib."""
        super().setup()
        initial = self.model_config.get("initial_log_std")
        if initial is not None and hasattr(self.pi, "log_std"):
            with torch.no_grad():
                self.pi.log_std.fill_(float(initial))
