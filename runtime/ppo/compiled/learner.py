"""RLlib's PPO learner on arrays: no connectors, no copies of minibatches, compiled gradients where that is possible.

The algorithm itself is in `ppo_update.py`. The last minibatch of every update goes through RLlib's loss: its metrics
are RLlib's, and its gradient is compared with the compiled one. Where they differ, RLlib's learner takes over for good.
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
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.schedules.scheduler import Scheduler

from runtime.ppo.compiled.flat_network import UnsupportedError
from runtime.ppo.compiled.ppo_update import TrainBatch, draw_minibatches, make_train_batch
from runtime.ppo.compiled.return_scale import ReturnScale
from runtime.ppo.compiled.torch_interop import CompiledModule, skip_dynamo_import
from runtime.ppo.rollout import Rollout

# Metric of a learner: 1 while compiled gradients are used, else 0.
COMPILED = "compiled_gradients"
_TOLERANCE = 1e-3  # relative to the gradient's norm; float32 rounding leaves 1e-6
_COMPARISONS = 3  # all of them must differ for the kernels to be wrong
_MOST_COMPARED_ROWS = 64
_VALUES_AT_ONCE = 1024  # observations; bounds the memory of activations
# Of `learner_config_dict`: whether to scale rewards, and the threads that compute gradients.
NORMALIZE_REWARDS = "normalize_rewards"
THREADS = "threads"
_RETURN_SCALE = "return_scale"  # of a checkpoint's state
_logger = logging.getLogger(__name__)


class FastLearner(PPOTorchLearner):  # type: ignore[misc]  # ray is not typed for strict mode
    """Learns from `Rollout`s; checkpoints, schedules, metrics and weight sync stay RLlib's."""

    def build(self) -> None:
        """Builds the module and its optimizer; called by RLlib."""
        skip_dynamo_import()
        super().build()
        self._compiled: CompiledModule | None = None
        self._is_checked = self._uses_rllib = False
        self._how = "compiled"
        schedule = self._net.model_config.get("log_std_schedule")
        self._log_std = Scheduler(schedule) if schedule is not None else None
        self._return_scale = ReturnScale() if self.config.learner_config_dict[NORMALIZE_REWARDS] else None
        try:
            threads = self.config.learner_config_dict[THREADS]
            self._compiled = CompiledModule(self._net, self.get_optimizer(DEFAULT_MODULE_ID), threads=threads)
        except UnsupportedError as error:
            self._how = f"PyTorch's ({error})"

    @property
    def how(self) -> str:
        """Says by what gradients are computed, and why they are not compiled."""
        return self._how

    @property
    def _net(self) -> Any:
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def get_state(self, *args: Any, **kwargs: Any) -> Any:
        """Returns RLlib's state and the running scale of rewards; called for each checkpoint."""
        state = super().get_state(*args, **kwargs)
        if self._return_scale is not None:
            state[_RETURN_SCALE] = self._return_scale.state()
        return state

    def set_state(self, state: Any) -> None:
        """Restores what `get_state` returned."""
        super().set_state(state)
        if self._return_scale is not None and _RETURN_SCALE in state:
            self._return_scale = ReturnScale(*state[_RETURN_SCALE])

    def update(self, *args: Any, training_data: TrainingData | None = None, **kwargs: Any) -> Any:
        """Learns from the rollouts of an iteration, in `num_epochs` passes; called by RLlib."""
        if training_data is not None:
            training_data.validate()
            training_data.solve_refs()
        rollouts = training_data.episodes if training_data is not None else None
        if not rollouts or not isinstance(rollouts[0], Rollout):
            return super().update(*args, training_data=training_data, **kwargs)
        if self._return_scale is not None:
            rollouts = self._return_scale.scale(rollouts, gamma=float(self.config.gamma))
        if not self._uses_rllib:
            return self._update_on_arrays(rollouts, **kwargs)
        spaces = self._net.observation_space, self._net.action_space
        episodes = [episode for rollout in rollouts for episode in rollout.to_episodes(*spaces)]
        self.metrics.log_value((DEFAULT_MODULE_ID, COMPILED), 0, window=1)
        results = super().update(*args, training_data=TrainingData(episodes=episodes), **kwargs)
        self._set_log_std(kwargs["timesteps"][NUM_ENV_STEPS_SAMPLED_LIFETIME])
        return results

    def _update_on_arrays(
        self,
        rollouts: list[Rollout],
        *,
        timesteps: dict[str, Any],
        num_epochs: int,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = True,
        **kwargs: Any,
    ) -> Any:
        config = self.config
        batch = make_train_batch(
            rollouts, self._estimate_values, gamma=float(config.gamma), lambda_=float(config.lambda_)
        )
        env_steps = len(batch.log_probs)
        minibatches = draw_minibatches(env_steps, minibatch_size, num_epochs, is_shuffled=shuffle_batch_per_epoch)
        if not self._is_checked:
            self._is_checked = True
            self._compare_gradients(batch, minibatches)
            if self._uses_rllib:
                settings = {"timesteps": timesteps, "num_epochs": num_epochs, "minibatch_size": minibatch_size}
                settings["shuffle_batch_per_epoch"] = shuffle_batch_per_epoch
                return self.update(training_data=TrainingData(episodes=rollouts), **settings, **kwargs)
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        if self._compiled is not None:
            self._compiled.update(batch, minibatches[:-1], self._update_settings())
        else:
            for rows in minibatches[:-1]:
                self._compute_torch_gradients(batch.rows(rows))
                self._apply_torch_gradients()
        last = batch.rows(minibatches[-1])
        loss = self._compute_torch_gradients(last)
        if self._gradient_difference(last) > _TOLERANCE:
            self._compare_gradients(batch, minibatches)  # wrong kernels are not used from the next update on
            loss = self._compute_torch_gradients(last)
        self._apply_torch_gradients()
        self._log_update(loss, env_steps * num_epochs, minibatches)
        self.after_gradient_based_update(timesteps=timesteps)
        self._set_log_std(timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        return self.metrics.reduce()

    def compute_gradients(self, *args: Any, **kwargs: Any) -> Any:
        """Computes gradients by PyTorch, of which that of a scheduled log standard deviation is 0; called by RLlib."""
        gradients = super().compute_gradients(*args, **kwargs)
        if self._log_std is not None:
            gradients[self.get_param_ref(self._net.pi.log_std)].zero_()
        return gradients

    def _set_log_std(self, env_steps: int) -> None:
        """Sets the log standard deviation that the schedule has after so many steps."""
        if self._log_std is not None:
            value = self._log_std.update(timestep=env_steps)
            with torch.no_grad():
                self._net.pi.log_std.fill_(float(value))

    def _estimate_values(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns (B,) value estimates of (B, …) observations."""
        begins = range(0, len(observations), _VALUES_AT_ONCE)
        parts = [observations[begin : begin + _VALUES_AT_ONCE] for begin in begins]
        if self._compiled is not None:
            return self._compiled.values(parts)
        with torch.inference_mode():
            estimates = [self._net.compute_values({Columns.OBS: torch.from_numpy(part)}) for part in parts]
        values: NDArray[np.float32] = torch.cat(estimates).numpy()
        return values

    def _update_settings(self) -> dict[str, float]:
        """`UPDATE_SETTINGS` but for Adam's, with schedules and the adapted KL coefficient as they are now."""
        config = self.config
        entropy_coeff = self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()
        kl_coeff = self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID] if config.use_kl_loss else 0.0
        return {
            "clip_param": config.clip_param,
            "vf_clip_param": config.vf_clip_param,
            "vf_loss_coeff": config.vf_loss_coeff,
            "entropy_coeff": float(entropy_coeff),
            "kl_coeff": float(kl_coeff),
            "grad_clip": config.grad_clip or 0.0,
            "torch_skip_nan_gradients": float(bool(config.torch_skip_nan_gradients)),
        }

    def _compute_torch_gradients(self, minibatch: TrainBatch) -> torch.Tensor:
        """Computes RLlib's loss of a minibatch and keeps its gradients in `_torch_gradients`."""
        columns = {name: torch.from_numpy(column) for name, column in minibatch._asdict().items()}
        space = self._net.action_space
        actions = columns["actions"]
        if not isinstance(space, gymnasium.spaces.Box):
            actions = actions.long()
        batch = {
            DEFAULT_MODULE_ID: {
                Columns.OBS: columns["observations"],
                Columns.ACTIONS: actions[:, 0] if isinstance(space, gymnasium.spaces.Discrete) else actions,
                Columns.ACTION_LOGP: columns["log_probs"],
                Columns.ACTION_DIST_INPUTS: columns["action_distribution_inputs"],
                Postprocessing.ADVANTAGES: columns["advantages"],
                Postprocessing.VALUE_TARGETS: columns["value_targets"],
            }
        }
        losses = self.compute_losses(fwd_out=self.module.forward_train(batch), batch=batch)
        self._torch_gradients = self.compute_gradients(losses)
        loss: torch.Tensor = losses[DEFAULT_MODULE_ID]
        return loss

    def _apply_torch_gradients(self) -> None:
        """Takes a step of Adam on `_torch_gradients`, clipped by RLlib."""
        clipped = self.postprocess_gradients(self._torch_gradients)
        if self._compiled is None:
            self.apply_gradients(clipped)
            return
        for name, gradient in clipped.items():
            self._params[name].grad = gradient
        self._compiled.apply_torch_gradient(self._update_settings())

    def _gradient_difference(self, minibatch: TrainBatch) -> float:
        """Computes the distance of the compiled gradient from RLlib's latest, relative to the norm of RLlib's."""
        if self._compiled is None:
            return 0.0
        expected = self._compiled.torch_gradient()
        if not np.isfinite(expected).all():
            return 0.0  # nothing to compare with; the training loop reports losses that are NaN
        gradient = self._compiled.gradient(minibatch, self._update_settings())
        difference = float(np.linalg.norm(gradient - expected) / (np.linalg.norm(expected) + 1e-12))
        return difference if np.isfinite(difference) else np.inf

    def _compare_gradients(self, batch: TrainBatch, minibatches: NDArray[np.int64]) -> None:
        """Compares compiled gradients with RLlib's on some rows; where all differ, RLlib takes over.

        Some may differ by a row that rounding puts on the other side of a ReLU's or the clip's edge. So each row is in
        one comparison only, and each comparison has few.
        """
        if self._compiled is None:
            return
        size = max(1, min(_MOST_COMPARED_ROWS, len(batch.log_probs) // _COMPARISONS))
        order = minibatches.reshape(-1)  # begins with each row once
        differences = []
        for begin in range(0, min(_COMPARISONS * size, len(batch.log_probs)), size):
            rows = batch.rows(order[begin : begin + size])
            self._compute_torch_gradients(rows)
            differences.append(self._gradient_difference(rows))
        if min(differences) > _TOLERANCE:
            self._compiled = None
            self._uses_rllib = True
            self._how = f"RLlib's (compiled ones differ by {min(differences):.2g} of their norm)"
            _logger.error("gradients are %s from now on", self._how)

    def _log_update(self, loss: torch.Tensor, env_steps: int, minibatches: NDArray[np.int64]) -> None:
        """Logs once for all minibatches what RLlib logs for each."""
        log = self.metrics.log_value
        log((DEFAULT_MODULE_ID, self.TOTAL_LOSS_KEY), loss, window=1)
        log((DEFAULT_MODULE_ID, COMPILED), int(self._compiled is not None), window=1)
        log((DEFAULT_MODULE_ID, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
        log((DEFAULT_MODULE_ID, MODULE_TRAIN_BATCH_SIZE_MEAN), minibatches.shape[1], reduce="mean")
        for module in (DEFAULT_MODULE_ID, ALL_MODULES):
            log((module, NUM_MODULE_STEPS_TRAINED), minibatches.size, reduce="sum")
            lifetime = (module, NUM_MODULE_STEPS_TRAINED_LIFETIME)
            log(lifetime, minibatches.size, reduce="lifetime_sum", with_throughput=True)
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED), env_steps, reduce="sum", with_throughput=True)
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), env_steps, reduce="lifetime_sum", with_throughput=True)
