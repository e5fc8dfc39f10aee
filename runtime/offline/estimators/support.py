"""A model made of a log's own transitions, in which policies are rolled out.

The model steps from a state as the log stepped from one of the nearest states with the same action, corrected by a
regression for the distance between the two. A rollout ends where the log's episode ended, or where no logged state
with that action is near: there the log supports no estimate, and any possible return may follow.

Each draw of episodes is a model of its own, so that the spread of the draws is that of other logs. All draws share one
search tree: a draw only leaves out the neighbors whose episodes it does not have.

Source: nearest-neighbor models: Kveton & Theocharous 2012, Kernel-based reinforcement learning on representative
states; that what is unknown is worth the least: Kidambi et al. 2020, MOReL; resampled models: Hanna, Stone & Niekum
2017, Bootstrapping with models: confidence intervals for off-policy evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions
from runtime.offline.estimators.ope import effective_sample_size

Floats = NDArray[np.float64]
Act = Callable[[NDArray[np.float32]], NDArray[np.floating]]

_NEAREST = 5  # logged steps that a step of a rollout is picked from
_SEARCHED = 12  # neighbors in the whole log, of which a draw has about two in three
_WITHIN = 0.995  # quantile of the distances between logged steps beyond which a state is outside of the log
_JITTER = 1e-6  # standard deviations: steps from equal states are equally near, and any of them may be picked
_NEGLIGIBLE = 0.02  # a rollout is cut where a reward is discounted to this
_WAVES = 100
_RIDGE = 1e-3


@dataclass(frozen=True)
class Rollouts:
    """N rollouts of a policy in each of D draws of the log's episodes.

    Attributes:
        rewards: (D, N) discounted sum of the rewards before a rollout left the log.
        discounts: (D, N) discount of the step at which it left the log; 0 where it never did.
        remainders: (D, N) discount of the step at which it was cut, because later rewards are negligible; else 0.
        states: (D * N, O) state in which it left the log or was cut.
        actions: (D * N,) or (D * N, A) action of the policy there.
        sample_size: Effective number of the log's episodes that the rollouts took their steps from.
    """

    rewards: Floats
    discounts: Floats
    remainders: Floats
    states: NDArray[np.float32]
    actions: NDArray[np.floating]
    sample_size: float

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
        following = data.observations[np.where(self._ends, 0, data.next_rows[self._rows])]
        self._changes = following - states
        self._next_masks = following[:, data.shape[0] - data.mask_size :]
        self._rewards = data.rewards[self._rows].astype(np.float64)
        self._episodes = np.repeat(np.arange(len(data.starts)), data.lengths)[self._rows]
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

    def roll(self, act: Act, *, gamma: float, draws: int, rollouts: int, seed: int) -> Rollouts:
        """Rolls a policy out from the log's initial states.

        Args:
            act: Returns (B, A) action probabilities at (B, O) states; of continuous actions, the actions.
            gamma: Discount per step, below 1.
            draws: Number D of draws of the log's episodes with replacement; the same for each policy.
            rollouts: Number N of rollouts in each draw.
            seed: Seed of the draws, initial states, actions and transitions.
        """
        rng = np.random.default_rng(seed)
        episodes = len(self._data.starts)
        counts = rng.multinomial(episodes, np.full(episodes, 1 / episodes), draws)
        first = np.concatenate([_resized(np.repeat(np.arange(episodes), row), rollouts, rng) for row in counts])
        draw = np.repeat(np.arange(draws), rollouts)
        states = self._data.states[self._data.starts[first]].astype(np.float64)
        rewards, discounts, remainders = (np.zeros(len(draw)) for _ in range(3))
        actions = np.zeros((len(draw), *self._data.actions.shape[1:]))
        used = np.zeros(episodes)
        alive = np.arange(len(draw))
        discount = 1.0
        while len(alive):
            answers = self._decide(act, states[alive], rng)
            actions[alive] = answers
            if discount <= _NEGLIGIBLE:
                remainders[alive] = discount
                break
            picked, is_near = self._pick(states[alive], answers, counts, draw[alive], rng)
            discounts[alive[~is_near]] = discount
            alive, answers, picked = alive[is_near], answers[is_near], picked[is_near]
            used += discount * np.bincount(self._episodes[picked], minlength=episodes)
            rewards[alive] += discount * self._rewards[picked]
            states[alive] += self._change(states[alive], answers, picked)
            if size := self._data.mask_size:  # no regression between masks: the one that the log's step led to
                states[alive, -size:] = self._next_masks[picked]
            alive = alive[~self._ends[picked]]
            discount *= gamma
        shape = draws, rollouts
        return Rollouts(
            rewards.reshape(shape),
            discounts.reshape(shape),
            remainders.reshape(shape),
            states.astype(np.float32),
            actions,
            effective_sample_size(used),
        )

    def _decide(self, act: Act, states: Floats, rng: np.random.Generator) -> NDArray[Any]:
        """Returns (B,) drawn numbers of discrete actions, or the (B, A) continuous actions."""
        answers = np.asarray(act(states.astype(np.float32)), np.float64)
        if not self._is_discrete:
            return answers
        return np.asarray((rng.random((len(states), 1)) > np.cumsum(answers, axis=1)[:, :-1]).sum(axis=1))

    def _pick(
        self,
        states: Floats,
        actions: NDArray[np.floating],
        counts: NDArray[np.int64],
        draw: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Picks (B,) one of the nearest logged steps, and says whether any is near enough.

        Args:
            states: (B, O) states.
            actions: (B,) or (B, A) actions.
            counts: (D, E) how often each draw has each episode.
            draw: (B,) number of the draw that each rollout is of.
            rng: Source of the picks.
        """
        inputs = self._inputs(states, actions)
        picked = np.zeros(len(states), np.int64)
        is_near = np.zeros(len(states), bool)
        for action, (tree, group, limit) in enumerate(zip(self._trees, self._groups, self._limits, strict=True)):
            rows = np.flatnonzero(actions == action) if self._is_discrete else np.arange(len(states))
            if tree is None or not len(rows):
                continue
            jittered = np.column_stack([inputs[rows], rng.uniform(0, _JITTER, len(rows))])
            # Without the bound, a state far from the log takes a search of most of the tree.
            most = min(_SEARCHED, len(group))
            distances, found = tree.query(jittered, k=most, distance_upper_bound=np.nextafter(limit, np.inf))
            is_neighbor = distances <= limit
            steps = group[np.where(is_neighbor, found, 0)]
            weights = np.where(is_neighbor, counts[draw[rows, None], self._episodes[steps]], 0)
            # What the log supports does not depend on the draw: one that has none of the neighbors takes them all.
            weights = np.where(weights.any(axis=1, keepdims=True), weights, is_neighbor)
            weights[np.cumsum(weights > 0, axis=1) > _NEAREST] = 0
            sums = np.cumsum(weights, axis=1)
            is_near[rows] = is_neighbor.any(axis=1)
            places = (rng.random(len(rows))[:, None] * sums[:, -1:] >= sums).sum(axis=1)
            picked[rows] = steps[np.arange(len(rows)), np.minimum(places, most - 1)]
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


def _resized(values: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns a number of the values in random order, each as often as any other, give or take one."""
    return np.resize(rng.permutation(values), count)
