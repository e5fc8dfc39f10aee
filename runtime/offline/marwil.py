"""MARWIL with d3rlpy's networks: imitates a log's actions, and those with a higher advantage more.

d3rlpy does not have it. Its imitators learn the policy; a value function beside them learns the returns of the log.

Source: Wang et al. 2018, Exponentially weighted imitation learning for batched historical data, algorithm 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from d3rlpy.algos.qlearning.base import QLearningAlgoBase, QLearningAlgoImplBase
from d3rlpy.algos.qlearning.torch.bc_impl import BCBaseModules
from d3rlpy.base import LearnableConfig
from d3rlpy.constants import ActionSpace
from d3rlpy.models.builders import create_categorical_policy, create_deterministic_policy, create_value_function
from d3rlpy.models.encoders import EncoderFactory, make_encoder_field
from d3rlpy.models.torch import CategoricalPolicy, DeterministicPolicy, ValueFunction
from d3rlpy.optimizers.optimizers import OptimizerFactory, make_optimizer_field
from d3rlpy.torch_utility import TorchMiniBatch
from torch.nn import functional

from runtime.offline.data.log import Integers, Singles
from runtime.offline.data.transitions import UNKNOWN, Transitions

_SCALE_RATE = 0.01  # of the running mean of squared advantages
_LINEAR_FROM = 20.0  # weights grow linearly from here on, where Peng et al. 2019 (arXiv 1910.00177) clip them


@dataclasses.dataclass(frozen=True)
class ReturnsToGo:
    """Each transition's rewards until a later state: its episode's end, the last one in the log, or the next one.

    Attributes:
        returns: (N,) discounted sum of the rewards.
        next_rows: (N,) row of the state after these rewards; TERMINAL, or UNKNOWN of a transition that has none.
        steps: (N,) number of the rewards.
    """

    returns: Singles
    next_rows: Integers
    steps: Integers

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the returns; a deviation of 1 where all are equal."""
        mean = float(self.returns.mean(dtype=np.float64))
        std = float(self.returns.std(dtype=np.float64))
        return mean, std if std > 1e-6 * abs(mean) else 1.0

    @classmethod
    def until_next_state(cls, data: Transitions) -> ReturnsToGo:
        """Takes the rewards of single steps."""
        return cls(data.rewards, data.next_rows, np.ones(len(data), np.int64))

    @classmethod
    def until_end(cls, data: Transitions, gamma: float) -> ReturnsToGo:
        """Sums the rewards of whole episodes.

        Args:
            data: Logged transitions.
            gamma: Discount per step.
        """
        returns = data.rewards.astype(np.float64)
        next_rows = data.next_rows.copy()
        steps = np.ones(len(data), np.int64)
        longest_first = np.argsort(-data.lengths, kind="stable")
        lasts = (data.starts + data.lengths - 1)[longest_first]
        # Episodes that are longer than 1, 2, … steps, so that the loop touches each transition once.
        counts = len(lasts) - np.cumsum(np.bincount(data.lengths))[1:]
        for distance, count in enumerate(counts[:-1].tolist(), start=1):
            rows = lasts[:count] - distance
            # An episode whose last step leads to an unknown state is summed up to the state before that step.
            rows = rows[next_rows[rows + 1] != UNKNOWN]
            returns[rows] += gamma * returns[rows + 1]
            next_rows[rows] = next_rows[rows + 1]
            steps[rows] += steps[rows + 1]
        return cls(returns.astype(np.float32), next_rows, steps)


