"""A network's values, gradients and steps of Adam by the kernels, between PyTorch's own tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.ppo.compiled.descent_kernels import UPDATE, descend, gradient_of, step
from runtime.ppo.compiled.flat_network import NotCoveredError, flatten
from runtime.ppo.compiled.network_kernels import values_of
from runtime.ppo.compiled.warm import compile_learning

# Columns by name: observations (B, …), actions (B, A), logp (B,), inputs (B, L), gains (B,), targets (B,).
Batch = dict[str, NDArray[np.float32]]
# As the kernels take them beside the observations.
_COLUMNS = ("actions", "logp", "inputs", "gains", "targets")


class CompiledSteps:
    """The kernels on one module and its optimiser, both of which keep their numbers.

    Args:
        module: RLlib's.
        optimizer: RLlib's Adam.

    Raises:
        NotCoveredError: The kernels cannot do what one of them asks for.
    """

    def __init__(self, module: Any, optimizer: torch.optim.Optimizer) -> None:
        _require_plain_adam(optimizer)
        self._flat, self._optimizer = flatten(module, module.action_space), optimizer
        compile_learning(self._flat)

    def values(self, parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(B,) of observations, in parts of at most the first's rows."""
        flat, scratch, parameters = self._flat, self._flat.scratch(len(parts[0])), self._flat.gather()
        found = [np.empty(len(part), np.float32) for part in parts]
        for part, values in zip(parts, found, strict=True):
            values_of(flat.table[0], parameters, part, scratch, values)
        return np.concatenate(found)

    def descend(self, batch: Batch, order: NDArray[np.int64], numbers: dict[str, float]) -> None:
        """A step of Adam on each of (M, minibatch) rows."""
        with self._adam(numbers) as (update, parameters, first, second):
            columns = _columns(batch)
            descend(self._flat.table, update, parameters, first, second, batch["observations"], columns, order)

    def step(self, numbers: dict[str, float]) -> None:
        """A step of Adam on the gradient that PyTorch left in the parameters, clipped already."""
        with self._adam({**numbers, "grad_clip": 0.0}) as (update, parameters, first, second):
            step(update, parameters, self.torchs_gradient(), first, second)

    @contextlib.contextmanager
    def _adam(self, numbers: dict[str, float]) -> Iterator[tuple[NDArray[Any], ...]]:
        """(1,) of `UPDATE`, then parameters and Adam's two means (P,); written back, as if torch had changed them."""
        flat, state = self._flat, self._optimizer.state
        for parameter in flat.parameters:
            if not state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                state[parameter].update(step=torch.tensor(0.0), **zeros)
        firsts, seconds = ([state[p][name] for p in flat.parameters] for name in ("exp_avg", "exp_avg_sq"))
        parameters, first, second = flat.gather(), flat.gather(firsts), flat.gather(seconds)
        update = self._update(numbers)
        update["steps"] = float(state[flat.parameters[0]]["step"])
        yield update, parameters, first, second
        flat.scatter(parameters)
        flat.scatter(first, firsts)
        flat.scatter(second, seconds)
        for parameter in flat.parameters:
            state[parameter]["step"].fill_(float(update["steps"][0]))

    def gradient(self, rows: Batch, numbers: dict[str, float]) -> NDArray[np.float32]:
        """(P,) of a minibatch's loss."""
        flat, size, parameters = self._flat, len(rows["logp"]), self._flat.gather()
        found, scratch, deltas = np.zeros_like(parameters), flat.scratch(size), flat.scratch(size)
        update = self._update(numbers)[0]
        gradient_of(flat.table[0], update, parameters, rows["observations"], _columns(rows), scratch, deltas, found)
        return found

    def torchs_gradient(self) -> NDArray[np.float32]:
        """(P,) as PyTorch left it in the parameters."""
        return self._flat.gather([torch.zeros_like(p) if p.grad is None else p.grad for p in self._flat.parameters])

    def _update(self, numbers: dict[str, float]) -> NDArray[Any]:
        found, group = np.zeros(1, UPDATE), self._optimizer.param_groups[0]
        adam = {
            "lr": float(group["lr"]),
            "epsilon": group["eps"],
            "beta1": group["betas"][0],
            "beta2": group["betas"][1],
        }
        for name, number in (numbers | adam).items():
            found[name] = number
        return found


def rows_of(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """A minibatch."""
    return {name: column[rows] for name, column in batch.items()}


def _columns(batch: Batch) -> tuple[NDArray[np.float32], ...]:
    return tuple(batch[name] for name in _COLUMNS)


def _require_plain_adam(optimizer: torch.optim.Optimizer) -> None:
    groups = optimizer.param_groups
    if type(optimizer) is not torch.optim.Adam or len(groups) != 1:
        raise NotCoveredError("the optimiser is not one Adam")
    if groups[0]["weight_decay"] or groups[0]["amsgrad"] or groups[0]["maximize"]:
        raise NotCoveredError("Adam has settings of its own")


def keep_dynamo_out() -> None:
    """Spares a start the second in which PyTorch imports its compiler, of which optimisers only ask to be left alone.

    PyTorch 2.13: a method of theirs asks at its first call, unless it has its answer.
    """
    for method in vars(torch.optim.Optimizer).values():
        code = getattr(method, "__code__", None)
        if code is not None and code.co_filename == torch._compile.__file__:
            method.__wrapped__.__dynamo_disable = method.__wrapped__
