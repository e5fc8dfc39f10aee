"""Whether a log supports the estimate of a policy: rollouts of the policy in a model made of the log's own transitions.

The model steps from a state as the log stepped from one of the nearest states with the same action, corrected by a
regression for the distance between the two. A rollout ends where the log's episode ended, or where no logged state
with that action is near: there the log supports no estimate, and any possible return may follow.

Source: nearest-neighbor models: Kveton & Theocharous 2012, Kernel-based reinforcement learning on representative
states; that what is unknown is worth the least: Kidambi et al. 2020, MOReL; a model beside other estimators: Hanna,
Stone & Niekum 2017, Bootstrapping with models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions

Floats = NDArray[np.float64]
Act = Callable[[NDArray[np.float32]], NDArray[np.floating]]

_NEAREST = 5
_WITHIN = 0.995  # quantile of the distances between logged steps beyond which a state is outside of the log
_JITTER = 1e-6  # standard deviations: steps from equal states are equally near, and any of them may be picked
_NEGLIGIBLE = 0.02  # a rollout is cut where a reward is discounted to this
_WAVES = 100
_RIDGE = 1e-3


@dataclass(frozen=True)
class Rollouts:
    """Rollouts of a policy in the log's model.

    Attributes:
        rewards: (N,) discounted sum of the rewards before a rollout left the log.
        discounts: (N,) discount of the step at which it left the log; 0 where it never did.
        states: (N, O) state in which it left the log, or its last one.
        actions: (N,) or (N, A) action with which it did.
    """

    rewards: Floats
    discounts: Floats
    states: NDArray[np.float32]
    actions: NDArray[np.floating]

    @property
    def outside(self) -> float:
        """Discounted share of the rollouts that leave the log: 0 if none does, 1 if all do at once."""
        return float(self.discounts.mean())


class LogModel:
    """A model made of a log's own transitions.

    Args:
        data: Transitions; those whose next state is unknown are left out.
        seed: Seed of the features and of ties between equal states.
    """

    def __init__(self, data: Transitions, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._data = data
        self._rows = np.flatnonzero(data.next_rows != UNKNOWN)
        states = data.states[self._rows].astype(np.float64)
        self._is_discrete = data.num_actions is not None
        inputs = states if self._is_discrete else np.concatenate([states, data.actions[self._rows]], axis=1)
        self._mean, self._std = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
        self._frequencies = rng.normal(size=(inputs.shape[1], _WAVES)) / np.sqrt(inputs.shape[1])
        self._phases = rng.uniform(0, 2 * np.pi, _WAVES)
        self._ends = data.next_rows[self._rows] == TERMINAL
        self._changes = data.observations[np.where(self._ends, 0, data.next_rows[self._rows])] - states
        self._rewards = data.rewards[self._rows].astype(np.float64)
        chosen = data.actions[self._rows] if self._is_discrete else np.zeros(len(self._rows), np.int64)
        inputs = (inputs - self._mean) / self._std
        features = self._features(inputs)
        self._groups = [np.flatnonzero(chosen == action) for action in range(data.num_actions or 1)]
        self._trees: list[cKDTree | None] = []
        self._limits: list[float] = []
        self._slopes: list[Floats] = []
        self._residuals = np.zeros_like(states)
        for group in self._groups:
            jittered = np.column_stack([inputs[group], rng.uniform(0, _JITTER, len(group))])
            tree = cKDTree(jittered) if len(group) > _NEAREST else None
            self._trees.append(tree)
            known = group[~self._ends[group]]
            moments = features[known].T @ features[known] + _RIDGE * max(1, len(known)) * np.eye(features.shape[1])
            slope = np.linalg.solve(moments, features[known].T @ self._changes[known])
            self._slopes.append(slope)
            self._residuals[group] = self._changes[group] - features[group] @ slope
            if tree is None:
                self._limits.append(-1.0)
                continue
            # The nearest of the others: the first one found is the step itself.
            nearest = tree.query(jittered, k=2)[0][:, 1]
            self._limits.append(float(np.quantile(nearest, _WITHIN)) + _JITTER)
        self._rng = rng

    def roll(self, act: Act, *, gamma: float, rollouts: int, seed: int) -> Rollouts:
        """Rolls a policy out from the log's initial states.

        Args:
            act: Returns (B, A) action probabilities at (B, O) states; of continuous actions, the actions.
            gamma: Discount per step, below 1.
            rollouts: Number N of rollouts.
            seed: Seed of initial states, actions and transitions.
        """
        rng = np.random.default_rng(seed)
        starts = self._data.starts[rng.permutation(np.resize(np.arange(len(self._data.starts)), rollouts))]
        states = self._data.states[starts].astype(np.float64)
        rewards, discounts = np.zeros(rollouts), np.zeros(rollouts)
        actions = np.zeros((rollouts, *self._data.actions.shape[1:]))
        alive = np.arange(rollouts)
        discount = 1.0
        while discount > _NEGLIGIBLE and len(alive):
            answers = np.asarray(act(states[alive].astype(np.float32)), np.float64)
            if self._is_discrete:
                answers = (rng.random((len(alive), 1)) > np.cumsum(answers, axis=1)[:, :-1]).sum(axis=1)
            actions[alive] = answers
            picked, is_near = self._pick(states[alive], answers, rng)
            discounts[alive[~is_near]] = discount
            alive, answers, picked = alive[is_near], answers[is_near], picked[is_near]
            rewards[alive] += discount * self._rewards[picked]
            states[alive] += self._change(states[alive], answers, picked)
            alive = alive[~self._ends[picked]]
            discount *= gamma
        return Rollouts(rewards, discounts, states.astype(np.float32), actions)

    def _pick(
        self, states: Floats, actions: NDArray[np.floating], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Picks (B,) one of the nearest logged steps, and says whether the nearest is near enough."""
        inputs = self._inputs(states, actions)
        picked = np.zeros(len(states), np.int64)
        is_near = np.zeros(len(states), bool)
        for action, (tree, group, limit) in enumerate(zip(self._trees, self._groups, self._limits, strict=True)):
            rows = np.flatnonzero(actions == action) if self._is_discrete else np.arange(len(states))
            if tree is None or not len(rows):
                continue
            jittered = np.column_stack([inputs[rows], rng.uniform(0, _JITTER, len(rows))])
            # Without the bound, a state far from the log takes a search of most of the tree.
            distances, found = tree.query(jittered, k=_NEAREST, distance_upper_bound=np.nextafter(limit, np.inf))
            count = (distances <= limit).sum(axis=1)
            is_near[rows] = count > 0
            drawn = (rng.random(len(rows)) * count).astype(int)
            places = np.where(count > 0, found[np.arange(len(rows)), drawn], 0)
            picked[rows] = group[places]
        return picked, is_near

    def _change(self, states: Floats, actions: NDArray[np.floating], picked: NDArray[np.int64]) -> Floats:
        features = self._features(self._inputs(states, actions))
        changes = self._residuals[picked].copy()
        groups = actions.astype(int) if self._is_discrete else np.zeros(len(states), int)
        for action, slope in enumerate(self._slopes):
            rows = groups == action
            changes[rows] += features[rows] @ slope
        return changes

    def _inputs(self, states: Floats, actions: NDArray[np.floating]) -> Floats:
        inputs = states if self._is_discrete else np.concatenate([states, actions], axis=1)
        return np.asarray((inputs - self._mean) / self._std)

    def _features(self, inputs: Floats) -> Floats:
        waves = np.cos(inputs @ self._frequencies + self._phases) * np.sqrt(2 / _WAVES)
        return np.concatenate([waves, inputs, np.ones((len(inputs), 1))], axis=1)
