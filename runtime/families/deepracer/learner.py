"""RLlib's PPO learner for pictures: the same loss on minibatches of bytes, without RLlib's own copies of each.

Clipped PPO as DeepRacer's trainer had it: advantages standardised over the whole rollout, every episode's end a true
one, no clip of values, nor of gradients unless it is asked for, whole minibatches only.
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

from runtime.families.deepracer.driving import autocast
from runtime.families.deepracer.rollout import Rollout, advantages

_ADAM_EPSILON = 1e-5
_VALUED_AT_ONCE = 256


class RacingLearner(PPOTorchLearner):  # type: ignore[misc]  # ray is not typed for strict mode
    """Learns from rollouts; checkpoints, schedules and weight sync stay RLlib's."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam in one call for all weights; called by RLlib."""
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
        """`num_epochs` passes over the rollouts of an iteration; called by RLlib."""
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        rollouts: list[Rollout] = training_data.episodes
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

    def _prepare(self, rollouts: list[Rollout]) -> dict[str, torch.Tensor]:
        """One batch of all rollouts, with advantages and value targets."""
        config = self.config
        pictures = torch.from_numpy(np.concatenate([one.observations for one in rollouts]))
        rewards = np.concatenate([one.rewards for one in rollouts])
        lengths = np.concatenate([one.lengths for one in rollouts])
        with torch.inference_mode(), autocast(self._kind):
            parts = [self._value(part.to(self._device)) for part in torch.split(pictures, _VALUED_AT_ONCE)]
        values = torch.cat(parts).float().cpu().numpy()
        gains, targets = advantages(rewards, values, lengths, gamma=config.gamma, lam=config.lambda_)
        gains = (gains - gains.mean()) / (gains.std() + 1e-8)
        logits = torch.from_numpy(np.concatenate([one.logits for one in rollouts]))
        actions = torch.from_numpy(np.concatenate([one.actions for one in rollouts]))
        logp = self._distribution(logits).logp(actions)
        return {
            "pictures": pictures,
            "actions": actions,
            "logp": logp,
            "logits": logits,
            "advantages": torch.from_numpy(gains),
            "targets": torch.from_numpy(targets),
        }

    @property
    def _kind(self) -> str:
        return str(torch.device(self._device).type)

    @property
    def _net(self) -> Any:
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def _value(self, pictures: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self._net.compute_values({Columns.OBS: pictures})
        return values

    def _distribution(self, logits: torch.Tensor) -> Any:
        return self._net.get_train_action_dist_cls().from_logits(logits)

    def _step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """One step of the optimiser; (6,) total, policy and value loss, entropy, KL, and the gradient's norm."""
        config = self.config
        with autocast(self._kind):
            seen = {Columns.OBS: batch["pictures"]}
            forward = self._net.forward_train(seen)
            values = self._net.compute_values(seen, embeddings=forward.get(Columns.EMBEDDINGS)).float()
            logits = forward[Columns.ACTION_DIST_INPUTS].float()
        distribution = self._distribution(logits)
        log_ratio = distribution.logp(batch["actions"]) - batch["logp"]
        ratio, gains = log_ratio.exp(), batch["advantages"]
        clipped = ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
        policy_loss = -torch.minimum(ratio * gains, clipped * gains).mean()
        is_huber = config.learner_config_dict.get("vf_loss") == "huber"
        value_loss = (functional.smooth_l1_loss if is_huber else functional.mse_loss)(values, batch["targets"])
        entropy = distribution.entropy().mean()
        coefficient = self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()
        total = policy_loss + config.vf_loss_coeff * value_loss - coefficient * entropy
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = list(self._net.parameters())
        norm = nn.utils.clip_grad_norm_(parameters, config.grad_clip or math.inf)
        optimizer.step()
        divergence = ((ratio - 1) - log_ratio).mean()
        return torch.stack([total, policy_loss, value_loss, entropy, divergence, norm]).detach()

    def _log(self, epochs: list[list[float]]) -> None:
        """The last pass's means under RLlib's names, and every pass's for the log."""
        last = epochs[-1]
        names = ("total_loss", "policy_loss", "vf_loss", "entropy", "mean_kl_loss")
        found = dict(zip(names, last, strict=False))
        for means in epochs:
            for name, value in (("epoch_policy_loss", means[1]), ("epoch_kl", means[4]), ("epoch_entropy", means[3])):
                self.metrics.log_value((DEFAULT_MODULE_ID, name), value, reduce="item_series")
        found["gradients_default_optimizer_global_norm"] = last[-1]
        found["default_optimizer_learning_rate"] = self.get_optimizer(DEFAULT_MODULE_ID).param_groups[0]["lr"]
        self.metrics.log_dict(found, key=DEFAULT_MODULE_ID, window=1)


def fit_minibatch(size: int, steps: int) -> int:
    """The size asked for; for a rollout that is no longer than that, the largest power of two that fits."""
    return size if steps > size else 2 ** max(0, steps.bit_length() - 1)
