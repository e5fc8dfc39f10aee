"""Action masks: discrete choices that are forbidden get a logit that nothing is drawn from."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns

from runtime.policies.policy import ACTION_MASK

_NEVER = -1e9  # not -inf: a probability of 0 times it must stay a number


def apply_mask(batch: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """A network's outputs with the batch's mask (B, M) applied to the last M inputs of the action distribution."""
    mask = batch.get(ACTION_MASK)
    if mask is None:
        return outputs
    logits = outputs[Columns.ACTION_DIST_INPUTS]
    free, masked = torch.split(logits, [logits.shape[-1] - mask.shape[-1], mask.shape[-1]], dim=-1)
    masked = torch.where(mask.bool(), masked, torch.full_like(masked, _NEVER))
    return {**outputs, Columns.ACTION_DIST_INPUTS: torch.cat([free, masked], dim=-1)}
