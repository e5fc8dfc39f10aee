"""A policy learned from a log, as plain PyTorch layers for acting, off-policy evaluation, export and resuming."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from runtime.errors import UserError
from runtime.policies.filter import ObservationFilter
from runtime.policies.spaces import MaskedBox, join_mask, split_masks

FILE = "policy.safetensors"
EVALUATED_FILE = "judged_policy.safetensors"
_FACTS = "policy"
CLIP = 10.0  # standard deviations: what is farther away than that is as far as that
_ROWS = 65536
_LATENTS = 100
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "swish": nn.SiLU}

Kind = Literal["greedy", "actor", "sampled"]
Networks = Mapping[str, Sequence[nn.Sequential]]
# Facts, arrays, and the weights of each role's networks.
_Stored = tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, list[dict[str, torch.Tensor]]]]


@dataclass(frozen=True)
class NetworkPolicy:
    """A trained policy.

    Attributes:
        kind: `greedy` takes the action with the largest value; `actor` has a network for the action itself; `sampled`
            takes the most valuable of actions that a model of the data proposes (BCQ for continuous actions).
        networks: By role: `q` (an ensemble), `imitator`, `actor`, `decoder`, `residual`.
        observation_filter: Standardizes observations by the log's mean and spread.
        activation: Activation of the hidden layers.
        action_flexibility: `greedy` with an imitator: an action must be more than this times as likely as the
            likeliest.
        residual_scale: `sampled`: how far the residual moves a proposed action.
        low: (A,) least action of continuous ones.
        high: (A,) largest.
        mask_size: `greedy`: how many of an observation's last numbers are a mask of the allowed actions, which are the
            only ones taken; 0 if there is none. Filter and networks see the numbers before it.
    """

    kind: Kind
    networks: Networks
    observation_filter: ObservationFilter
    activation: str = "relu"
    action_flexibility: float = 0.0
    residual_scale: float = 0.05
    low: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    high: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    mask_size: int = 0

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation, its mask included."""
        shape = self.observation_filter.mean.shape
        return (shape[0] + self.mask_size,) if self.mask_size else shape

    @property
    def num_actions(self) -> int:
        """Number of discrete actions, or of dimensions of a continuous action."""
        if self.kind != "greedy":
            return len(self.low)
        last: Any = self.networks["q"][0][-1]
        return int(last.out_features)

    def snapshot(self) -> NetworkPolicy:
        """Returns the same policy with weights of its own."""
        return NetworkPolicy(**{**vars(self), "networks": copy.deepcopy(dict(self.networks))})

    def reset(self) -> None:
        """Does nothing, as the policy has no state."""

    @property
    def takes_masks(self) -> bool:
        """Always False: a mask is part of the observation."""
        return False

    def act(self, observation: Any, *, mask: Any = None) -> Any:
        """Returns the action for one observation, in the environment's units.

        Args:
            observation: Unfiltered; a row with its mask at the end, or a dict with the entry `action_mask`, if the
                policy learned with masks.
            mask: None.
        """
        if self.mask_size and isinstance(observation, Mapping):
            numbers = gymnasium.spaces.Box(-np.inf, np.inf, self.observation_filter.mean.shape)
            observation = join_mask(observation, MaskedBox(numbers, self.mask_size))
        rows = np.asarray(observation, np.float32).reshape(1, -1)
        if self.kind == "greedy":
            return int(self.probabilities(rows)[0].argmax())
        return self.actions(rows)[0]

    def q_values(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Returns (B, A) mean of the ensemble's values of each discrete action, allowed or not."""
        return self._in_parts(observations, lambda x, allowed: self._q(x))

    def probabilities(
        self, observations: NDArray[Any], *, temperature: float | None = None, epsilon: float = 0.0
    ) -> NDArray[np.float32]:
        """(B, A) of the greedy policy, of a softmax of the values, or of the greedy one mixed with the uniform one.

        Args:
            observations: (B, O), unfiltered.
            temperature: Temperature of a softmax over the values of all allowed actions; None for the greedy policy.
            epsilon: Share of the uniform policy over them.
        """
        if temperature is not None:
            return self._in_parts(
                observations, lambda x, allowed: torch.softmax(_mask(self._q(x) / temperature, allowed), dim=1)
            )
        greedy = self._in_parts(observations, self._greedy)
        masks = split_masks(observations, self.mask_size)[1]
        allowed = np.ones_like(greedy) if masks is None else masks
        return np.asarray((1 - epsilon) * greedy + epsilon * allowed / allowed.sum(axis=1, keepdims=True), np.float32)

    def actions(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Returns (B, A) continuous actions, in the environment's units."""
        return self._in_parts(observations, lambda x, allowed: self._scaled(x))

    def in_double(self) -> NetworkPolicy:
        """The same policy computed in float64, from observations filtered to float32: what rounding is measured by."""
        networks = {role: [copy.deepcopy(one).double() for one in group] for role, group in self.networks.items()}
        return NetworkPolicy(**{**vars(self), "networks": networks})

    def margins(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """(B,) how far a choice is from another one: values relative to their size, and log likelihoods.

        For a policy that chooses among actions, discrete or proposed ones.
        """
        return self._in_parts(observations, self._proposal_margin if self.kind == "sampled" else self._margin)

    def _proposal_margin(self, x: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """How far the best of the proposed actions is from the best one that is another action."""
        actions, values = self._propose(x)
        rows, best = torch.arange(len(x)), values.argmax(dim=1)
        is_same = (actions == actions[rows, best][:, None]).all(dim=2)
        largest = values[rows, best]
        second = values.masked_fill(is_same, -torch.inf).max(dim=1).values
        return (largest - second) / largest.abs().clamp(min=1)

    def _margin(self, x: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        values = _mask(self._q(x), allowed)
        distance = torch.full((len(x),), torch.inf)
        for imitator in self.networks.get("imitator", ()):
            logits = _mask(imitator(x), allowed)
            likelier = logits - logits.max(dim=1, keepdim=True).values
            limit = math.log(max(self.action_flexibility, 1e-30))
            distance = (likelier - limit).abs().min(dim=1).values
            values = torch.where(likelier > limit, values, -torch.inf)
        best = values.topk(2, dim=1).values
        gap = (best[:, 0] - best[:, 1]) / best[:, 0].abs().clamp(min=1)
        return torch.minimum(distance, gap)

    def _in_parts(self, observations: NDArray[Any], compute: Any) -> NDArray[np.float32]:
        """Computes some rows at a time, as the activations of millions would not fit in memory."""
        rows = _ROWS // _LATENTS if self.kind == "sampled" else _ROWS
        with torch.inference_mode():
            parts = [
                compute(*self._see(observations[start : start + rows])).numpy()
                for start in range(0, len(observations), rows)
            ]
        return np.concatenate(parts)

    def _see(self, observations: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the networks see, (B, O), and the (B, A) allowed actions, None where all are."""
        dtype = next(next(iter(self.networks.values()))[0].parameters()).dtype
        numbers, masks = split_masks(observations, self.mask_size)
        seen = torch.as_tensor(self.observation_filter(numbers)).to(dtype)
        return seen, None if masks is None else torch.as_tensor(masks)

    def _q(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(x) for network in self.networks["q"]]).mean(dim=0)

    def _greedy(self, x: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Greedy probabilities as in d3rlpy's DiscreteBCQ; ties share the probability, so that each row sums to 1."""
        values = self._q(x)
        scores: torch.Tensor = values - values.min(dim=1, keepdim=True).values + 1e-5
        for imitator in self.networks.get("imitator", ()):
            logits = _mask(imitator(x), allowed)
            ratio = torch.exp(logits - logits.max(dim=1, keepdim=True).values)
            scores = scores * (ratio > self.action_flexibility).float()
        if allowed is not None:
            scores = scores * allowed
        best = (scores == scores.max(dim=1, keepdim=True).values).float()
        return best / best.sum(dim=1, keepdim=True)

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        unit = torch.tanh(self.networks["actor"][0](x)) if self.kind == "actor" else self._sampled(x)
        low, high = torch.as_tensor(self.low), torch.as_tensor(self.high)
        return low + (unit.clamp(-1, 1) + 1) / 2 * (high - low)

    @property
    def latents(self) -> torch.Tensor:
        """(K, 2 A) latents of the proposed actions; that they are fixed makes the policy deterministic."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn((_LATENTS, 2 * len(self.low)), generator=generator).clamp(-0.5, 0.5)

    def _sampled(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B, A) the most valuable of the proposed actions."""
        actions, values = self._propose(x)
        return actions[torch.arange(len(x)), values.argmax(dim=1)]

    def _propose(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (B, K, A) proposed actions between -1 and 1, and their (B, K) values."""
        states = x.repeat_interleave(_LATENTS, dim=0)
        proposed = self.networks["decoder"][0](torch.cat([states, self.latents.repeat(len(x), 1)], dim=1))
        moved = torch.tanh(self.networks["residual"][0](torch.cat([states, proposed], dim=1)))
        actions = (proposed + self.residual_scale * moved).clamp(-1, 1)
        values = self.networks["q"][0](torch.cat([states, actions], dim=1)).reshape(len(x), _LATENTS)
        return actions.reshape(len(x), _LATENTS, -1), values

    def save(self, path: Path) -> None:
        """Writes the policy as safetensors: weights and a description, nothing that runs code when it is read."""
        tensors = {
            f"{role}.{number}.{name}": np.ascontiguousarray(weight.numpy())
            for role, networks in self.networks.items()
            for number, network in enumerate(networks)
            for name, weight in network.state_dict().items()
        }
        bounds = {"low": self.low, "high": self.high}
        seen = {"mean": self.observation_filter.mean, "std": self.observation_filter.std}
        facts = {
            "kind": self.kind,
            "activation": self.activation,
            "action_flexibility": self.action_flexibility,
            "residual_scale": self.residual_scale,
            "mask_size": self.mask_size,
        }
        save_file({**tensors, **bounds, **seen}, path, metadata={_FACTS: json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> NetworkPolicy:
        """Reads a policy.

        Raises:
            UserError: The file is none.
        """
        try:
            facts, arrays, weights = _read(path) if path.is_file() else _read_old(path.with_suffix(".pt"))
            return cls(
                networks={
                    role: [_rebuild(state, facts["activation"]) for state in states] for role, states in weights.items()
                },
                observation_filter=ObservationFilter(arrays["mean"], arrays["std"], CLIP),
                low=arrays["low"],
                high=arrays["high"],
                **facts,
            )
        except Exception as error:  # safetensors and torch raise many types of errors
            raise UserError(
                f"{path}: got a file that is no policy of this program ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}). Use another checkpoint."
            ) from None


def _mask(scores: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """Returns scores (B, A) that are -inf where an action is not allowed."""
    return scores if allowed is None else torch.where(allowed, scores, -torch.inf)


def make_filter(states: NDArray[np.float32]) -> ObservationFilter:
    """Makes the filter that standardizes (N, O) states; sums in float64, as there may be millions of them."""
    return ObservationFilter(states.mean(axis=0, dtype=np.float64), states.std(axis=0, dtype=np.float64), CLIP)


def _read(path: Path) -> _Stored:
    with safe_open(path, framework="numpy") as file:
        facts = json.loads((file.metadata() or {})[_FACTS])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    weights: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    for key in [name for name in arrays if "." in name]:
        role, number, name = key.split(".", 2)
        weights.setdefault(role, {}).setdefault(int(number), {})[name] = torch.from_numpy(arrays.pop(key))
    return facts, arrays, {role: [states[number] for number in sorted(states)] for role, states in weights.items()}


def _read_old(path: Path) -> _Stored:
    """Reads a file of Torch's, as older versions wrote it; tensors alone are taken from it."""
    stored = torch.load(path, weights_only=True)
    facts = dict(stored["facts"])
    arrays = {name: facts.pop(name).numpy() for name in ("mean", "std", "low", "high")}
    return facts, arrays, stored["weights"]


def _rebuild(state: Mapping[str, torch.Tensor], activation: str) -> nn.Sequential:
    names = sorted((name for name in state if name.endswith("weight")), key=lambda name: int(name.split(".")[0]))
    weights = [state[name] for name in names]
    layers: list[nn.Module] = []
    for weight in weights:  # without initial weights, which would draw from the process's generator
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta").to_empty(device="cpu")
        layers += [linear, _ACTIVATIONS[activation]()]
    network = nn.Sequential(*layers[:-1])
    network.load_state_dict(state)
    return network
