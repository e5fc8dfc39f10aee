"""Estimates the policy that acted in a log which does not tell its probabilities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.offline.data.transitions import Transitions
from runtime.policies.network_policy import make_filter

_HIDDEN, _STEPS, _BATCH, _LR = 64, 1500, 256, 1e-3
_LEAST = 1e-3  # an action that was taken cannot have been impossible


def estimate_behaviour(learn: Transitions, judge: Transitions, *, seed: int) -> NDArray[np.float32]:
    """(N, A) probabilities of the actions of one log's policy at the states of another, by behaviour cloning.

    Args:
        learn: Discrete actions to imitate.
        judge: Episodes of the same policy, which are not learned from.
        seed: Of weights and batches.
    """
    assert learn.num_actions is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(learn.shape[0], _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, learn.num_actions),
        )
    see = make_filter(learn.states)
    states, actions = torch.as_tensor(see(learn.states)), torch.as_tensor(learn.actions)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LR, weight_decay=1e-4, fused=True)
    for _ in range(_STEPS):
        rows = torch.randint(len(states), (_BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(network(states[rows]), actions[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        optimizer.step()
    with torch.inference_mode():
        probabilities = torch.softmax(network(torch.as_tensor(see(judge.states))), dim=1).numpy()
    floored = np.maximum(probabilities, _LEAST)
    return np.asarray(floored / floored.sum(axis=1, keepdims=True), np.float32)
