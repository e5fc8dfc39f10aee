"""Learns a policy from transitions with d3rlpy's algorithms, in a loop that keeps the processor on the updates.

d3rlpy is imported here, and in marwil.py, which only this file imports: that runs a health check, prints, and changes
torch's settings. Its `fit` picks every transition of every batch in Python; here batches are rows of tensors, and the
update is d3rlpy's own. d3rlpy's Q function for discrete actions has the Huber loss built in, which forgets rare
failures; ours has the squared error.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from runtime.errors import UserError
from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions
from runtime.policies.filter import ObservationFilter
from runtime.policies.network_policy import CLIP, Kind, NetworkPolicy, make_filter
from runtime.policies.spaces import split_masks

# d3rlpy prints a banner on stdout, where metrics belong, and the old gym that it imports warns on stderr.
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    import d3rlpy
    from d3rlpy.models.torch.q_functions.mean_q_function import DiscreteMeanQFunction, DiscreteMeanQFunctionForwarder
    from d3rlpy.torch_utility import TorchMiniBatch

    from runtime.offline.marwil import MarwilConfig, ReturnsToGo

ALGORITHM = "algorithm.pt"
AVERAGED = "averaged.pt"
_DRAWN_AT_ONCE = 512  # batches, or fewer of large states
_GATHERED_NUMBERS = 8_000_000
_AVERAGED_EVERY = 10  # updates: the mean of every tenth costs a tenth, and is as smooth
# The averaging window grows with training: after t updates it is about t / 6 updates, up to the limit in `averaging`.
# Source: Shamir & Zhang 2013, Stochastic gradient descent for non-smooth optimization, polynomial-decay averaging.
_AVERAGING_DECAY = 5
_FORBIDDEN = 30.0  # exp(-30) is 1e-13
_ROWS = 262_144  # that are standardized at a time, in double

# By name: for discrete actions, for continuous ones.
_CONFIGS: dict[str, tuple[Any, Any]] = {
    "BCQ": (d3rlpy.algos.DiscreteBCQConfig, d3rlpy.algos.BCQConfig),
    "DDQN": (d3rlpy.algos.DoubleDQNConfig, None),
    "CQL": (d3rlpy.algos.DiscreteCQLConfig, d3rlpy.algos.CQLConfig),
    "TD3+BC": (None, d3rlpy.algos.TD3PlusBCConfig),
    "IQL": (None, d3rlpy.algos.IQLConfig),
    "BC": (d3rlpy.algos.DiscreteBCConfig, d3rlpy.algos.BCConfig),
    "MARWIL": (MarwilConfig, MarwilConfig),
}
_IMITATORS = ("BC", "MARWIL")  # their policy is one network: its logits take the place of values, or it is the action


class _SquaredErrorForwarder(DiscreteMeanQFunctionForwarder):  # type: ignore[misc]
    """The mean Q function's, with its Huber(1) loss replaced by the squared error."""

    def compute_error(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        target: torch.Tensor,
        terminals: torch.Tensor,
        gamma: float | torch.Tensor = 0.99,
        reduction: str = "mean",
    ) -> torch.Tensor:
        value = self._q_func(observations).q_value.gather(1, actions.reshape(-1, 1))
        return functional.mse_loss(value, rewards + gamma * target * (1 - terminals), reduction=reduction)


@dataclasses.dataclass()
class SquaredErrorQFunctionFactory(d3rlpy.models.q_functions.QFunctionFactory):  # type: ignore[misc]
    """d3rlpy's mean Q function for discrete actions, trained by the squared error."""

    def create_discrete(self, encoder: Any, hidden_size: int, action_size: int) -> tuple[Any, Any]:
        """Creates the Q function and the forwarder that computes its loss."""
        q_function = DiscreteMeanQFunction(encoder, hidden_size, action_size)
        return q_function, _SquaredErrorForwarder(q_function, action_size)

    @staticmethod
    def get_type() -> str:
        """Returns the name of this factory in d3rlpy's files."""
        return "mean_squared_error"


