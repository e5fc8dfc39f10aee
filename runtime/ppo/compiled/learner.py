"""RLlib's PPO learner on arrays: no connectors, no copies of minibatches, gradient steps compiled where they can be.

The last minibatch of every update goes through RLlib's loss: its metrics are RLlib's, and its gradient is compared with
the compiled one. Where they differ, RLlib's learner does all of it from then on.
"""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import (
    MODULE_TRAIN_BATCH_SIZE_MEAN,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)

from runtime.ppo.compiled.flat_network import NotCoveredError
from runtime.ppo.compiled.sampling_kernels import advantages
from runtime.ppo.compiled.steps import Batch, CompiledSteps, keep_dynamo_out, rows_of
from runtime.ppo.rollout import Rollout

# Metric of a learner: 1 while compiled gradients are used, else 0.
COMPILED = "compiled_gradients"
_TOLERANCE = 1e-3  # of the gradient's norm; float32 leaves 1e-6
_CHECKED = 3  # minibatches, of which all must differ
_VALUED_AT_ONCE = 1024
_logger = logging.getLogger(__name__)


class FastLearner(PPOTorchLearner):  # type: ignore[misc]  # ray is not typed for strict mode
    """Learns from `Rollout`s; checkpoints, schedules, metrics and weight sync stay RLlib's."""

    def build(self) -> None:
        """Called by RLlib."""
        keep_dynamo_out()
        super().build()
        self._steps: CompiledSteps | None = None
        self._is_checked = self._is_broken = False
        self._how = "compiled"
        try:
            self._steps = CompiledSteps(self._net, self.get_optimizer(DEFAULT_MODULE_ID))
        except NotCoveredError as error:
            self._how = f"PyTorch's ({error})"

    @property
    def how(self) -> str:
        """How gradients are computed, and why not otherwise."""
        return self._how

    @property
    def _net(self) -> Any:
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def update(self, *args: Any, training_data: TrainingData | None = None, **kwargs: Any) -> Any:
        """`num_epochs` passes over the rollouts of an iteration; called by RLlib."""
        if training_data is not None:
            training_data.validate()
            training_data.solve_refs()
        rollouts = training_data.episodes if training_data is not None else None
        if not rollouts or not isinstance(rollouts[0], Rollout):
            return super().update(*args, training_data=training_data, **kwargs)
        if not self._is_broken:
            return self._update_arrays(rollouts, **kwargs)
        spaces = self._net.observation_space, self._net.action_space
        episodes = [episode for one in rollouts for episode in one.to_episodes(*spaces)]
        self.metrics.log_value((DEFAULT_MODULE_ID, COMPILED), 0, window=1)
        return super().update(*args, training_data=TrainingData(episodes=episodes), **kwargs)

    def _update_arrays(
        self,
        rollouts: list[Rollout],
        *,
        timesteps: dict[str, Any],
        num_epochs: int,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = True,
        **kwargs: Any,
    ) -> Any:
        batch = self._prepare(rollouts)
        order = _minibatches(len(batch["logp"]), minibatch_size, num_epochs, is_shuffled=shuffle_batch_per_epoch)
        if not self._is_checked:
            self._is_checked = True
            self._check(batch, order)
            if self._is_broken:
                given = {"timesteps": timesteps, "num_epochs": num_epochs, "minibatch_size": minibatch_size}
                given["shuffle_batch_per_epoch"] = shuffle_batch_per_epoch
                return self.update(training_data=TrainingData(episodes=rollouts), **given, **kwargs)
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        if self._steps is not None:
            self._steps.descend(batch, order[:-1], self._numbers())
        else:
            for picked in order[:-1]:
                self._gradients(rows_of(batch, picked))
                self._apply()
        last = rows_of(batch, order[-1])
        loss = self._gradients(last)
        if self._differs_by(last) > _TOLERANCE:
            self._check(batch, order)  # what differs, is not used from the next update on
            loss = self._gradients(last)
        self._apply()
        self._log(loss, len(batch["logp"]) * num_epochs, order)
        self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce()

    def _prepare(self, rollouts: list[Rollout]) -> Batch:
        """One batch of all rollouts, with advantages (standardised over all of them) and value targets."""
        found: dict[str, list[NDArray[np.float32]]] = {}
        for one in rollouts:
            gains, targets = self._advantages(one)
            columns = {"observations": one.observations, "actions": one.actions, "logp": one.logp, "inputs": one.inputs}
            for name, column in {**columns, "gains": gains, "targets": targets}.items():
                found.setdefault(name, []).append(column.reshape(-1, *column.shape[2:]))
        batch = {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in found.items()}
        gains = batch["gains"]
        batch["gains"] = ((gains - gains.mean()) / max(1e-4, float(gains.std()))).astype(np.float32)
        return batch

    def _advantages(self, rollout: Rollout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(T, N) advantages and value targets."""
        shape = rollout.observations.shape[2:]
        values = self._values(rollout.observations.reshape(-1, *shape)).reshape(rollout.rewards.shape)
        last = self._values(rollout.following)
        following = np.zeros_like(rollout.rewards)
        if rollout.truncated.any():
            cut = np.ascontiguousarray(rollout.last_observations[rollout.truncated])
            following[rollout.truncated] = self._values(cut)
        gains = np.empty_like(rollout.rewards)
        advantages(
            rollout.rewards,
            np.concatenate([values, last[None]]),
            following,
            rollout.terminated,
            rollout.truncated,
            float(self.config.gamma),
            float(self.config.lambda_),
            gains,
        )
        return gains, gains + values

    def _values(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B,) of (B, …), a part at a time."""
        parts = [observations[i : i + _VALUED_AT_ONCE] for i in range(0, len(observations), _VALUED_AT_ONCE)]
        if self._steps is not None:
            return self._steps.values(parts)
        with torch.inference_mode():
            found = [self._net.compute_values({Columns.OBS: torch.from_numpy(part)}) for part in parts]
        values: NDArray[np.float32] = torch.cat(found).numpy()
        return values

    def _numbers(self) -> dict[str, float]:
        """Of the loss, as schedules and KL penalty have them now."""
        config = self.config
        entropy = self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()
        kl = self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID] if config.use_kl_loss else 0.0
        return {
            "clip": config.clip_param,
            "value_clip": config.vf_clip_param,
            "value_weight": config.vf_loss_coeff,
            "entropy_weight": float(entropy),
            "kl_weight": float(kl),
            "grad_clip": config.grad_clip or 0.0,
            "skips_nan": float(bool(config.torch_skip_nan_gradients)),
        }

    def _gradients(self, rows: Batch) -> torch.Tensor:
        """RLlib's loss of a minibatch; its gradients are left in `_found`."""
        columns = {name: torch.from_numpy(column) for name, column in rows.items()}
        space, actions = self._net.action_space, columns["actions"]
        if not isinstance(space, gymnasium.spaces.Box):
            actions = actions.long()
        batch = {
            DEFAULT_MODULE_ID: {
                Columns.OBS: columns["observations"],
                Columns.ACTIONS: actions[:, 0] if isinstance(space, gymnasium.spaces.Discrete) else actions,
                Columns.ACTION_LOGP: columns["logp"],
                Columns.ACTION_DIST_INPUTS: columns["inputs"],
                Postprocessing.ADVANTAGES: columns["gains"],
                Postprocessing.VALUE_TARGETS: columns["targets"],
            }
        }
        losses = self.compute_losses(fwd_out=self.module.forward_train(batch), batch=batch)
        self._found = self.compute_gradients(losses)
        loss: torch.Tensor = losses[DEFAULT_MODULE_ID]
        return loss

    def _apply(self) -> None:
        """A step of Adam on the gradients found, clipped by RLlib."""
        clipped = self.postprocess_gradients(self._found)
        if self._steps is None:
            self.apply_gradients(clipped)
            return
        for name, gradient in clipped.items():
            self._params[name].grad = gradient
        self._steps.step(self._numbers())

    def _differs_by(self, rows: Batch) -> float:
        """By how much of its norm the compiled gradient of a minibatch differs from RLlib's, just computed."""
        if self._steps is None:
            return 0.0
        theirs = self._steps.torchs_gradient()
        if not np.isfinite(theirs).all():
            return 0.0  # nothing can be compared, and the loop says what is wrong
        ours = self._steps.gradient(rows, self._numbers())
        difference = float(np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) + 1e-12))
        return difference if np.isfinite(difference) else np.inf

    def _check(self, batch: Batch, order: NDArray[np.int64]) -> None:
        """Compares compiled gradients with RLlib's; where they are wrong on all of some minibatches, RLlib takes over.

        One that differs alone is a step of the ReLU or of the clip, on which rounding put it on either side.
        """
        if self._steps is None:
            return
        differences = []
        for picked in order[np.linspace(0, len(order) - 1, _CHECKED).astype(int)]:
            self._gradients(rows_of(batch, picked))
            differences.append(self._differs_by(rows_of(batch, picked)))
        if min(differences) > _TOLERANCE:
            self._steps, self._is_broken = None, True
            self._how = f"RLlib's (compiled ones differ by {min(differences):.2g} of their norm)"
            _logger.error("gradients are %s from now on", self._how)

    def _log(self, loss: torch.Tensor, env_steps: int, order: NDArray[np.int64]) -> None:
        """What RLlib logs of each minibatch, once for all."""
        log = self.metrics.log_value
        log((DEFAULT_MODULE_ID, self.TOTAL_LOSS_KEY), loss, window=1)
        log((DEFAULT_MODULE_ID, COMPILED), int(self._steps is not None), window=1)
        log((DEFAULT_MODULE_ID, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
        log((DEFAULT_MODULE_ID, MODULE_TRAIN_BATCH_SIZE_MEAN), order.shape[1], reduce="mean")
        for module in (DEFAULT_MODULE_ID, ALL_MODULES):
            log((module, NUM_MODULE_STEPS_TRAINED), order.size, reduce="sum")
            lifetime = (module, NUM_MODULE_STEPS_TRAINED_LIFETIME)
            log(lifetime, order.size, reduce="lifetime_sum", with_throughput=True)
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED), env_steps, reduce="sum", with_throughput=True)
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), env_steps, reduce="lifetime_sum", with_throughput=True)


def _minibatches(rows: int, size: int | None, epochs: int, *, is_shuffled: bool) -> NDArray[np.int64]:
    """(M, size) rows of each minibatch: passes one after the other, the last filled up from its own beginning."""
    size = min(size or rows, rows)
    # From PyTorch's generator, whose state checkpoints keep; NumPy's own is at times seeded by environments.
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    passes = [rng.permutation(rows) if is_shuffled else np.arange(rows) for _ in range(epochs)]
    order = np.concatenate(passes)
    missing = -len(order) % size
    return np.concatenate([order, passes[-1][:missing]]).reshape(-1, size)