@dataclasses.dataclass()
class MarwilConfig(LearnableConfig):  # type: ignore[misc]
    """Hyperparameters, in d3rlpy's form.

    Attributes:
        is_discrete: Whether actions are discrete.
        beta: How much an action with a higher advantage is preferred; 0 is behavior cloning.
        value_offset: Mean of the returns in the log, which the value function learns as 0.
        value_scale: Standard deviation of the returns in the log, which the value function learns as 1.
    """

    is_discrete: bool = True
    beta: float = 1.0
    value_offset: float = 0.0
    value_scale: float = 1.0
    learning_rate: float = 3e-4
    # These are dataclass fields that d3rlpy makes.
    optim_factory: OptimizerFactory = make_optimizer_field()  # noqa: RUF009
    encoder_factory: EncoderFactory = make_encoder_field()  # noqa: RUF009

    def create(self, device: Any = False, enable_ddp: bool = False) -> Marwil:
        """Creates the algorithm."""
        return Marwil(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """Returns the name of this algorithm in d3rlpy's files."""
        return "marwil"


class Marwil(QLearningAlgoBase[QLearningAlgoImplBase, MarwilConfig]):  # type: ignore[misc]
    """The algorithm as d3rlpy's loop takes it."""

    def __init__(self, config: MarwilConfig, device: Any, enable_ddp: bool) -> None:
        self._is_discrete = config.is_discrete  # d3rlpy asks for the type of actions before it has the configuration
        super().__init__(config, device, enable_ddp)

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Creates the networks and their optimizer."""
        config = self._config
        create_policy = create_categorical_policy if config.is_discrete else create_deterministic_policy
        imitator = create_policy(
            observation_shape, action_size, config.encoder_factory, device=self._device, enable_ddp=False
        )
        value = create_value_function(observation_shape, config.encoder_factory, device=self._device, enable_ddp=False)
        value.register_buffer("squared_advantage", torch.zeros(()))  # 0 before the first minibatch
        both = torch.nn.ModuleList([imitator, value])
        optim = config.optim_factory.create(both.named_modules(), lr=config.learning_rate, compiled=False)
        self._impl = _MarwilImpl(
            observation_shape=observation_shape,
            action_size=action_size,
            modules=_Modules(optim=optim, imitator=imitator, value=value),
            config=config,
            device=self._device,
        )

    def get_action_type(self) -> ActionSpace:
        """Returns whether actions are discrete."""
        return ActionSpace.DISCRETE if self._is_discrete else ActionSpace.CONTINUOUS


@dataclasses.dataclass(frozen=True)
class _Modules(BCBaseModules):  # type: ignore[misc]
    imitator: CategoricalPolicy | DeterministicPolicy
    value: ValueFunction


class _MarwilImpl(QLearningAlgoImplBase):  # type: ignore[misc]
    def __init__(self, *, config: MarwilConfig, **others: Any) -> None:
        super().__init__(**others)
        self._config = config

    def inner_update(self, batch: TorchMiniBatch, grad_step: int) -> dict[str, float]:
        """Makes one gradient step of the policy and the value function; a batch's rewards are returns to go."""
        modules, config = self._modules, self._config
        modules.optim.zero_grad()
        with torch.no_grad():
            following = self._values(batch.next_observations)
            returns = batch.rewards + config.gamma**batch.intervals * following * (1 - batch.terminals)
            targets = (returns - config.value_offset) / config.value_scale
        values = modules.value(batch.observations)
        value_loss = functional.mse_loss(values, targets)
        policy_loss = (self._weigh((targets - values).detach()) * self._imitation_losses(batch)).mean()
        torch.autograd.backward(policy_loss + value_loss)
        modules.optim.step()
        return {"loss": policy_loss.item(), "value_loss": value_loss.item()}

    def _values(self, observations: torch.Tensor) -> torch.Tensor:
        """Returns (B, 1) values of states, in the log's unit."""
        values: torch.Tensor = self._config.value_offset + self._config.value_scale * self._modules.value(observations)
        return values

    def _weigh(self, advantages: torch.Tensor) -> torch.Tensor:
        """Returns (B, 1) weights: exp(beta A / c), where c is the running root mean square of the advantages A."""
        square = advantages.square().mean()
        mean = self._modules.value.squared_advantage
        mean.copy_(torch.lerp(mean, square, _SCALE_RATE) if mean > 0 else square)
        exponents = self._config.beta * advantages / mean.sqrt().clamp(min=1e-8)
        beyond = (exponents - np.log(_LINEAR_FROM)).clamp(min=0)
        weights: torch.Tensor = torch.exp(exponents - beyond) * (1 + beyond)
        return weights

    def _imitation_losses(self, batch: TorchMiniBatch) -> torch.Tensor:
        """Returns (B, 1) negative log-likelihoods, or squared errors of continuous actions."""
        output = self._modules.imitator(batch.observations)
        if self._config.is_discrete:
            return functional.cross_entropy(output.logits, batch.actions[:, 0].long(), reduction="none")[:, None]
        return functional.mse_loss(output.squashed_mu, batch.actions, reduction="none").mean(dim=1, keepdim=True)

    def inner_predict_best_action(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B,) actions, or (B, A) continuous ones in [-1, 1]."""
        output = self._modules.imitator(x)
        best: torch.Tensor = output.logits.argmax(dim=1) if self._config.is_discrete else output.squashed_mu
        return best

    def inner_sample_action(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the best actions, as d3rlpy's behavior cloning does."""
        return self.inner_predict_best_action(x)

    def inner_predict_value(self, x: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Returns (B,) values of states, whatever the action: there is no Q function."""
        return self._values(x)[:, 0]
