"""SAC's network: RLlib's own, whose deterministic action is inside the action's bounds."""

from __future__ import annotations

from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.core.distribution.torch.torch_distribution import TorchDeterministic, TorchSquashedGaussian


class SquashedGaussian(TorchSquashedGaussian):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's squashed Gaussian, whose deterministic action is tanh(mean), as samples are tanh(x).

    RLlib 2.60 returns the mean before the tanh. Source: Haarnoja et al. 2018, arXiv 1812.05905, appendix C.
    """

    def to_deterministic(self) -> TorchDeterministic:
        """Returns the distribution that always samples tanh(mean)."""
        return TorchDeterministic(loc=self._squash(self.loc))


class SACModule(DefaultSACTorchRLModule):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's SAC network."""

    def get_inference_action_dist_cls(self) -> type[SquashedGaussian]:
        """Returns the distribution of the actions; called by RLlib for actions without exploration."""
        return SquashedGaussian
