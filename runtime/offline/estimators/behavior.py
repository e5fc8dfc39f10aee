"""Estimates the behavior policy of a log that has no action probabilities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.offline.data.transitions import Transitions
from runtime.policies.network_policy import make_filter
from runtime.policies.spaces import split_masks

_HIDDEN = 64
_STEPS = 1500
_BATCH = 256
_LR = 1e-3
_LEAST = 1e-3  # an action that was taken cannot have been impossible


def estimate_behavior(train: Transitions, held_out: Transitions, *, seed: int) -> NDArray[np.float32]:
    """Estimates the behavior policy by behavior cloning.

    Args:
        train: Transitions with discrete actions to imitate.
        held_out: Episodes of the same policy, which are not learned from.
        seed: Seed of the initial weights and of the minibatches.

    Returns:
        (N, A) probability of each action at each state of `held_out`.
    """
    assert train.num_actions is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(train.shape[0] - train.mask_size, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, train.num_actions),
        )
    numbers, masks = split_masks(train.states, train.mask_size)
    see = make_filter(numbers)
    states = torch.as_tensor(see(numbers))
    forbidden = None if masks is None else torch.as_tensor(~masks)
    actions = torch.as_tensor(train.actions)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LR, weight_decay=1e-4, fused=True)
    for _ in range(_STEPS):
        rows = torch.randint(len(states), (_BATCH,), generator=generator)
        logits = network(states[rows])
        if forbidden is not None:
            logits = logits.masked_fill(forbidden[rows], -torch.inf)
        loss = nn.functional.cross_entropy(logits, actions[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        optimizer.step()
    numbers, masks = split_masks(held_out.states, held_out.mask_size)
    with torch.inference_mode():
        probabilities = torch.softmax(network(torch.as_tensor(see(numbers))), dim=1).numpy()
    floored = np.maximum(probabilities, _LEAST) * (1 if masks is None else masks)
    return np.asarray(floored / floored.sum(axis=1, keepdims=True), np.float32)