@dataclasses.dataclass()
class _FusedAdamFactory(d3rlpy.optimizers.AdamFactory):  # type: ignore[misc]
    """Adam whose step is one call for all weights, with the same numbers."""

    def create_optimizer(self, named_modules: Any, lr: float) -> Any:
        optimizer = super().create_optimizer(named_modules, lr)
        groups = [{"params": group["params"]} for group in optimizer.param_groups]
        return torch.optim.Adam(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)

    @staticmethod
    def get_type() -> str:
        return "fused_adam"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters of an offline RL algorithm.

    Attributes:
        algorithm: BCQ, DDQN, CQL, TD3+BC, IQL, BC or MARWIL.
        hidden: Widths of the hidden layers.
        activation: Activation function of the hidden layers.
        lr: Adam's learning rate.
        gamma: Discount per step.
        batch_size: Transitions per update.
        target_update: Updates between copies of the target network (discrete actions).
        action_flexibility: BCQ for discrete actions: how rare an action the data may have, relative to the likeliest.
        loss: `mse`, or `huber` as d3rlpy has it.
        beta: MARWIL: how much an action with a higher advantage is preferred.
        averaging: Acting weights are a running mean: this share of the old mean stays at each update, at most.
        seed: Seed of the initial weights and of the minibatches.
    """

    algorithm: str
    hidden: tuple[int, ...]
    activation: str
    lr: float
    gamma: float
    batch_size: int
    target_update: int
    action_flexibility: float
    loss: str
    beta: float
    averaging: float
    seed: int


def check_algorithm(name: str, *, is_discrete: bool) -> None:
    """Checks that an algorithm supports the action space of the data.

    Raises:
        UserError: The algorithm is for the other kind of actions.
    """
    if _CONFIGS[name][0 if is_discrete else 1] is None:
        kind = "discrete" if is_discrete else "continuous"
        fitting = [other for other, pair in _CONFIGS.items() if pair[0 if is_discrete else 1] is not None]
        raise UserError(
            f"rl.training.run: got {name!r} for data with {kind} actions; expected one of {', '.join(fitting)}."
        )


class Learner:
    """Trains a d3rlpy algorithm on logged transitions.

    Args:
        data: Transitions to learn from.
        recipe: Hyperparameters of the algorithm.
    """

    def __init__(self, data: Transitions, recipe: Recipe) -> None:
        d3rlpy.seed(recipe.seed)
        self._recipe = recipe
        self._is_discrete = data.num_actions is not None
        self.updates = 0
        self.filter = make_filter(split_masks(data.states, data.mask_size)[0])
        self._low = np.zeros(0, np.float32)
        self._high = np.zeros(0, np.float32)
        if not self._is_discrete:
            self._low = data.actions.min(axis=0)
            self._high = data.actions.max(axis=0)
        self._data = data
        is_marwil = recipe.algorithm == "MARWIL"
        self._to_go = ReturnsToGo.until_end(data, recipe.gamma) if is_marwil else ReturnsToGo.until_next_state(data)
        self._load_data()
        config = _make_config(recipe, data, self._to_go)
        self._algorithm = config.create(device=False)
        self._algorithm.create_impl(self.filter.mean.shape, data.num_actions or data.actions.shape[1])
        if data.mask_size:
            modules = vars(self._algorithm.impl.modules)
            for role in {"q_funcs", "targ_q_funcs", "imitator", "value"} & modules.keys():
                _mask_outputs(modules[role], data.mask_size)
        self._generator = torch.Generator().manual_seed(recipe.seed)
        self._averaged = copy.deepcopy(self._acting_modules())

    def _load_data(self) -> None:
        """Tensors of the transitions; the next state is a row number, not a second copy of all states."""
        data = self._data
        usable = np.flatnonzero(data.next_rows != UNKNOWN)
        if not len(usable):
            raise UserError("data: got no step whose next state is known; expected at least one such step.")
        following = self._to_go.next_rows[usable]
        numbers, masks = split_masks(data.observations, data.mask_size)
        parts = [self.filter(numbers[i : i + _ROWS]) for i in range(0, len(numbers), _ROWS)]
        seen = np.concatenate(parts)
        self._observations = torch.as_tensor(seen if masks is None else np.column_stack([seen, masks]))
        self._rows = torch.as_tensor(usable)
        self._next = torch.as_tensor(np.where(following == TERMINAL, usable, following))
        self._terminals = torch.as_tensor((following == TERMINAL).astype(np.float32)[:, None])
        self._rewards = torch.as_tensor(self._to_go.returns[usable][:, None])
        self._steps = torch.as_tensor(self._to_go.steps[usable][:, None].astype(np.float32))
        actions = data.actions[usable]
        if self._is_discrete:
            actions = actions[:, None]
        else:
            span = np.where(self._high > self._low, self._high - self._low, 1)
            actions = (2 * (actions - self._low) / span - 1).astype(np.float32)
        self._actions = torch.as_tensor(actions)

    def run(self, updates: int) -> dict[str, float]:
        """Updates the networks.

        Args:
            updates: Number of gradient updates.

        Returns:
            Mean of each loss over these updates.
        """
        implementation, size = self._algorithm.impl, self._recipe.batch_size
        implementation.modules.set_train()
        totals: dict[str, float] = {}
        averaged: list[torch.Tensor] = list(self._averaged.parameters())
        current: list[torch.Tensor] = list(self._acting_modules().parameters())
        done = 0
        while done < updates:
            rows = min(self._drawn_at_once(), updates - done)
            drawn = torch.randint(len(self._rows), (rows, size), generator=self._generator)
            for batch in self._gather(drawn):
                losses = self._algorithm.impl.inner_update(batch, self.updates)
                self.updates += 1
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + value
                if self.updates % _AVERAGED_EVERY == 0:
                    with torch.no_grad():
                        torch._foreach_lerp_(averaged, current, self._newest_share())
            done += rows
        return {name: total / updates for name, total in totals.items()}

    def _drawn_at_once(self) -> int:
        numbers = self._recipe.batch_size * self._observations[0].numel()
        return max(1, min(_DRAWN_AT_ONCE, _GATHERED_NUMBERS // numbers))

    def _newest_share(self) -> float:
        """Returns the weight of the current parameters in the running mean."""
        by_setting = 1 - self._recipe.averaging**_AVERAGED_EVERY
        times = self.updates // _AVERAGED_EVERY
        return min(1.0, max(by_setting, (_AVERAGING_DECAY + 1) / (times + _AVERAGING_DECAY)))

    def _gather(self, drawn: torch.Tensor) -> Iterator[TorchMiniBatch]:
        """Yields minibatches of drawn transitions; the rows of all batches are gathered in one indexing call."""
        observations, following = self._observations[self._rows[drawn]], self._observations[self._next[drawn]]
        actions, rewards, terminals = self._actions[drawn], self._rewards[drawn], self._terminals[drawn]
        steps = self._steps[drawn]
        for row in range(len(drawn)):
            yield TorchMiniBatch(
                observations=observations[row],
                actions=actions[row],
                rewards=rewards[row],
                next_observations=following[row],
                next_actions=actions[row],  # read by none of our algorithms
                returns_to_go=rewards[row],  # likewise
                terminals=terminals[row],
                intervals=steps[row],
                device="cpu:0",
            )

    def policy(self, *, averaged: bool = False) -> NetworkPolicy:
        """Takes a snapshot of the policy, with the current weights or with their running mean."""
        modules = dict(zip(self._roles(), self._averaged if averaged else self._acting_modules(), strict=True))
        kind: Kind = "greedy" if self._is_discrete else "sampled" if "decoder" in modules else "actor"
        ensemble: Any = modules.get("q", ())
        networks = {"q": [_layers(q) for q in ensemble]} if "q" in modules else {}
        networks |= {role: [_layers(module)] for role, module in modules.items() if role != "q"}
        return NetworkPolicy(
            kind,
            networks,
            self.filter,
            activation=self._recipe.activation,
            action_flexibility=self._recipe.action_flexibility,
            low=self._low,
            high=self._high,
            mask_size=self._data.mask_size,
        ).snapshot()

    def _roles(self) -> tuple[str, ...]:
        if self._is_discrete:
            return ("q", "imitator") if self._recipe.algorithm == "BCQ" else ("q",)
        return ("q", "decoder", "residual") if self._recipe.algorithm == "BCQ" else ("actor",)

    def _acting_modules(self) -> nn.ModuleList:
        """Returns the networks that acting needs, in the order of their roles."""
        modules = self._algorithm.impl.modules
        if self._recipe.algorithm in _IMITATORS:
            return nn.ModuleList([nn.ModuleList([modules.imitator]) if self._is_discrete else modules.imitator])
        names = {
            "q": "q_funcs",
            "imitator": "imitator",
            "decoder": "vae_decoder",
            "residual": "policy",
            "actor": "policy",
        }
        return nn.ModuleList([getattr(modules, names[role]) for role in self._roles()])

    def state(self) -> dict[str, bytes]:
        """Returns the files, by name, that `restore` needs to resume training."""
        algorithm, rest = io.BytesIO(), io.BytesIO()
        self._algorithm.impl.save_model(algorithm)
        facts = {
            "averaged": self._averaged.state_dict(),
            "generator": self._generator.get_state(),
            "noise": torch.get_rng_state(),  # of the actions that d3rlpy draws
            "updates": self.updates,
            "mean": torch.as_tensor(self.filter.mean),
            "std": torch.as_tensor(self.filter.std),
            "low": torch.as_tensor(self._low),
            "high": torch.as_tensor(self._high),
        }
        torch.save(facts, rest)
        return {ALGORITHM: algorithm.getvalue(), AVERAGED: rest.getvalue()}

    def restore(self, folder: Path) -> None:
        """Resumes from the files of `state`, with their observation and action scaling; the learning rate is the job's.

        Raises:
            UserError: The files belong to another network or algorithm.
        """
        try:
            self._algorithm.load_model(str(folder / ALGORITHM))
            state = torch.load(folder / AVERAGED, weights_only=True)
            self._averaged.load_state_dict(state["averaged"])
            self._generator.set_state(state["generator"])
            torch.set_rng_state(state.get("noise", torch.get_rng_state()))
            self.updates = int(state["updates"])
            self.filter = ObservationFilter(state["mean"].numpy(), state["std"].numpy(), CLIP)
            self._low = state["low"].numpy()
            self._high = state["high"].numpy()
        except Exception as error:  # torch's and d3rlpy's unpickling raises many types of errors
            raise UserError(
                f"{folder}: got a checkpoint that cannot be restored ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}); expected one of the same algorithm and network. Restore from another "
                "checkpoint, or start without."
            ) from None
        for module in vars(self._algorithm.impl.modules).values():
            for group in getattr(getattr(module, "optim", None), "param_groups", ()):
                group["lr"] = self._recipe.lr
        self._load_data()


def _mask_outputs(networks: nn.Module, size: int) -> None:
    """Makes d3rlpy's networks take observations with a mask at their end, and never prefer an action it forbids.

    A forbidden action's value or logit is below each allowed one's by a distance that leaves it out of a softmax, and
    no farther: BCQ subtracts the least value of a row from the others, which would lose their digits.

    Args:
        networks: Q functions, an imitator, or a value function.
        size: Numbers of a mask.
    """
    for network in networks if isinstance(networks, nn.ModuleList) else [networks]:
        masks: list[torch.Tensor] = []

        def split(network: nn.Module, rows: tuple[torch.Tensor], masks: list[torch.Tensor] = masks) -> Any:
            masks.append(rows[0][:, -size:] != 0)
            return (rows[0][:, :-size],)

        def mask(network: nn.Module, rows: Any, output: Any, masks: list[torch.Tensor] = masks) -> Any:
            allowed = masks.pop()
            if isinstance(output, torch.Tensor):  # a state's value
                return output
            if isinstance(output, torch.distributions.Categorical):
                return torch.distributions.Categorical(logits=_put_below(output.logits, allowed))
            return output._replace(q_value=_put_below(output.q_value, allowed))

        network.register_forward_pre_hook(split)
        network.register_forward_hook(mask)


def _put_below(scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Returns (B, A) scores whose forbidden actions are _FORBIDDEN below the least of the others."""
    least = torch.where(allowed, scores, torch.inf).min(dim=1, keepdim=True).values
    return torch.where(allowed, scores, least.detach() - _FORBIDDEN)


