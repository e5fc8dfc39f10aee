"""Networks of a user's own, right and wrong ones, for tests/ppo/test_own_network.py."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn


class Residual(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]  # ray is not typed for strict mode
    """A residual network for discrete actions; its model_config has a width."""

    def setup(self) -> None:
        """Builds the layers; called by RLlib."""
        width = self.model_config["width"]
        self.first = nn.Linear(self.observation_space.shape[0], width)
        self.second = nn.Linear(width, width)
        self.policy = nn.Linear(width, int(self.action_space.n))
        self.value = nn.Linear(width, 1)

    def features(self, batch: dict[str, Any]) -> torch.Tensor:
        """Returns (B, width)."""
        x = torch.tanh(self.first(batch[Columns.OBS]))
        return x + torch.tanh(self.second(x))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.policy(self.features(batch))}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Returns (B,); called by RLlib."""
        return self.value(self.features(batch)).squeeze(-1)  # type: ignore[no-any-return]  # of torch's layers


class Gaussian(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """A network for continuous actions, with a log standard deviation of its own."""

    def setup(self) -> None:
        """Builds the layers; called by RLlib."""
        width = self.model_config["fcnet_hiddens"][0]
        size = self.action_space.shape[0]
        observations = self.observation_space.shape[0]
        self.body = nn.Sequential(nn.Linear(observations, width), nn.LayerNorm(width), nn.SiLU(), nn.Dropout(0.1))
        self.mean = nn.Linear(width, size)
        self.log_std = nn.Parameter(torch.zeros(size))
        self.value = nn.Linear(width, 1)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        mean = self.mean(self.body(batch[Columns.OBS].float()))
        return {Columns.ACTION_DIST_INPUTS: torch.cat([mean, self.log_std.clamp(-5, 2).expand_as(mean)], dim=-1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Returns (B,); called by RLlib."""
        return self.value(self.body(batch[Columns.OBS].float()))[:, 0]  # type: ignore[no-any-return]


class Erf(Residual):
    """Computes what the exported formats have no operation for."""

    def features(self, batch: dict[str, Any]) -> torch.Tensor:
        """Returns (B, width)."""
        return torch.erf(super().features(batch))


class Rounding(Residual):
    """Divides and rounds down, which is another operation than dividing."""

    def features(self, batch: dict[str, Any]) -> torch.Tensor:
        """Returns (B, width)."""
        return torch.div(super().features(batch), 0.3, rounding_mode="floor")


class Recurrent(Residual):
    """Remembers the steps of an episode."""

    def setup(self) -> None:
        """Builds the layers; called by RLlib."""
        super().setup()
        self.memory = nn.GRU(self.model_config["width"], self.model_config["width"], batch_first=True)

    def get_initial_state(self) -> dict[str, Any]:
        """Returns the state at an episode's start; called by RLlib."""
        return {"h": torch.zeros(self.model_config["width"])}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        x, state = self.memory(self.features(batch), batch[Columns.STATE_IN]["h"][None].contiguous())
        return {Columns.ACTION_DIST_INPUTS: self.policy(x), Columns.STATE_OUT: {"h": state[0]}}


class NoValues(TorchRLModule):  # type: ignore[misc]
    """Lacks a value function."""


class Column(Residual):
    """Returns values of the shape (B, 1), and one logit too many."""

    def setup(self) -> None:
        """Builds the layers; called by RLlib."""
        super().setup()
        self.policy = nn.Linear(self.model_config["width"], int(self.action_space.n) + 1)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Returns (B, 1)."""
        return super().compute_values(batch)[:, None]


class Plain:
    """Is no network."""
