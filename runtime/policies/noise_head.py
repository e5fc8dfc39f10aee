"""Exploration that depends on the state: the policy head that training, acting and export share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VARIANCE_FLOOR = 1e-6


class StateDependentNoiseHead(nn.Module):
    """A policy head whose exploration is a random linear function of what its last layer sees (gSDE).

    One function lasts for some steps, so that a robot leans one way instead of trembling. As a distribution, each
    action is normal, with the variance that such functions have at the state; it does not train the features.

    Args:
        net: RLlib's layers of the head: to (B, A) means.

    Source: Raffin et al. 2021, Smooth exploration for robotic reinforcement learning.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        last: Any = net.mlp[-1]
        self.log_std = nn.Parameter(torch.zeros(last.in_features, last.out_features))

    def features(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Returns the (B, F) inputs of the last layer."""
        for layer in self.net.mlp[:-1]:
            embeddings = layer(embeddings)
        return embeddings

    def distribution_inputs(self, features: torch.Tensor) -> torch.Tensor:
        """Returns (B, 2 A) means and log standard deviations."""
        variance = features.detach().square() @ (2 * self.log_std).exp()
        return torch.cat([self.net.mlp[-1](features), (variance + VARIANCE_FLOOR).log() / 2], dim=-1)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Returns (B, 2 A) inputs of the action distribution; called by RLlib."""
        return self.distribution_inputs(self.features(embeddings))
