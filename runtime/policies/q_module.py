"""DQN's network: RLlib's own, whose inference returns the Q values, so that a policy of it acts like any other."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_PREDS
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.core.columns import Columns


class QModule(DefaultDQNTorchRLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's DQN network; the Q values are the logits of the action distribution, whose mode is the greedy action."""

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.compute_q_values(batch)[QF_PREDS]}