def _make_config(recipe: Recipe, data: Transitions, to_go: ReturnsToGo) -> Any:
    """Makes d3rlpy's configuration of the algorithm."""
    factory = _CONFIGS[recipe.algorithm][0 if data.num_actions is not None else 1]
    values = {"batch_size": recipe.batch_size, "gamma": recipe.gamma, **_own_settings(recipe, data, to_go)}
    adam = _FusedAdamFactory()
    encoder = d3rlpy.models.VectorEncoderFactory(list(recipe.hidden), activation=recipe.activation)
    for field in dataclasses.fields(factory):  # of one network, or of an actor and a critic
        if field.name.endswith("learning_rate"):
            values[field.name] = recipe.lr
        elif field.name.endswith("optim_factory"):
            values[field.name] = adam
        elif field.name.endswith("encoder_factory"):
            values[field.name] = encoder
    return factory(**values)


def _own_settings(recipe: Recipe, data: Transitions, to_go: ReturnsToGo) -> dict[str, Any]:
    """Returns the settings that an algorithm does not share with all others."""
    is_discrete = data.num_actions is not None
    if recipe.algorithm == "MARWIL":
        mean, std = to_go.scale
        return {"value_offset": mean, "value_scale": std, "is_discrete": is_discrete, "beta": recipe.beta}
    if not is_discrete:
        return {}
    if recipe.algorithm == "BC":
        return {"beta": 0.0}  # log-likelihood alone
    own: dict[str, Any] = {"target_update_interval": recipe.target_update}
    if recipe.loss == "mse":
        own["q_func_factory"] = SquaredErrorQFunctionFactory()
    if recipe.algorithm == "BCQ":
        own["action_flexibility"] = recipe.action_flexibility
        if data.mask_size:  # the imitator's penalty is one on logits, those of forbidden actions too
            own["beta"] = 0.0
    return own


def _layers(module: Any) -> nn.Sequential:
    """Returns an encoder's layers followed by its head, as one sequence."""
    head = module._mu if hasattr(module, "_mu") else module._fc
    return nn.Sequential(*module._encoder._layers, head)
