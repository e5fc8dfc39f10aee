"""RLlib's PPO learner with compiled gradient steps, checked against its own.

The last minibatch of every update goes through RLlib's loss and optimiser: its metrics are RLlib's, and its gradient is
compared with the compiled one. Where they differ, RLlib's learner does all of it from then on.
"""

from __future__ import annotations

import logging
from typing import Any

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

from runtime.ppo.descent_kernels import UPDATE, descend, gradient_of
from runtime.ppo.flat import FlatNetwork, NotCoveredError, flatten
from runtime.ppo.network_kernels import CATEGORICAL, values_of
from runtime.ppo.rollout import Rollout
from runtime.ppo.sampling_kernels import advantages
from runtime.ppo.warm import compile_learning

# Metric of a learner: 1 while compiled gradients are used, 0 after they were found wrong.
COMPILED = "compiled_gradients"
_TOLERANCE = 1e-3  # of the gradient's norm; float32 leaves 1e-6
_VALUED_AT_ONCE = 1024
# Of a batch, as the kernels take them beside the observations.
_COLUMNS = ("actions", "logp", "inputs", "gains", "targets")
_logger = logging.getLogger(__name__)


class FastLearner(PPOTorchLearner):  # type: ignore[misc]  # ray is not typed for strict mode
    """Learns from `Rollout`s; checkpoints, schedules, metrics and weight sync stay RLlib's."""

    def build(self) -> None:
        """Called by RLlib."""
        super().build()
        self._flat: FlatNetwork | None = None
        self._why_stock: str | None = None
        self._is_first = True
        try:
            flat = flatten(self._net, self._net.action_space)
            _require_plain_adam(self.get_optimizer(DEFAULT_MODULE_ID))
            compile_learning(flat)
            self._flat = flat
        except NotCoveredError as error:
            self._why_stock = str(error)

    @property
    def why_stock(self) -> str | None:
        """Why gradients are RLlib's own, or None where they are compiled."""
        return self._why_stock

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
        if self._why_stock is None:
            return self._update_compiled(rollouts, **kwargs)
        module = self._net
        episodes = [
            episode for one in rollouts for episode in one.to_episodes(module.observation_space, module.action_space)
        ]
        self.metrics.log_value((DEFAULT_MODULE_ID, COMPILED), 0, window=1)
        return super().update(*args, training_data=TrainingData(episodes=episodes), **kwargs)

    def _update_compiled(
        self,
        rollouts: list[Rollout],
        *,
        timesteps: dict[str, Any],
        num_epochs: int,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = True,
        **kwargs: Any,
    ) -> Any:
        flat = self._flat
        assert flat is not None
        batch = self._prepare(flat, rollouts)
        order = _minibatches(len(batch["logp"]), minibatch_size, num_epochs, is_shuffled=shuffle_batch_per_epoch)
        update = self._numbers()
        if self._is_first and not self._is_right_before_use(flat, update, _rows(batch, order[0])):
            given = {"timesteps": timesteps, "num_epochs": num_epochs, "minibatch_size": minibatch_size}
            data = TrainingData(episodes=rollouts)
            return self.update(training_data=data, shuffle_batch_per_epoch=shuffle_batch_per_epoch, **given, **kwargs)
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        self._descend(flat, update, batch, order[:-1])
        last = _rows(batch, order[-1])
        loss = self._gradients(last)
        self._compare(flat, update, last)  # what differs, is not used from the next update on
        self.apply_gradients(self.postprocess_gradients(self._found))
        self._log(loss, len(batch["logp"]) * num_epochs, order)
        self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce()

    def _prepare(self, flat: FlatNetwork, rollouts: list[Rollout]) -> dict[str, NDArray[np.float32]]:
        """One batch of all rollouts, with advantages (standardised over all of them) and value targets."""
        parameters = flat.gather()
        found: dict[str, list[NDArray[np.float32]]] = {}
        for one in rollouts:
            gains, targets = self._advantages(flat, parameters, one)
            columns = {"observations": one.observations, "actions": one.actions, "logp": one.logp, "inputs": one.inputs}
            for name, column in {**columns, "gains": gains, "targets": targets}.items():
                found.setdefault(name, []).append(column.reshape(-1, *column.shape[2:]))
        batch = {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in found.items()}
        gains = batch["gains"]
        batch["gains"] = ((gains - gains.mean()) / max(1e-4, float(gains.std()))).astype(np.float32)
        return batch

    def _advantages(
        self, flat: FlatNetwork, parameters: NDArray[np.float32], rollout: Rollout
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(T, N) advantages and value targets."""
        size = rollout.observations.shape[-1]
        values = self._values(flat, parameters, rollout.observations.reshape(-1, size)).reshape(rollout.rewards.shape)
        last = self._values(flat, parameters, rollout.following)
        following = np.zeros_like(rollout.rewards)
        if rollout.truncated.any():
            cut = np.ascontiguousarray(rollout.last_observations[rollout.truncated])
            following[rollout.truncated] = self._values(flat, parameters, cut)
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

    @staticmethod
    def _values(
        flat: FlatNetwork, parameters: NDArray[np.float32], observations: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        found, scratch = np.empty(len(observations), np.float32), flat.scratch(_VALUED_AT_ONCE)
        for begin in range(0, len(observations), _VALUED_AT_ONCE):
            part = observations[begin : begin + _VALUED_AT_ONCE]
            values_of(flat.table[0], parameters, part, scratch, found[begin : begin + _VALUED_AT_ONCE])
        return found

    def _numbers(self) -> NDArray[Any]:
        """(1,) of `UPDATE`, as schedules and KL penalty have them now."""
        config, group = self.config, self.get_optimizer(DEFAULT_MODULE_ID).param_groups[0]
        entropy = self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()
        found = np.zeros(1, UPDATE)
        found["clip"], found["value_clip"] = config.clip_param, config.vf_clip_param
        found["value_weight"], found["entropy_weight"] = config.vf_loss_coeff, float(entropy)
        if config.use_kl_loss:
            found["kl_weight"] = float(self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID])
        found["grad_clip"] = config.grad_clip or 0.0
        found["lr"], found["epsilon"] = float(group["lr"]), group["eps"]
        found["beta1"], found["beta2"] = group["betas"]
        found["skips_nan"] = bool(config.torch_skip_nan_gradients)
        return found

    def _descend(
        self, flat: FlatNetwork, update: NDArray[Any], batch: dict[str, NDArray[np.float32]], order: NDArray[np.int64]
    ) -> None:
        """Adam's steps on all minibatches of `order`, and its state in the optimiser, as if torch had made them."""
        state = self.get_optimizer(DEFAULT_MODULE_ID).state
        for parameter in flat.parameters:
            if not state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                state[parameter].update(step=torch.tensor(0.0), **zeros)
        firsts, seconds = ([state[p][name] for p in flat.parameters] for name in ("exp_avg", "exp_avg_sq"))
        parameters, first, second = flat.gather(), flat.gather(firsts), flat.gather(seconds)
        update["steps"] = float(state[flat.parameters[0]]["step"])
        columns = tuple(batch[name] for name in _COLUMNS)
        descend(flat.table, update, parameters, first, second, batch["observations"], columns, order)
        flat.scatter(parameters)
        flat.scatter(first, firsts)
        flat.scatter(second, seconds)
        for parameter in flat.parameters:
            state[parameter]["step"].fill_(float(update["steps"][0]))

    def _gradients(self, rows: dict[str, NDArray[np.float32]]) -> torch.Tensor:
        """RLlib's loss of a minibatch; its gradients are left in `_found`."""
        batch = {DEFAULT_MODULE_ID: self._as_rllib(rows)}
        losses = self.compute_losses(fwd_out=self.module.forward_train(batch), batch=batch)
        self._found = self.compute_gradients(losses)
        loss: torch.Tensor = losses[DEFAULT_MODULE_ID]
        return loss

    def _as_rllib(self, rows: dict[str, NDArray[np.float32]]) -> dict[str, torch.Tensor]:
        columns = {name: torch.from_numpy(column) for name, column in rows.items()}
        assert self._flat is not None
        is_choice = self._flat.kind == CATEGORICAL
        return {
            Columns.OBS: columns["observations"],
            Columns.ACTIONS: columns["actions"][:, 0].long() if is_choice else columns["actions"],
            Columns.ACTION_LOGP: columns["logp"],
            Columns.ACTION_DIST_INPUTS: columns["inputs"],
            Postprocessing.ADVANTAGES: columns["gains"],
            Postprocessing.VALUE_TARGETS: columns["targets"],
        }

    def _is_right_before_use(
        self, flat: FlatNetwork, update: NDArray[Any], rows: dict[str, NDArray[np.float32]]
    ) -> bool:
        self._gradients(rows)
        self._compare(flat, update, rows)
        self._is_first = False
        return self._why_stock is None

    def _compare(self, flat: FlatNetwork, update: NDArray[Any], rows: dict[str, NDArray[np.float32]]) -> None:
        """Compares compiled gradients of a minibatch with RLlib's, just computed; if they differ, RLlib takes over."""
        zeros = [torch.zeros_like(p) if p.grad is None else p.grad for p in flat.parameters]
        theirs, ours = flat.gather(zeros), np.zeros(sum(p.numel() for p in flat.parameters), np.float32)
        size = len(rows["logp"])
        columns = tuple(rows[name] for name in _COLUMNS)
        scratch, deltas = flat.scratch(size), flat.scratch(size)
        gradient_of(flat.table[0], update[0], flat.gather(), rows["observations"], columns, scratch, deltas, ours)
        difference = float(np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) + 1e-12))
        if not difference <= _TOLERANCE:  # NaN is a difference too
            self._why_stock = f"compiled gradients differ from RLlib's by {difference:.2g} of their norm"
            _logger.error("%s: RLlib's own are used from now on", self._why_stock)

    def _log(self, loss: torch.Tensor, env_steps: int, order: NDArray[np.int64]) -> None:
        """What RLlib logs of each minibatch, once for all."""
        log = self.metrics.log_value
        log((DEFAULT_MODULE_ID, self.TOTAL_LOSS_KEY), loss, window=1)
        log((DEFAULT_MODULE_ID, COMPILED), int(self._why_stock is None), window=1)
        log((DEFAULT_MODULE_ID, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
        log((DEFAULT_MODULE_ID, MODULE_TRAIN_BATCH_SIZE_MEAN), order.shape[1], reduce="mean")
        for module in (DEFAULT_MODULE_ID, ALL_MODULES):
            log((module, NUM_MODULE_STEPS_TRAINED), order.size, reduce="sum")
            lifetime = (module, NUM_MODULE_STEPS_TRAINED_LIFETIME)
            log(lifetime, order.size, reduce="lifetime_sum", with_throughput=True)
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED), env_steps, reduce="sum", with_throughput=True)
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), env_steps, reduce="lifetime_sum", with_throughput=True)


def _rows(batch: dict[str, NDArray[np.float32]], rows: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    return {name: column[rows] for name, column in batch.items()}


def _minibatches(rows: int, size: int | None, epochs: int, *, is_shuffled: bool) -> NDArray[np.int64]:
    """(M, size) rows of each minibatch: passes one after the other, the last filled up from its own beginning."""
    size = min(size or rows, rows)
    # From the global generator, whose state checkpoints keep.
    rng = np.random.default_rng(np.random.randint(2**31))
    passes = [rng.permutation(rows) if is_shuffled else np.arange(rows) for _ in range(epochs)]
    order = np.concatenate(passes)
    missing = -len(order) % size
    return np.concatenate([order, passes[-1][:missing]]).reshape(-1, size)


def _require_plain_adam(optimizer: torch.optim.Optimizer) -> None:
    groups = optimizer.param_groups
    if type(optimizer) is not torch.optim.Adam or len(groups) != 1:
        raise NotCoveredError("the optimiser is not one Adam")
    if groups[0]["weight_decay"] or groups[0]["amsgrad"] or groups[0]["maximize"]:
        raise NotCoveredError("Adam has settings of its own")
