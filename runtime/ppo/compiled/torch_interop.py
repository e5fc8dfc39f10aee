"""Runs the compiled kernels on a PyTorch module and its Adam optimizer, whose tensors stay the ones that count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.ppo.compiled.barrier import HAS_BARRIERS, Barrier
from runtime.ppo.compiled.compile_ahead import compile_learning
from runtime.ppo.compiled.flat_network import UnsupportedError, flatten
from runtime.ppo.compiled.network_kernels import state_values
from runtime.ppo.compiled.ppo_update import (
    UPDATE_SETTINGS,
    TrainBatch,
    apply_one_gradient,
    count_chunks,
    loss_gradient,
    update_on_minibatches,
)


class CompiledModule:
    """A module and its optimizer, with values, gradients and updates computed by the kernels.

    Parameters and Adam's state are copied into flat arrays for each call, and copied back when it changed them.

    Args:
        module: RLlib's policy and value network.
        optimizer: RLlib's optimizer of its parameters.
        threads: Threads that compute gradients; the result does not depend on their number.

    Raises:
        UnsupportedError: The kernels do not support the network or the optimizer.
    """

    def __init__(self, module: Any, optimizer: torch.optim.Optimizer, *, threads: int = 1) -> None:
        _require_plain_adam(optimizer)
        self._threads = threads if HAS_BARRIERS else 1
        # Its own pool: all its threads meet at a barrier, and one that another training occupies would never come.
        self._pool = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="gradients")
        self._flat = flatten(module, module.action_space)
        self._optimizer = optimizer
        compile_learning(self._flat)

    def values(self, parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Returns (B,) value estimates of observations, which come in parts of at most as many rows as the first."""
        flat = self._flat
        parameters = self._flat.gather()
        activations = flat.activations(len(parts[0]))
        estimates = [np.empty(len(part), np.float32) for part in parts]
        for part, values in zip(parts, estimates, strict=True):
            state_values(flat.table[0], parameters, part, activations, values)
        return np.concatenate(estimates)

    def update(self, batch: TrainBatch, minibatches: NDArray[np.int64], settings: dict[str, float]) -> None:
        """Takes a step of Adam on each of (M, size) minibatches.

        Args:
            batch: Batch of the whole iteration.
            minibatches: (M, size) rows of each minibatch.
            settings: Fields of `UPDATE_SETTINGS` except Adam's.
        """
        with self._adam(settings) as (record, parameters, mean, mean_square):
            chunks = count_chunks(minibatches.shape[1])
            threads = min(self._threads, chunks)
            barrier = Barrier(threads) if threads > 1 else None
            address = 0 if barrier is None else barrier.address
            gradients = np.zeros((chunks, len(parameters)), np.float32)
            arrays = self._flat.table, record, parameters, mean, mean_square, batch, minibatches, gradients

            def update(thread: int) -> None:
                update_on_minibatches(*arrays, thread, threads, address)

            others = [self._pool.submit(update, thread) for thread in range(1, threads)]
            update(0)
            for other in others:
                other.result()

    def apply_torch_gradient(self, settings: dict[str, float]) -> None:
        """Takes a step of Adam on the gradient that PyTorch left in the parameters, which is clipped already."""
        with self._adam({**settings, "grad_clip": 0.0}) as (record, parameters, mean, mean_square):
            apply_one_gradient(record, parameters, self.torch_gradient(), mean, mean_square)

    def gradient(self, minibatch: TrainBatch, settings: dict[str, float]) -> NDArray[np.float32]:
        """Returns (P,) gradient of a minibatch's loss."""
        flat = self._flat
        parameters = self._flat.gather()
        rows = len(minibatch.log_probs)
        gradient, activations, d_activations = np.zeros_like(parameters), flat.activations(rows), flat.activations(rows)
        record = self._record(settings)[0]
        loss_gradient(flat.table[0], record, parameters, minibatch, activations, d_activations, gradient)
        return gradient

    def torch_gradient(self) -> NDArray[np.float32]:
        """Returns (P,) gradient that PyTorch left in the parameters."""
        return self._flat.gather([torch.zeros_like(p) if p.grad is None else p.grad for p in self._flat.parameters])

    @contextlib.contextmanager
    def _adam(self, settings: dict[str, float]) -> Iterator[tuple[NDArray[Any], ...]]:
        """(1,) `UPDATE_SETTINGS`, (P,) parameters and Adam's two means; written back into the tensors at the end."""
        flat = self._flat
        state = self._optimizer.state
        for parameter in flat.parameters:
            if not state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                state[parameter].update(step=torch.tensor(0.0), **zeros)
        means = [state[parameter]["exp_avg"] for parameter in flat.parameters]
        mean_squares = [state[parameter]["exp_avg_sq"] for parameter in flat.parameters]
        parameters = flat.gather()
        mean = flat.gather(means)
        mean_square = flat.gather(mean_squares)
        record = self._record(settings)
        record["adam_steps"] = float(state[flat.parameters[0]]["step"])
        yield record, parameters, mean, mean_square
        flat.scatter(parameters)
        flat.scatter(mean, means)
        flat.scatter(mean_square, mean_squares)
        for parameter in flat.parameters:
            state[parameter]["step"].fill_(float(record["adam_steps"][0]))

    def _record(self, settings: dict[str, float]) -> NDArray[Any]:
        """Makes the (1,) record of `UPDATE_SETTINGS`."""
        record = np.zeros(1, UPDATE_SETTINGS)
        group = self._optimizer.param_groups[0]
        adam = {
            "lr": float(group["lr"]),
            "epsilon": group["eps"],
            "beta1": group["betas"][0],
            "beta2": group["betas"][1],
        }
        for name, value in (settings | adam).items():
            record[name] = value
        return record


def _require_plain_adam(optimizer: torch.optim.Optimizer) -> None:
    groups = optimizer.param_groups
    if type(optimizer) is not torch.optim.Adam or len(groups) != 1:
        raise UnsupportedError("the optimizer is not a single Adam")
    if groups[0]["weight_decay"] or groups[0]["amsgrad"] or groups[0]["maximize"]:
        raise UnsupportedError("Adam has weight_decay, amsgrad or maximize set")


def skip_dynamo_import() -> None:
    """Saves the second at start-up in which PyTorch imports its compiler only to exclude optimizers from it.

    PyTorch 2.13: a method of an optimizer imports it at its first call, unless the answer is cached on the method.
    """
    for method in vars(torch.optim.Optimizer).values():
        code = getattr(method, "__code__", None)
        if code is not None and code.co_filename == torch._compile.__file__:
            method.__wrapped__.__dynamo_disable = method.__wrapped__
