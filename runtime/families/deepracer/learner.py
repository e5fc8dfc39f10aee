"""RLlib's PPO learner for camera images: the same loss on minibatches of uint8, without RLlib's copies of each.

Clipped PPO as DeepRacer's trainer had it: advantages are standardized over the whole rollout, every episode counts as
terminated, values are not clipped, gradients only if the job asks for it, and incomplete minibatches are dropped.
Source: DeepRacer's simulation application 6.0.5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from torch import nn
from torch.nn import functional

from runtime.families.deepracer.driven_episodes import DrivenEpisodes
from runtime.families.deepracer.driving import autocast
from runtime.ppo.advantages import generalized_advantages

_ADAM_EPSILON = 1e-5
_VALUES_AT_ONCE = 256


class RacingLearner(PPOTorchLearner):  # type: ignore[misc]  # ray is not typed for strict mode
    """PPO learner for DeepRacer rollouts; RLlib does checkpoints, schedules and weight synchronization."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Creates a fused Adam; called by RLlib."""
        module = self.module[module_id]
        parameters = self.get_parameters(module)
        optimizer = torch.optim.Adam(parameters, eps=_ADAM_EPSILON, fused=True)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=config.lr
        )

    def update(
        self,
        training_data: TrainingData,
        *,
        timesteps: dict[str, Any],
        num_epochs: int,
        **kwargs: Any,
    ) -> Any:
        """Learns from the rollouts of an iteration, in `num_epochs` passes; called by RLlib."""
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        rollouts: list[DrivenEpisodes] = training_data.episodes
        batch = self._prepare(rollouts)
        size = fit_minibatch(self.config.learner_config_dict["minibatch_size"], len(batch["actions"]))
        epochs: list[list[float]] = []
        for _ in range(num_epochs):
            losses: list[torch.Tensor] = []
            order = torch.randperm(len(batch["actions"]))
            for begin in range(0, len(order) - size + 1, size):
                picked = order[begin : begin + size]
                losses.append(self._step({name: column[picked].to(self._device) for name, column in batch.items()}))
            epochs.append(torch.stack(losses).mean(dim=0).tolist())
        self._log(epochs)
        self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce()

    def _prepare(self, rollouts: list[DrivenEpisodes]) -> dict[str, torch.Tensor]:
        """Joins all rollouts into one batch, with advantages and value targets."""
        config = self.config
        observations = torch.from_numpy(np.concatenate([one.observations for one in rollouts]))
        rewards = np.concatenate([one.rewards for one in rollouts])
        lengths = np.concatenate([one.lengths for one in rollouts])
        with torch.inference_mode(), autocast(self._device_type):
            parts = torch.split(observations, _VALUES_AT_ONCE)
            estimates = [self._estimate_values(part.to(self._device)) for part in parts]
        values = torch.cat(estimates).float().cpu().numpy()
        ends = np.zeros(len(rewards), bool)
        ends[np.cumsum(lengths) - 1] = True
        advantages = generalized_advantages(
            rewards[:, None],
            np.append(values, np.float32(0.0))[:, None],  # no step follows the last episode's end
            ends[:, None],
            gamma=config.gamma,
            lambda_=config.lambda_,
        )[:, 0]
        value_targets = advantages + values
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        logits = torch.from_numpy(np.concatenate([one.logits for one in rollouts]))
        actions = torch.from_numpy(np.concatenate([one.actions for one in rollouts]))
        return {
            "observations": observations,
            "actions": actions,
            "log_probs": self._distribution(logits).logp(actions),
            "logits": logits,
            "advantages": torch.from_numpy(advantages),
            "value_targets": torch.from_numpy(value_targets),
        }

    @property
    def _device_type(self) -> str:
        return str(torch.device(self._device).type)

    @property
    def _net(self) -> Any:
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def _estimate_values(self, observations: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self._net.compute_values({Columns.OBS: observations})
        return values

    def _distribution(self, logits: torch.Tensor) -> Any:
        return self._net.get_train_action_dist_cls().from_logits(logits)

    def _step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Takes one step of the optimizer on a minibatch.

        Returns:
            (6,) total loss, policy loss, value loss, entropy, KL divergence, and the gradient's norm.

        Source: Schulman et al. 2017, Proximal policy optimization algorithms, eq. 7 and 9.
        """
        config = self.config
        with autocast(self._device_type):
            observations = {Columns.OBS: batch["observations"]}
            forward = self._net.forward_train(observations)
            values = self._net.compute_values(observations, embeddings=forward.get(Columns.EMBEDDINGS)).float()
            logits = forward[Columns.ACTION_DIST_INPUTS].float()
        # Clipped surrogate, eq. 7.
        distribution = self._distribution(logits)
        log_ratio = distribution.logp(batch["actions"]) - batch["log_probs"]
        ratio = log_ratio.exp()
        advantages = batch["advantages"]
        clipped = ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        # Value loss and entropy bonus, eq. 9.
        is_huber = config.learner_config_dict.get("vf_loss") == "huber"
        value_loss = (functional.smooth_l1_loss if is_huber else functional.mse_loss)(values, batch["value_targets"])
        entropy = distribution.entropy().mean()
        entropy_coeff = self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()
        total = policy_loss + config.vf_loss_coeff * value_loss - entropy_coeff * entropy
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(list(self._net.parameters()), config.grad_clip or math.inf)
        optimizer.step()
        divergence = ((ratio - 1) - log_ratio).mean()  # Schulman 2020, Approximating KL divergence: k3
        return torch.stack([total, policy_loss, value_loss, entropy, divergence, norm]).detach()

    def _log(self, epochs: list[list[float]]) -> None:
        """Logs the means of the last epoch under RLlib's names, and those of every epoch for the lines on stdout."""
        last = epochs[-1]
        names = ("total_loss", "policy_loss", "vf_loss", "entropy", "mean_kl_loss")
        metrics = dict(zip(names, last, strict=False))
        for means in epochs:
            for name, value in (("epoch_policy_loss", means[1]), ("epoch_kl", means[4]), ("epoch_entropy", means[3])):
                self.metrics.log_value((DEFAULT_MODULE_ID, name), value, reduce="item_series")
        metrics["gradients_default_optimizer_global_norm"] = last[-1]
        metrics["default_optimizer_learning_rate"] = self.get_optimizer(DEFAULT_MODULE_ID).param_groups[0]["lr"]
        self.metrics.log_dict(metrics, key=DEFAULT_MODULE_ID, window=1)


def fit_minibatch(size: int, steps: int) -> int:
    """Returns the minibatch size, reduced to the largest power of two that fits if the rollout is smaller."""
    return size if steps > size else 2 ** max(0, steps.bit_length() - 1)
