"""Flattens a policy and value network for the compiled kernels: a table of layers, and one array of parameters."""

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
from runtime.policies.spaces import mask_size
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


class UnsupportedError(Exception):
    """The kernels do not support a network or its optimizer; the message names the unsupported part."""


@dataclass(frozen=True)
class FlatNetwork:
    """A module's layers, and the order of its parameters in the flat array.

    Attributes:
        table: (1,) record of `NETWORK`.
        parameters: The module's own, in the order of the flat array.
    """

    table: NDArray[Any]
    parameters: list[nn.Parameter]

    @property
    def kind(self) -> int:
        """Kind of the action distribution, one of those in `network_kernels`."""
        return int(self.table[0]["kind"])

    @property
    def noise_size(self) -> int:
        """Random numbers that sampling one action takes."""
        row = self.table[0]
        if self.kind == CATEGORICAL:
            return 1
        return int(row["actions"]) * (self.features if self.kind == STATE_DEPENDENT else 1)

    @property
    def action_size(self) -> int:
        """Numbers of an action; 1 for a discrete one."""
        return 1 if self.kind == CATEGORICAL else int(self.table[0]["actions"])

    @property
    def features(self) -> int:
        """Inputs of the policy's last layer."""
        row = self.table[0]
        return int(row["layers"][row["policy_end"] - 1, INPUTS])

    def activations(self, rows: int) -> NDArray[np.float32]:
        """Returns a buffer for the outputs of all layers on a batch of `rows` observations."""
        return np.empty(rows * int(self.table[0]["width"]), np.float32)

    def gather(self, tensors: list[torch.Tensor] | None = None) -> NDArray[np.float32]:
        """Copies the parameters, or tensors of their shapes, into a (P,) array."""
        parts = self.parameters if tensors is None else tensors
        return torch.cat([part.detach().reshape(-1) for part in parts]).numpy()

    def scatter(self, flat: NDArray[np.float32], tensors: list[torch.Tensor] | None = None) -> None:
        """Writes (P,) numbers into the parameters, or into tensors of their shapes."""
        parts: Any = self.parameters if tensors is None else tensors
        with torch.no_grad():
            sizes = [part.numel() for part in parts]
            for part, values in zip(parts, torch.split(torch.from_numpy(flat), sizes), strict=True):
                part.copy_(values.view_as(part))


def flatten(module: Any, action_space: gymnasium.Space[Any]) -> FlatNetwork:
    """Reads a module's structure.

    Args:
        module: RLlib's policy and value network; one without a value function gives a table without value layers.
        action_space: The environment's.

    Raises:
        UnsupportedError: The kernels cannot compute it.
    """
    if type(module) is not PPOModule:
        raise UnsupportedError(f"the network is a {type(module).__name__}")
    if mask_size(module.observation_space) or module.model_config.get("action_mask"):
        raise UnsupportedError("the network takes action masks")
    if module.model_config.get("pixel_scale") is not None:
        raise UnsupportedError("the network takes images")
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        raise UnsupportedError("the network is on a GPU")
    return _Reader(module).read(action_space)


class _Reader:
    """Reads one module, layer by layer."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._layers: list[tuple[int, ...]] = []
        self._parameters: list[nn.Parameter] = []
        self._size = self._width = 0

    def read(self, action_space: gymnasium.Space[Any]) -> FlatNetwork:
        table = np.zeros(1, NETWORK)
        row = table[0]
        module = self._module
        encoder = module.encoder
        if not isinstance(encoder, TorchActorCriticEncoder):
            raise UnsupportedError(f"its encoder is a {type(encoder).__name__}")
        if encoder.config.shared:
            self._add_encoder(encoder.encoder)
        row["shared_end"] = len(self._layers)
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
            raise UnsupportedError(f"it has {len(self._layers)} layers, and the kernels support {MOST_LAYERS}")
        row["layers"][: len(self._layers)] = self._layers
        row["parameters"], row["width"] = self._size, self._width
        return FlatNetwork(table, self._parameters)

    def _add_encoder(self, encoder: Any) -> None:
        if not isinstance(encoder, TorchMLPEncoder):
            raise UnsupportedError(f"its encoder is a {type(encoder).__name__}")
        self._add_layers(encoder.net.mlp)

    def _add_head(self, row: Any, head: Any, space: gymnasium.Space[Any]) -> None:
        if not isinstance(head, TorchMLPHead | TorchFreeLogStdMLPHead | StateDependentNoiseHead):
            raise UnsupportedError(f"its policy head is a {type(head).__name__}")
        begin = len(self._layers)
        self._add_layers(head.net.mlp)
        outputs = self._layers[-1][OUTPUTS]
        row["log_std_bound"] = np.inf
        row["variance_floor"] = VARIANCE_FLOOR
        if isinstance(space, gymnasium.spaces.Discrete):
            row["kind"], row["actions"], row["distribution_size"] = CATEGORICAL, outputs, outputs
            return
        if not isinstance(space, gymnasium.spaces.Box) or space.dtype not in (np.float32, np.float64):
            raise UnsupportedError(f"its actions are {space}")
        is_noise = isinstance(head, StateDependentNoiseHead)
        if not is_noise and head.clip_log_std:
            row["log_std_bound"] = float(torch.as_tensor(head.log_std_clip_param_const))
        if isinstance(head, TorchMLPHead):
            row["kind"] = GAUSSIAN
            row["actions"] = outputs // 2
        else:
            row["kind"] = STATE_DEPENDENT if is_noise else FREE_GAUSSIAN
            row["actions"] = outputs
            row["log_std_at"] = self._add_parameter(head.log_std)
            row["learns_log_std"] = self._module.model_config.get("log_std_schedule") is None
        row["distribution_size"] = 2 * row["actions"]
        if is_noise and len(self._layers) == begin + 1 and begin == 0:
            raise UnsupportedError("its state-dependent noise has no features: the policy has no layer before the last")

    def _add_layers(self, layers: Any) -> None:
        for layer in layers:
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                at = tuple(self._add_parameter(parameter) for parameter in layer.parameters())  # weight, then bias
                self._layers.append((layer.in_features, layer.out_features, LINEAR, *at, self._width))
                self._width += layer.out_features
            elif type(layer) in _ACTIVATIONS and self._layers and self._layers[-1][2] == LINEAR:
                *begin, _, weights_at, biases_at, outputs_at = self._layers[-1]
                self._layers[-1] = (*begin, _ACTIVATIONS[type(layer)], weights_at, biases_at, outputs_at)
            else:
                raise UnsupportedError(f"it has a layer {type(layer).__name__}")

    def _add_parameter(self, parameter: nn.Parameter) -> int:
        at = self._size
        self._parameters.append(parameter)
        self._size += parameter.numel()
        return at
