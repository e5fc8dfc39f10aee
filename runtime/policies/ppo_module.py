"""The policy and value network: RLlib's default, with settings that it lacks."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.appo.default_appo_rl_module import DefaultAPPORLModule
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ACTOR, ENCODER_OUT
from ray.rllib.core.rl_module.apis.target_network_api import TARGET_NETWORK_ACTION_DIST_INPUTS
from torch import nn

from runtime.policies.masks import apply_mask, catalog_without_mask, split_mask
from runtime.policies.noise_head import StateDependentNoiseHead
from runtime.policies.pixels import ExactLinear, PixelScale

_MEAN_SCALE = 0.01  # norm of each row of the last layer's weights


class PPOModule(DefaultPPOTorchRLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's PPO network with five additions.

    - `initial_log_std` is the log standard deviation before training. RLlib starts at a standard deviation of 1, which
      for actions in ±1 is mostly clipped noise.
    - `log_std_schedule` gives the log standard deviation by steps, which the learner sets.
    - `use_sde` makes exploration noise depend on the state, and samples it every `sde_sample_freq` steps
      (`StateDependentNoiseHead`).
    - `pixel_scale` is multiplied with uint8 images inside the network, so that rollouts keep one byte for each pixel.
    - The batch's column `action_mask`, or the end of observations in a MaskedBox, says which discrete actions are
      allowed; others are never sampled. The network does not see the mask.
    """

    catalog: Any

    def setup(self) -> None:
        """Builds the network; called by RLlib."""
        self.catalog = catalog_without_mask(self.catalog, self.observation_space)
        super().setup()
        schedule = self.model_config.get("log_std_schedule")
        if schedule is not None:
            initial = schedule[0][1] if isinstance(schedule, list) else schedule
        else:
            initial = self.model_config.get("initial_log_std")
        self._noise: torch.Tensor | None = None
        self._noise_age = 0
        if self.model_config.get("use_sde"):
            self.pi: Any = StateDependentNoiseHead(self.pi.net)
        if initial is not None and hasattr(self.pi, "log_std"):
            with torch.no_grad():
                self.pi.log_std.fill_(float(initial))
        scale = self.model_config.get("pixel_scale")
        if scale is not None and len(self.observation_space.shape or ()) == 3:  # another agent's may be a row
            for encoder in self.encoder.children():
                layers = encoder.net[0]
                layers.cnn = nn.Sequential(PixelScale(float(scale)), *layers.cnn)
            for head in (self.pi, *([self.vf] if hasattr(self, "vf") else [])):
                last = head.net.mlp[-1]
                last.__class__ = ExactLinear
                nn.init.xavier_uniform_(last.weight)
                if hasattr(head, "log_std"):  # actions start near the middle of their ranges
                    with torch.no_grad():
                        last.weight.mul_(_MEAN_SCALE / last.weight.norm(dim=1, keepdim=True))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        batch = split_mask(batch, self.observation_space)
        return apply_mask(batch, super()._forward(batch, **kwargs))

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Samples actions here if their noise lasts several steps; otherwise RLlib samples them from the outputs."""
        if not isinstance(self.pi, StateDependentNoiseHead):
            outputs: dict[str, Any] = super()._forward_exploration(batch, **kwargs)
            return outputs
        features = self.pi.features(self.encoder(batch)[ENCODER_OUT][ACTOR])
        inputs = self.pi.distribution_inputs(features)
        every = self.model_config["sde_sample_freq"]
        if self._noise is None or len(self._noise) != len(features) or self._noise_age % every == 0:
            self._noise = (
                torch.randn(len(features), *self.pi.log_std.shape, device=features.device) * self.pi.log_std.exp()
            )
            self._noise_age = 0
        self._noise_age += 1
        means = inputs[:, : self.pi.log_std.shape[1]]
        actions = means + torch.bmm(features[:, None], self._noise)[:, 0]
        log_probs = self.get_exploration_action_dist_cls().from_logits(inputs).logp(actions)
        return {Columns.ACTION_DIST_INPUTS: inputs, Columns.ACTIONS: actions, Columns.ACTION_LOGP: log_probs}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        batch = split_mask(batch, self.observation_space)
        return apply_mask(batch, super()._forward_train(batch, **kwargs))

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Any:
        """Returns (B,) value estimates; called by RLlib."""
        return super().compute_values(split_mask(batch, self.observation_space), embeddings)


class APPOModule(PPOModule, DefaultAPPORLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """The network of PPO with the target network of APPO."""

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the target network's action distribution inputs; called by RLlib."""
        batch = split_mask(batch, self.observation_space)
        logits = super().forward_target(batch)[TARGET_NETWORK_ACTION_DIST_INPUTS]
        masked = apply_mask(batch, {Columns.ACTION_DIST_INPUTS: logits})
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: masked[Columns.ACTION_DIST_INPUTS]}
