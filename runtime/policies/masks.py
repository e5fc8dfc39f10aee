"""Action masks: a masked discrete action gets a logit so low that it is never sampled."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from ray.rllib.core.columns import Columns

from runtime.policies.spaces import ACTION_MASK, MaskedBox

MASKED_LOGIT = -1e9  # not -inf, which is NaN when multiplied by a probability of 0


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
    masked = torch.where(mask.bool(), masked, torch.full_like(masked, MASKED_LOGIT))
    return {**outputs, Columns.ACTION_DIST_INPUTS: torch.cat([free, masked], dim=-1)}


def split_mask(batch: dict[str, Any], space: gymnasium.Space[Any]) -> dict[str, Any]:
    """Moves the mask at the end of each observation to a column of its own.

    Args:
        batch: RLlib's columns; `obs` is (…, O + M) in a MaskedBox.
        space: Space of the observations; unless it is a MaskedBox, the batch is returned as it is.
    """
    if not isinstance(space, MaskedBox):
        return batch
    observations = batch[Columns.OBS]
    numbers, mask = observations[..., : -space.mask_size], observations[..., -space.mask_size :]
    return {**batch, Columns.OBS: numbers, ACTION_MASK: mask}


def catalog_without_mask(catalog: Any, space: gymnasium.Space[Any]) -> Any:
    """Returns the catalog that builds a network of the numbers before the mask; the same one for unmasked spaces."""
    if not isinstance(space, MaskedBox):
        return catalog
    settings = catalog._model_config_dict
    return type(catalog)(observation_space=space.numbers, action_space=catalog.action_space, model_config_dict=settings)
