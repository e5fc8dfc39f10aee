"""Action masks: a masked discrete action gets a logit so low that it is never sampled."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns

from runtime.policies.policy import ACTION_MASK

_MASKED_LOGIT = -1e9  # not -inf, which is NaN when multiplied by a probability of 0


def apply_mask(batch: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """Applies the batch's action mask, if it has one, to a network's outputs.

    Args:
        batch: RLlib's columns; `action_mask` is (B, M) with 1 for allowed actions.
        outputs: RLlib's columns; the mask applies to the last M of (B, L) action distribution inputs.
    """
    mask = batch.get(ACTION_MASK)
    if mask is None:
        return outputs
    logits = outputs[Columns.ACTION_DIST_INPUTS]
    free, masked = torch.split(logits, [logits.shape[-1] - mask.shape[-1], mask.shape[-1]], dim=-1)
    masked = torch.where(mask.bool(), masked, torch.full_like(masked, _MASKED_LOGIT))
    return {**outputs, Columns.ACTION_DIST_INPUTS: torch.cat([free, masked], dim=-1)}
