"""SAC's learner: RLlib's own, with the squared error for the Q functions."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.sac.sac_learner import QF_LOSS_KEY, QF_PREDS, QF_TWIN_LOSS_KEY, QF_TWIN_PREDS
from ray.rllib.algorithms.sac.torch.sac_torch_learner import SACTorchLearner
from ray.rllib.core.columns import Columns


class SquaredErrorSACLearner(SACTorchLearner):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's learner of SAC, whose Q functions learn the mean of their targets.

    RLlib 2.60 has the Huber loss with a delta of 1, whose minimum for larger errors is the median: it
    underweights rewards and terminations that are rare. Half the squared error has the same gradient within the delta.

    Source: Haarnoja et al. 2018, arXiv 1812.05905, eq. 5.
    """

    def _compute_loss_for_module_continuous(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Any:
        """Computes all losses as RLlib does, and puts the squared errors in the place of the Huber losses."""
        total = super()._compute_loss_for_module_continuous(
            module_id=module_id, config=config, batch=batch, fwd_out=fwd_out
        )
        with torch.no_grad():
            alpha = torch.exp(self.curr_log_alpha[module_id])
            next_values = fwd_out["q_target_next"] - alpha * fwd_out["logp_next_resampled"]
            continues = 1.0 - batch[Columns.TERMINATEDS].float()
            targets = batch[Columns.REWARDS] + config.gamma ** batch["n_step"] * continues * next_values
        pairs = [(QF_LOSS_KEY, QF_PREDS)]
        if config.twin_q:
            pairs.append((QF_TWIN_LOSS_KEY, QF_TWIN_PREDS))
        for key, predictions in pairs:
            loss = torch.mean(batch["weights"] * 0.5 * (fwd_out[predictions] - targets) ** 2)
            total = total - self._temp_losses[(module_id, key)] + loss
            self._temp_losses[(module_id, key)] = loss
            self.metrics.log_value((module_id, key), loss, window=1)
        return total
