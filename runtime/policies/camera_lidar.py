"""Policy and value network for a camera picture plus other sensors, which RLlib has no network for.

Cars with a camera and a LIDAR have it, and Unity's agents with a camera and other sensors.

Source: DeepRacer's simulation application 6.0.5, `M/sensors/utils.py`: a convolutional embedder for the picture, two
dense layers for the scan, joined before the last layers; separate networks for policy and value.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.catalog import Catalog
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn

from runtime.policies.masks import apply_mask
from runtime.policies.pixels import ExactLinear, PixelScale

_SCAN_LAYERS = (256, 256)
_MEAN_SCALE = 0.01
_LOG_STD = (-20.0, 3.0)


class CameraLidarModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):  # type: ignore[misc]  # ray has no types
    """Acts on rows of numbers: picture and scan, one after the other, as Gymnasium flattens the dict of both.

    Its model config has `conv_filters`, `head_fcnet_hiddens`, `pixel_scale`, and `lidar`: the picture's shape, the size
    of the scan, whether the picture comes first, and how many of the hidden layers are the picture's own.
    """

    def setup(self) -> None:
        """Builds the networks; called by RLlib."""
        find_distribution = Catalog._get_dist_cls_from_action_space  # what RLlib's own PPO network asks
        self.action_dist_cls = find_distribution(action_space=self.action_space, framework="torch")
        self._continuous, choices = _count_outputs(self.action_space)
        self.actor = _Network(self.model_config, self._continuous + choices)
        self.critic = _Network(self.model_config, 1)
        self.log_std = nn.Parameter(torch.zeros(self._continuous)) if self._continuous else None
        means = self.actor.last.weight[: self._continuous]
        with torch.no_grad():
            means.mul_(_MEAN_SCALE / means.norm(dim=1, keepdim=True))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        outputs = self.actor(batch[Columns.OBS])
        if self.log_std is not None:
            means = outputs[..., : self._continuous]
            choices = outputs[..., self._continuous :]
            outputs = torch.cat([means, self.log_std.clamp(*_LOG_STD).expand_as(means), choices], dim=-1)
        return apply_mask(batch, {Columns.ACTION_DIST_INPUTS: outputs})

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Returns (B,) values of rows (B, N)."""
        values: torch.Tensor = self.critic(batch[Columns.OBS])
        return values.squeeze(-1)

    def get_non_inference_attributes(self) -> list[str]:
        """Names the attributes that acting does not need; called by RLlib."""
        return ["critic"]


def _count_outputs(space: gymnasium.Space[Any]) -> tuple[int, int]:
    """Continuous actions, and choices of the discrete ones, in the order in which a hybrid space has both."""
    if isinstance(space, gymnasium.spaces.Tuple):
        continuous, choices = zip(*map(_count_outputs, space.spaces), strict=True)
        return sum(continuous), sum(choices)
    if isinstance(space, gymnasium.spaces.Discrete):
        return 0, int(space.n)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return 0, int(space.nvec.sum())
    return int((space.shape or (0,))[0]), 0


class _Network(nn.Module):
    """Maps rows of numbers to outputs: convolutions for the picture, linear layers for the scan.

    Args:
        config: The model config.
        outputs: Number of outputs.
    """

    def __init__(self, config: dict[str, Any], outputs: int) -> None:
        super().__init__()
        lidar = config["lidar"]
        self._shape = tuple(lidar["picture_shape"])
        self._scans = int(lidar["scan_size"])
        self._is_picture_first = bool(lidar["is_picture_first"])
        rows, columns, channels = self._shape
        layers: list[nn.Module] = [PixelScale(float(config["pixel_scale"]))]
        for filters, kernel, stride, *_ in config["conv_filters"]:
            layers += [_with_xavier(nn.Conv2d(channels, filters, kernel, stride)), nn.ReLU()]
            rows = (rows - kernel) // stride + 1
            columns = (columns - kernel) // stride + 1
            channels = filters
        hiddens, own = list(config["head_fcnet_hiddens"]), int(lidar["own_layers"])
        seen, width = _dense(rows * columns * channels, hiddens[:own])
        self.picture = nn.Sequential(*layers, nn.Flatten(), *seen)
        felt, felt_width = _dense(self._scans, _SCAN_LAYERS)
        self.scan = nn.Sequential(*felt)
        joined, last_width = _dense(width + felt_width, hiddens[own:])
        self.joined = nn.Sequential(*joined)
        self.last = ExactLinear(last_width, outputs)
        nn.init.xavier_uniform_(self.last.weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Maps (B, N) to (B, outputs)."""
        size = math.prod(self._shape)
        first, second = (size, self._scans) if self._is_picture_first else (self._scans, size)
        parts = torch.split(rows, [first, second], dim=-1)
        pixels, scan = parts if self._is_picture_first else parts[::-1]
        picture = pixels.reshape(-1, *self._shape).permute(0, 3, 1, 2)
        found: torch.Tensor = self.last(self.joined(torch.cat([self.picture(picture), self.scan(scan)], dim=-1)))
        return found


def _dense(inputs: int, widths: Any) -> tuple[list[nn.Module], int]:
    """Builds linear layers with ReLU; returns them and the width of the last."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [_with_xavier(nn.Linear(inputs, width)), nn.ReLU()]
        inputs = width
    return layers, inputs


def _with_xavier(layer: Any) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight)
    module: nn.Module = layer
    return module
