"""DQN's network: RLlib's own, whose inference returns the Q values, so that a policy of it acts like any other."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_PREDS
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.core.columns import Columns

from runtime.policies.masks import apply_mask, catalog_without_mask, split_mask
from runtime.policies.spaces import ACTION_MASK


class QModule(DefaultDQNTorchRLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's DQN network; the Q values are the logits of the action distribution, whose mode is the greedy action.

    Observations in a MaskedBox end with a mask: a masked action is not taken, at random neither, and no target is
    computed from its value.
    """

    catalog: Any

    def setup(self) -> None:
        """Builds the network; called by RLlib."""
        self.catalog = catalog_without_mask(self.catalog, self.observation_space)
        super().setup()

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        outputs = {Columns.ACTION_DIST_INPUTS: self.compute_q_values(batch)[QF_PREDS]}
        return apply_mask(split_mask(batch, self.observation_space), outputs)

    def _qf_forward_helper(self, batch: dict[str, Any], encoder: Any, head: Any) -> dict[str, Any]:
        """Computes Q values, -inf for masked actions, which RLlib's exploration and loss leave out.

        The last observation of an episode may have no allowed action. None is taken there and its value counts for
        nothing, but RLlib's env runner computes an action, which must exist.
        """
        batch = split_mask(batch, self.observation_space)
        outputs: dict[str, Any] = super()._qf_forward_helper(batch, encoder, head)
        if ACTION_MASK in batch:
            masked = (batch[ACTION_MASK] == 0) & batch[ACTION_MASK].any(dim=-1, keepdim=True)
            outputs[QF_PREDS] = outputs[QF_PREDS].masked_fill(masked, -torch.inf)
        return outputs
