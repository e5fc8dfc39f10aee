"""Logged transitions in memory, as columns: episodes are contiguous and each state is linked to the next."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.offline.data.log import (
    Bools,
    Integers,
    Log,
    LogProblems,
    Singles,
    check_actions,
    check_chosen_probabilities,
    check_masks,
    check_numbers,
    check_probabilities,
    is_marked_once,
    sort_rows,
)

TERMINAL, UNKNOWN = -1, -2
_SHOWN = 5
_RETURN_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Transitions:
    """Transitions of whole episodes, in order.

    Attributes:
        observations: (M, O) float32. Row i is the state of transition i; rows from N on are states after a cut. An
            action mask is a row's last numbers: it is part of the state.
        actions: (N,) int64 of 0..num_actions - 1, or (N, A) float32.
        rewards: (N,) float32.
        next_rows: (N,) int64 row of the state that follows; TERMINAL, or UNKNOWN where the log was cut off.
        starts: (E,) int64 first transition of each episode.
        probabilities: (N, num_actions) float32 of the behavior policy, or None where the log has none.
        num_actions: Number of discrete actions; None for continuous ones.
        notes: Corrections and assumptions, one line each.
        logged_probabilities: (N,) float32 of the actions that were taken, where the log has no others; or None.
        mask_size: How many of an observation's last numbers are a mask of the allowed actions; 0 if there is none.
    """

    observations: Singles
    actions: NDArray[Any]
    rewards: Singles
    next_rows: Integers
    starts: Integers
    probabilities: Singles | None
    num_actions: int | None
    notes: tuple[str, ...] = ()
    logged_probabilities: Singles | None = None
    mask_size: int = 0

    def __len__(self) -> int:
        return len(self.rewards)

    @cached_property
    def lengths(self) -> Integers:
        """(E,) steps of each episode."""
        return np.diff(self.starts, append=len(self))

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """(E,) undiscounted return of each episode."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts)

    @property
    def fingerprint(self) -> str:
        """Number of steps and a checksum, by which a resumed job knows its log."""
        some = self.observations.ravel()[:: max(1, self.observations.size // 10_000)]
        return f"{len(self):,} steps, {zlib.crc32(np.concatenate([self.rewards, some]).tobytes()):08x}"

    @property
    def states(self) -> Singles:
        """(N, O) state of each transition."""
        return self.observations[: len(self)]

    @property
    def has_probabilities(self) -> bool:
        """Whether the log has the behavior policy's probability of each logged action."""
        return self.probabilities is not None or self.logged_probabilities is not None

    @property
    def chosen_probabilities(self) -> Singles:
        """(N,) behavior probability of each logged action."""
        if self.probabilities is None:
            assert self.logged_probabilities is not None
            return self.logged_probabilities
        return np.take_along_axis(self.probabilities, self.actions[:, None], axis=1)[:, 0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return self.observations.shape[1:]

    def select(self, episodes: Integers) -> Transitions:
        """Returns the transitions of some episodes, in the order given."""
        lengths = self.lengths[episodes]
        starts = np.cumsum(lengths) - lengths
        rows = np.repeat(self.starts[episodes] - starts, lengths) + np.arange(lengths.sum())
        following = self.next_rows[rows]
        beyond = following >= len(self)  # states after a cut
        shift = np.where(following >= 0, np.arange(len(rows)) - rows, 0)
        shift[beyond] = len(rows) + np.arange(beyond.sum()) - following[beyond]
        return Transitions(
            observations=self.observations[np.concatenate([rows, following[beyond]])],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            next_rows=following + shift,
            starts=starts,
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            num_actions=self.num_actions,
            logged_probabilities=None if self.logged_probabilities is None else self.logged_probabilities[rows],
            mask_size=self.mask_size,
        )

    def split(self, fraction: float, *, seed: int) -> tuple[Transitions, Transitions]:
        """Splits the episodes at random into two parts of at least one episode each, in the order of the log.

        Args:
            fraction: Share of the episodes in the first part.
            seed: Seed of the random split.
        """
        count = len(self.starts)
        first = min(max(round(fraction * count), 1), count - 1)
        order = np.random.default_rng(seed).permutation(count)
        return self.select(np.sort(order[:first])), self.select(np.sort(order[first:]))


def arrange(log: Log, *, num_actions: int | None = None) -> Transitions:
    """Checks a log, sorts its rows into episodes, and links each state to the one that follows.

    Args:
        log: Rows as they were read.
        num_actions: Number of discrete actions, if known; otherwise derived from the probabilities or the largest
            action.

    Raises:
        UserError: The log breaks rules; every kind of problem is listed, with rows.
    """
    problems = LogProblems(log)
    if not len(log.rewards):
        problems.add_line(f"{log.name}: got no transitions; expected at least one episode of one step.")
    problems.raise_if_any()
    check_numbers(log, problems)
    is_discrete = log.actions.ndim == 1
    if is_discrete:
        num_actions = check_actions(log, num_actions, problems)
    check_masks(log, problems)
    probabilities = check_probabilities(log, num_actions, problems) if is_discrete else None
    chosen = check_chosen_probabilities(log, problems) if is_discrete else None
    order, notes = sort_rows(log, problems)
    problems.raise_if_any()
    episodes = log.episodes[order]
    starts = np.flatnonzero(np.diff(episodes, prepend=episodes[0] - 1))
    ends = np.append(starts[1:], len(order)) - 1
    next_rows, final, end_notes = _link(log, order, ends)
    rewards = log.rewards[order]
    observations = log.observations[order] if notes else log.observations  # a copy of all states only if it must be
    if len(final):
        observations = np.concatenate([observations, final])
    actions = log.actions[order]
    if is_discrete and num_actions is not None:
        unseen = sorted(set(range(num_actions)) - set(np.unique(actions).astype(int).tolist()))
        if unseen:
            notes = (*notes, f"{log.name}: never taken: {'action' if len(unseen) == 1 else 'actions'} {unseen}")
    return Transitions(
        observations=observations,
        actions=actions.astype(np.int64) if is_discrete else actions.astype(np.float32),
        rewards=rewards,
        next_rows=next_rows,
        starts=starts.astype(np.int64),
        probabilities=None if probabilities is None else probabilities[order],
        num_actions=num_actions if is_discrete else None,
        notes=(*notes, *end_notes),
        logged_probabilities=None if chosen is None else chosen[order],
        mask_size=log.mask_size,
    )


def _link(log: Log, order: Integers, ends: Integers) -> tuple[Integers, Singles, tuple[str, ...]]:
    """Finds the row of each next state, the states after truncations, and notes on assumed episode ends."""
    following = np.arange(1, len(order) + 1)
    following[ends] = TERMINAL
    cut, notes = _find_cuts(log, order, ends)
    final: list[Singles] = []
    for end in ends[cut].tolist():
        state = log.final_observations.get(int(log.episodes[order[end]]))
        following[end] = UNKNOWN if state is None else len(order) + len(final)
        if state is not None:
            final.append(state)
    unknown = int((following == UNKNOWN).sum())
    if unknown:
        notes = (
            *notes,
            f"{log.name}: {unknown:,} of {len(ends):,} episodes were cut off, not ended; the state after each cut is "
            "not in the log, so its last step counts in returns but is not learned from",
        )
    width = log.observations.shape[1:]
    return following, np.array(final, np.float32).reshape(-1, *width), notes


def _find_cuts(log: Log, order: Integers, ends: Integers) -> tuple[Bools, tuple[str, ...]]:
    """Finds the episodes that were cut off rather than terminated: (E,) True where cut off."""
    last = order[ends]
    if log.truncated is not None or log.terminated is not None:
        truncated = np.zeros(len(last), bool) if log.truncated is None else log.truncated[last]
        if log.terminated is None:
            return truncated, ()
        return ~log.terminated[last], ()
    cut = np.zeros(len(last), bool)
    if log.cumulative_rewards is None or not is_marked_once(log):
        return cut, ()
    sums = np.add.reduceat(log.rewards[order].astype(np.float64), np.append(0, ends[:-1] + 1))
    found = np.nan_to_num(log.cumulative_rewards[last])
    cut = np.abs(found - sums) > _RETURN_TOLERANCE * np.maximum(1, np.abs(sums))
    if cut.mean() > 0.5:  # the column cannot be each episode's return
        return np.zeros(len(last), bool), ()
    notes = tuple(
        f"{log.name}: episode {log.episode_names[int(log.episodes[row])]!r} ends at {log.row_name(int(row))} without "
        "its cumulative reward: it is taken as cut off there"
        for row in last[cut][:_SHOWN].tolist()
    )
    return cut, notes
