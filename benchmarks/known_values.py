"""Decision processes whose values are known, to measure how often an interval of an estimate contains the truth.

The grid's values come from a linear solve. The clinic's come from episodes of the policy itself, as many as make their
error small beside an interval's width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.rollouts import Policy
from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions

Floats = NDArray[np.float64]

_MOVES = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])
_HOLES = ((2, 3), (4, 6), (6, 1))
_SIDE = 8
_MOST_STEPS = 2_000


@dataclass(frozen=True)
class TrueValue:
    """The true discounted return of a policy.

    Attributes:
        discounted: Mean discounted return.
        error: Two standard errors of it, or the rounding of an exact one.
    """

    discounted: float
    error: float


def play(
    begin: Callable[[int, np.random.Generator], Floats],
    step: Callable[[Floats, NDArray[np.int64], np.random.Generator], tuple[Floats, Floats, NDArray[np.bool_]]],
    policy: Policy,
    episodes: int,
    *,
    most_steps: int,
    seed: int,
) -> Transitions:
    """Plays episodes side by side; those that last `most_steps` are cut off there.

    Args:
        begin: Draws (B, O) initial states.
        step: Takes (B, O) states and (B,) actions; returns the next states, the rewards, and which episodes ended.
        policy: Returns (B, A) action probabilities at (B, O) states.
        episodes: Number of episodes.
        most_steps: Length of the longest episode.
        seed: Seed of all that is random.
    """
    rng = np.random.default_rng(seed)
    states = begin(episodes, rng)
    alive = np.arange(episodes)
    columns: dict[str, list[Any]] = {name: [] for name in ("episode", "state", "action", "reward", "end", "chances")}
    for _ in range(most_steps):
        chances = np.asarray(policy(states.astype(np.float32)), np.float64)
        actions = (rng.random((len(alive), 1)) > np.cumsum(chances, axis=1)[:, :-1]).sum(axis=1)
        following, rewards, ended = step(states, actions, rng)
        for name, values in zip(columns, (alive, states, actions, rewards, ended, chances), strict=True):
            columns[name].append(values)
        states, alive = following[~ended], alive[~ended]
        if not len(alive):
            break
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    order = np.argsort(joined["episode"], kind="stable")
    starts = np.flatnonzero(np.diff(joined["episode"][order], prepend=-1))
    lasts = np.append(starts[1:], len(order)) - 1
    following_rows = np.arange(1, len(order) + 1)
    following_rows[lasts] = np.where(joined["end"][order][lasts], TERMINAL, UNKNOWN)
    return Transitions(
        joined["state"][order].astype(np.float32),
        joined["action"][order].astype(np.int64),
        joined["reward"][order].astype(np.float32),
        following_rows,
        starts,
        joined["chances"][order].astype(np.float32),
        joined["chances"].shape[1],
    )


class Clinic:
    """Patients of 8 features under 5 treatments: in the end each leaves or dies, which pays 1 or -1; nothing else pays.

    Args:
        seed: Seed of what the treatments do.
    """

    gamma = 0.99
    num_actions = 5

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._mix = 0.9 * np.linalg.qr(rng.normal(size=(8, 8)))[0]
        self._effect = 0.5 * rng.normal(size=(self.num_actions, 8))
        self._risk = rng.normal(size=8) / np.sqrt(8)
        self._habit = rng.normal(size=(8, self.num_actions)) * 0.3

    def behave(self, states: NDArray[np.float32]) -> Floats:
        """The logging policy: (B, 5) probabilities, each above 0."""
        logits = states @ self._habit
        likely = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(0.1 + 0.5 * likely / likely.sum(axis=1, keepdims=True), np.float64)

    def log(self, episodes: int, *, seed: int) -> Transitions:
        """Episodes of the logging policy."""
        return self._play(self.behave, episodes, seed=seed)

    def value(self, policy: Policy, *, seed: int = 7) -> TrueValue:
        """The true value of a policy, from 20,000 of its episodes."""
        log = self._play(policy, 20_000, seed=seed)
        returns = log.returns * self.gamma ** (log.lengths - 1)
        return TrueValue(float(returns.mean()), 2 * float(returns.std() / np.sqrt(len(returns))))

    def _play(self, policy: Policy, episodes: int, *, seed: int) -> Transitions:
        begin = lambda count, rng: rng.normal(size=(count, 8))  # noqa: E731
        return play(begin, self._step, policy, episodes, most_steps=_MOST_STEPS, seed=seed)

    def _step(
        self, states: Floats, actions: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        states = states @ self._mix.T + self._effect[actions] + 0.4 * rng.normal(size=states.shape)
        danger = 2 * states @ self._risk
        dies = rng.random(len(states)) < 1 / (1 + np.exp(5 - danger))
        leaves = ~dies & (rng.random(len(states)) < 1 / (1 + np.exp(5 + danger)))
        return states, leaves * 1.0 - dies, dies | leaves


class Grid:
    """A slippery grid of 8 x 8 with holes: a goal in one corner pays 1, nothing else pays."""

    gamma = 0.99
    num_actions = 4

    def __init__(self) -> None:
        self._ends = np.zeros((_SIDE, _SIDE), bool)
        self._ends[tuple(np.transpose(_HOLES))] = True
        self._ends[-1, -1] = True

    def behave(self, states: NDArray[np.float32]) -> Floats:
        """The logging policy, which walks towards the goal more often than not."""
        return np.tile([0.15, 0.35, 0.35, 0.15], (len(states), 1))

    def log(self, episodes: int, *, seed: int) -> Transitions:
        """Episodes of the logging policy, of 200 steps at most."""
        begin = lambda count, _: np.zeros((count, 2))  # noqa: E731
        return play(begin, self._step, self.behave, episodes, most_steps=200, seed=seed)

    def value(self, policy: Policy) -> TrueValue:
        """The exact value of a policy, by a linear solve."""
        cells = np.stack(np.meshgrid(np.arange(_SIDE), np.arange(_SIDE), indexing="ij"), -1).reshape(-1, 2)
        chances = np.asarray(policy(cells.astype(np.float32)), np.float64)
        change = np.zeros((len(cells), len(cells)))
        for action in range(self.num_actions):
            for slip in (-1, 0, 1):
                reached = np.clip(cells + _MOVES[(action + slip) % 4], 0, _SIDE - 1) @ [_SIDE, 1]
                np.add.at(change, (np.arange(len(cells)), reached), chances[:, action] / 3)
        rewards = change[:, -1].copy()
        change[:, self._ends.ravel()] = 0
        return TrueValue(float(np.linalg.solve(np.eye(len(cells)) - self.gamma * change, rewards)[0]), 1e-9)

    def _step(
        self, states: Floats, actions: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        slips = rng.integers(-1, 2, len(states))
        states = np.clip(states + _MOVES[(actions + slips) % 4], 0, _SIDE - 1)
        ended = self._ends[tuple(states.astype(int).T)]
        return states, (states.sum(axis=1) == 2 * (_SIDE - 1)) * 1.0, ended
