"""A policy and value network as flat numbers, as the compiled kernels take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.models.torch.encoder import TorchActorCriticEncoder, TorchMLPEncoder
from ray.rllib.core.models.torch.heads import TorchFreeLogStdMLPHead, TorchMLPHead
from torch import nn

from runtime.policies.noise_head import VARIANCE_FLOOR, StateDependentNoiseHead
from runtime.policies.ppo_module import PPOModule
from runtime.ppo.compiled.network_kernels import (
    CATEGORICAL,
    FREE_GAUSSIAN,
    GAUSSIAN,
    INPUTS,
    LINEAR,
    MOST_LAYERS,
    NETWORK,
    OUTPUTS,
    RELU,
    STATE_DEPENDENT,
    TANH,
)

_ACTIVATIONS = {nn.Tanh: TANH, nn.ReLU: RELU}


class NotCoveredError(Exception):
    """The kernels do not know such a network; the message says what of it."""


@dataclass(frozen=True)
class FlatNetwork:
    """Where a module's numbers stand.

    Attributes:
        table: (1,) of `NETWORK`.
        parameters: The module's own, in the order of the flat numbers.
    """

    table: NDArray[Any]
    parameters: list[nn.Parameter]

    @property
    def kind(self) -> int:
        """Of the action distribution, as in `network_kernels`."""
        return int(self.table[0]["kind"])

    @property
    def noise_size(self) -> int:
        """Numbers that a draw of an action needs."""
        row = self.table[0]
        if self.kind == CATEGORICAL:
            return 1
        return int(row["actions"]) * (self.features if self.kind == STATE_DEPENDENT else 1)

    @property
    def action_size(self) -> int:
        """Numbers of an action; a choice is one."""
        return 1 if self.kind == CATEGORICAL else int(self.table[0]["actions"])

    @property
    def features(self) -> int:
        """What the policy's last layer sees."""
        row = self.table[0]
        return int(row["layers"][row["policy_end"] - 1, INPUTS])

    def scratch(self, rows: int) -> NDArray[np.float32]:
        """Room for a pass of (rows, I)."""
        return np.empty(rows * int(self.table[0]["width"]), np.float32)

    def gather(self, tensors: list[torch.Tensor] | None = None) -> NDArray[np.float32]:
        """The parameters, or tensors of their shapes, as (P,)."""
        parts = self.parameters if tensors is None else tensors
        return torch.cat([part.detach().reshape(-1) for part in parts]).numpy()

    def scatter(self, flat: NDArray[np.float32], tensors: list[torch.Tensor] | None = None) -> None:
        """Writes (P,) back."""
        parts: Any = self.parameters if tensors is None else tensors
        with torch.no_grad():
            sizes = [part.numel() for part in parts]
            for part, values in zip(parts, torch.split(torch.from_numpy(flat), sizes), strict=True):
                part.copy_(values.view_as(part))


def flatten(module: Any, action_space: gymnasium.Space[Any]) -> FlatNetwork:
    """Reads a module's structure.

    Args:
        module: An RLlib module; one without a value network gives a table without value layers.
        action_space: What it acts in.

    Raises:
        NotCoveredError: The kernels cannot compute it.
    """
    if type(module) is not PPOModule:
        raise NotCoveredError(f"the network is a {type(module).__name__}")
    if module.model_config.get("action_mask") or module.model_config.get("pixel_scale") is not None:
        raise NotCoveredError("the network takes action masks or pictures")
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        raise NotCoveredError("the network is on a GPU")
    return _Reader(module).read(action_space)


class _Reader:
    """Walks over one module."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._layers: list[tuple[int, ...]] = []
        self._parameters: list[nn.Parameter] = []
        self._size = self._width = 0

    def read(self, action_space: gymnasium.Space[Any]) -> FlatNetwork:
        table = np.zeros(1, NETWORK)
        row, module = table[0], self._module
        encoder = module.encoder
        if not isinstance(encoder, TorchActorCriticEncoder):
            raise NotCoveredError(f"its encoder is a {type(encoder).__name__}")
        if encoder.config.shared:
            self._add_encoder(encoder.encoder)
        row["trunk_end"] = len(self._layers)
        if not encoder.config.shared:
            self._add_encoder(encoder.actor_encoder)
        self._add_head(row, module.pi, action_space)
        row["policy_end"] = len(self._layers)
        if hasattr(module, "vf"):
            if not encoder.config.shared:
                self._add_encoder(encoder.critic_encoder)
            self._add_layers(module.vf.net.mlp)
        row["value_end"] = len(self._layers)
        if len(self._layers) > MOST_LAYERS:
            raise NotCoveredError(f"it has {len(self._layers)} layers, and the kernels take {MOST_LAYERS}")
        row["layers"][: len(self._layers)] = self._layers
        row["parameters"], row["width"] = self._size, self._width
        return FlatNetwork(table, self._parameters)

    def _add_encoder(self, encoder: Any) -> None:
        if not isinstance(encoder, TorchMLPEncoder):
            raise NotCoveredError(f"its encoder is a {type(encoder).__name__}")
        self._add_layers(encoder.net.mlp)

    def _add_head(self, row: Any, head: Any, space: gymnasium.Space[Any]) -> None:
        if not isinstance(head, TorchMLPHead | TorchFreeLogStdMLPHead | StateDependentNoiseHead):
            raise NotCoveredError(f"its policy head is a {type(head).__name__}")
        begin = len(self._layers)
        self._add_layers(head.net.mlp)
        outputs = self._layers[-1][OUTPUTS]
        row["log_std_bound"], row["variance_floor"] = np.inf, VARIANCE_FLOOR
        if isinstance(space, gymnasium.spaces.Discrete):
            row["kind"], row["actions"], row["distribution_inputs"] = CATEGORICAL, outputs, outputs
            return
        if not isinstance(space, gymnasium.spaces.Box) or space.dtype not in (np.float32, np.float64):
            raise NotCoveredError(f"its actions are {space}")
        is_noise = isinstance(head, StateDependentNoiseHead)
        if not is_noise and head.clip_log_std:
            row["log_std_bound"] = float(torch.as_tensor(head.log_std_clip_param_const))
        if isinstance(head, TorchMLPHead):
            row["kind"], row["actions"] = GAUSSIAN, outputs // 2
        else:
            row["kind"] = STATE_DEPENDENT if is_noise else FREE_GAUSSIAN
            row["actions"], row["log_std_at"] = outputs, self._add_parameter(head.log_std)
        row["distribution_inputs"] = 2 * row["actions"]
        if is_noise and len(self._layers) == begin + 1 and begin == 0:
            raise NotCoveredError("its noise depends on a state that no layer has seen")

    def _add_layers(self, layers: Any) -> None:
        for layer in layers:
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                at = tuple(self._add_parameter(parameter) for parameter in layer.parameters())  # weight, then bias
                self._layers.append((layer.in_features, layer.out_features, LINEAR, *at, self._width))
                self._width += layer.out_features
            elif type(layer) in _ACTIVATIONS and self._layers and self._layers[-1][2] == LINEAR:
                *begin, _, weights_at, biases_at, scratch_at = self._layers[-1]
                self._layers[-1] = (*begin, _ACTIVATIONS[type(layer)], weights_at, biases_at, scratch_at)
            else:
                raise NotCoveredError(f"it has a layer {type(layer).__name__}")

    def _add_parameter(self, parameter: nn.Parameter) -> int:
        at = self._size
        self._parameters.append(parameter)
        self._size += parameter.numel()
        return at
