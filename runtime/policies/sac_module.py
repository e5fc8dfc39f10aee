"""SAC's network: RLlib's policy, with Q functions and convolutions of our own, and deterministic actions in bounds."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.sac.sac_catalog import SACCatalog
from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDeterministic, TorchSquashedGaussian
from ray.rllib.core.models.base import ENCODER_OUT
from ray.rllib.core.models.configs import MLPHeadConfig
from torch import nn

from runtime.policies.pixels import PixelScale, pixel_scale

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "swish": nn.SiLU, "linear": nn.Identity}


class SquashedGaussian(TorchSquashedGaussian):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's squashed Gaussian, whose deterministic action is tanh(mean), as samples are tanh(x).

    RLlib 2.60 returns the mean before the tanh. Source: Haarnoja et al. 2018, arXiv 1812.05905, appendix C.
    """

    def to_deterministic(self) -> TorchDeterministic:
        """Returns the distribution that always samples tanh(mean)."""
        return TorchDeterministic(loc=self._squash(self.loc))


class RowActionEncoder(nn.Module):
    """Encodes a row of numbers and an action for a Q function: RLlib's dense layers over both.

    Args:
        layers: RLlib's encoder of O + A numbers.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Maps observations (B, O) and actions (B, A) to (B, features)."""
        rows = batch[Columns.OBS]
        joined = torch.cat([rows, batch[Columns.ACTIONS].to(rows.dtype)], dim=-1)
        features: dict[str, torch.Tensor] = self.layers({Columns.OBS: joined})
        return features


class PictureActionEncoder(nn.Module):
    """Encodes an image and an action for a Q function: convolutions, dense layers, and then the action beside them.

    Args:
        camera: RLlib's encoder of the image.
        inputs: Number of features of its last convolution.
        hiddens: Widths of the dense layers.
        activation: Name of their activation.
    """

    def __init__(self, camera: nn.Module, inputs: int, hiddens: list[int], activation: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hiddens:
            layers += [nn.Linear(inputs, width), _ACTIVATIONS[activation]()]
            inputs = width
        self.camera = camera
        self.dense = nn.Sequential(*layers)

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Maps observations (B, H, W, C) and actions (B, A) to (B, features + A)."""
        features = self.dense(self.camera(batch)[ENCODER_OUT])
        return {ENCODER_OUT: torch.cat([features, batch[Columns.ACTIONS].to(features.dtype)], dim=-1)}


class ActionCatalog(SACCatalog):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's SAC catalog, with encoders of our own for an observation and an action.

    RLlib 2.60 encodes the two apart and joins them by several wider layers, whose output can become constant within a
    hundred updates. Here a row of numbers and the action are one input of `fcnet_hiddens`. Of an image, `conv_filters`
    and `head_fcnet_hiddens` make the features, in the policy and in the Q functions; `fcnet_hiddens` are the layers of
    the Q functions behind the joined action. Pixels are scaled to 0..1 inside the network.
    """

    @property
    def _takes_images(self) -> bool:
        return len(self.observation_space.shape) == 3

    def build_encoder(self, framework: str) -> Any:
        """Builds the encoder of an observation; called by RLlib."""
        encoder = super().build_encoder(framework)
        scale = pixel_scale(self.observation_space) if self._takes_images else None
        if scale is not None:
            layers = encoder.net[0]
            layers.cnn = nn.Sequential(PixelScale(scale), *layers.cnn)
        return encoder

    def build_qf_encoder(self, framework: str) -> Any:
        """Builds the encoder of an observation and an action; called by RLlib."""
        if not self._takes_images:
            inputs = int(self.observation_space.shape[0] + self.action_space.shape[0])
            joined = gymnasium.spaces.Box(-np.inf, np.inf, (inputs,), np.float32)
            config = self._get_encoder_config(joined, self._model_config_dict, self.action_space)
            return RowActionEncoder(config.build(framework=framework))
        features = int(torch.Size(self.latent_dims).numel())
        hiddens, activation = self.pi_and_qf_head_hiddens, self.pi_and_qf_head_activation
        return PictureActionEncoder(self.build_encoder(framework), features, hiddens, activation)

    def build_qf_head(self, framework: str) -> Any:
        """Builds the last layers of a Q function; called by RLlib."""
        if not self._takes_images:
            return super().build_qf_head(framework)
        hiddens = self.pi_and_qf_head_hiddens
        features = hiddens[-1] if hiddens else int(torch.Size(self.latent_dims).numel())
        config = MLPHeadConfig(
            input_dims=(features + self.action_space.shape[0],),
            hidden_layer_dims=self._model_config_dict["fcnet_hiddens"],
            hidden_layer_activation=self._model_config_dict["fcnet_activation"],
            output_layer_activation="linear",
            output_layer_dim=1,
        )
        return config.build(framework=framework)


class SACModule(DefaultSACTorchRLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's SAC network, for rows of numbers or for images."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "catalog_class": ActionCatalog})

    def get_inference_action_dist_cls(self) -> type[SquashedGaussian]:
        """Returns the distribution of the actions; called by RLlib for actions without exploration."""
        return SquashedGaussian
