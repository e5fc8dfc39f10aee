"""A log of transitions as it was read, and the checks of its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import Problems
from runtime.policies.spaces import ACTION_MASK

_LARGEST = 1e15  # squares of more are beyond float32
_MOST_ACTIONS = 1000
_SHOWN = 5  # rows named of one kind of problem
_SUM_TOLERANCE = 1e-3  # of probabilities; what is within is scaled to 1

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Log:
    """Rows of a log as they were read, in the order of the file.

    Attributes:
        name: Name of the file or folder, for messages.
        row_name: Name of row i in the file's own numbering, as "line 7".
        observations: (N, O) observation before each step; an action mask is its last numbers.
        actions: (N,) numbers of a discrete action, or (N, A) of a continuous one.
        rewards: (N,) reward of each step.
        episodes: (N,) number of each row's episode; rows of one episode share a number.
        episode_names: The file's own id of each of those episodes.
        steps: (N,) step numbers inside the episode, or None: then rows are in order.
        cumulative_rewards: (N,) an episode's return at its last row, or its running sum; or None.
        terminated: (N,) whether the episode ended there by itself; None if the file does not say.
        truncated: (N,) whether it was cut off there, by a time limit or the end of the log; None if the file does
            not say.
        probabilities: (N, A) behavior policy's probability of each action; NaN where missing; or None.
        chosen_probabilities: (N,) its probability of the action that was taken, where the log has no other; or None.
        final_observations: Episode number to the (O,) state after its last step, where the log has it.
        mask_size: How many of an observation's last numbers are a mask of the allowed actions; 0 if there is none.
    """

    name: str
    row_name: Callable[[int], str]
    observations: Singles
    actions: NDArray[Any]
    rewards: Singles
    episodes: Integers
    episode_names: list[Any]
    steps: NDArray[np.float64] | None = None
    cumulative_rewards: Singles | None = None
    terminated: Bools | None = None
    truncated: Bools | None = None
    probabilities: Singles | None = None
    chosen_probabilities: Singles | None = None
    final_observations: dict[int, Singles] = field(default_factory=dict)
    mask_size: int = 0


class LogProblems(Problems):
    """Problems of rows: some rows of each kind are named, the rest counted."""

    def __init__(self, log: Log) -> None:
        super().__init__(log.name)
        self._log = log

    def add_rows(self, rows: Bools, what: str, values: NDArray[Any], *, expected: str, remedy: str = "") -> None:
        """Notes the rows where a rule is broken, if any."""
        found = np.flatnonzero(rows)
        if not len(found):
            return
        shown = ", ".join(f"{_show(values[row])} in {self._log.row_name(int(row))}" for row in found[:_SHOWN].tolist())
        more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
        remedy = f" {remedy}" if remedy else ""
        self.add_line(f"{self._log.name}: {what}: got {shown}{more}; expected {expected}.{remedy}")


def _show(value: Any) -> str:
    array = np.asarray(value)
    if array.ndim:
        return "[" + ", ".join(f"{number:g}" for number in array.tolist()) + "]"
    return f"{array.item():g}" if np.issubdtype(array.dtype, np.number) else repr(array.item())


def check_numbers(log: Log, problems: LogProblems) -> None:
    """Checks that rewards, states and continuous actions are finite."""
    columns = [("reward", log.rewards)]
    features = log.observations.shape[1] - log.mask_size
    columns += [(f"state_feature_{i}", log.observations[:, i]) for i in range(features)]
    if log.actions.ndim == 2:
        columns += [(f"action_{i}", log.actions[:, i]) for i in range(log.actions.shape[1])]
    for name, values in columns:
        wrong = ~(np.abs(values) < _LARGEST)  # NaN neither
        problems.add_rows(
            wrong, name, values, expected=f"finite numbers below {_LARGEST:g}", remedy="Fix or drop the episode."
        )
    for episode, state in log.final_observations.items():
        if not np.isfinite(state).all():
            problems.add_line(f"{log.name}: got {_show(state)} after episode {episode}; expected finite numbers.")


def check_actions(log: Log, num_actions: int | None, problems: LogProblems) -> int:
    """Checks discrete actions; returns the number of actions."""
    actions = log.actions
    whole = np.isfinite(actions) & (actions == np.floor(actions))
    source = "as configured"
    if log.mask_size:
        if num_actions not in (None, log.mask_size):
            problems.add_line(
                f"{log.name}: {ACTION_MASK}: got {log.mask_size} numbers a row; expected {num_actions}, one for each "
                "action, as configured."
            )
        num_actions = log.mask_size
        source = f"as there are numbers in an {ACTION_MASK}"
    if num_actions is None and log.probabilities is not None and not np.isnan(log.probabilities).all():
        num_actions = log.probabilities.shape[1]
        source = "as there are probabilities"
    if num_actions is None:
        num_actions = int(actions[whole].max(initial=1)) + 1
        source = "as the largest one says"
    if num_actions > _MOST_ACTIONS:
        num_actions = _MOST_ACTIONS
        source = "which is the most"
    problems.add_rows(
        np.asarray(~whole | (actions < 0) | (actions >= num_actions)),
        "action",
        actions,
        expected=f"whole numbers from 0 to {num_actions - 1}, {source}",
        remedy="Continuous actions stand in columns action_0, action_1, …",
    )
    taken = np.unique(actions[whole])
    if len(taken) == 1:
        problems.add_line(
            f"{log.name}: action: got the action {taken[0]:g} in every row; expected at least two different ones, as "
            "nothing can be learned of an action that was never taken."
        )
    return num_actions


def check_masks(log: Log, problems: LogProblems) -> None:
    """Checks that action masks are 0 and 1, and allow the action that was taken and those with a probability."""
    if not log.mask_size:
        return
    if log.actions.ndim == 2:
        problems.add_line(
            f"{log.name}: {ACTION_MASK}: got one for continuous actions; expected none, or a discrete action. Leave it "
            "out if the environment takes any action."
        )
        return
    masks = log.observations[:, -log.mask_size :]
    is_binary = ((masks == 0) | (masks == 1)).all(axis=1)
    problems.add_rows(~is_binary, ACTION_MASK, masks, expected="0 or 1 for each action")
    known = np.isfinite(log.actions) & (log.actions >= 0) & (log.actions < log.mask_size)
    actions = np.where(known, log.actions, 0).astype(np.int64)
    is_allowed = np.take_along_axis(masks, actions[:, None], axis=1)[:, 0] != 0
    problems.add_rows(
        np.asarray(is_binary & known & ~is_allowed),
        "action",
        log.actions,
        expected=f"an action that its row's {ACTION_MASK} allows",
        remedy="Log the mask of the state before the action.",
    )
    if log.probabilities is None or log.probabilities.shape != masks.shape:
        return
    problems.add_rows(
        np.asarray(((log.probabilities > 0) & (masks == 0)).any(axis=1)),
        "all_action_probabilities",
        log.probabilities,
        expected=f"0 for the actions that the row's {ACTION_MASK} does not allow",
    )


def check_probabilities(log: Log, num_actions: int | None, problems: LogProblems) -> Singles | None:
    """Checks that action probabilities sum to 1; returns None if the log has none."""
    probabilities = log.probabilities
    if probabilities is None or np.isnan(probabilities).all():
        return None
    name = "all_action_probabilities"
    if num_actions is not None and probabilities.shape[1] != num_actions:
        problems.add_line(
            f"{log.name}: {name}: got {probabilities.shape[1]} probabilities a row; expected {num_actions}, one for "
            "each action."
        )
        return None
    missing = np.asarray(np.isnan(probabilities).any(axis=1))
    remedy = "Drop the column to go without: the behavior policy is then estimated."
    problems.add_rows(missing, name, probabilities, expected="a probability for each action", remedy=remedy)
    sums = probabilities.sum(axis=1, dtype=np.float64)
    outside = ((probabilities < 0) | (probabilities > 1 + _SUM_TOLERANCE)).any(axis=1)
    wrong = ~missing & (outside | (np.abs(sums - 1) > _SUM_TOLERANCE))
    problems.add_rows(wrong, name, probabilities, expected="numbers from 0 to 1 that sum to 1")
    known = np.isfinite(log.actions) & (log.actions >= 0) & (log.actions < probabilities.shape[1])
    actions = np.where(known, log.actions, 0).astype(np.int64)
    chosen = np.take_along_axis(probabilities, actions[:, None], axis=1)[:, 0]
    problems.add_rows(
        known & ~missing & ~wrong & (chosen <= 0),
        name,
        probabilities,
        expected="more than 0 for the action that was taken",
        remedy="Log the probabilities of the policy that acted.",
    )
    return np.asarray(probabilities / np.where(sums > 0, sums, 1)[:, None], np.float32)


def check_chosen_probabilities(log: Log, problems: LogProblems) -> Singles | None:
    """Checks the probabilities of the actions that were taken; returns None if the log has none."""
    chosen = log.chosen_probabilities
    if chosen is None:
        return None
    wrong = ~((chosen > 0) & (chosen <= 1 + _SUM_TOLERANCE))  # NaN neither
    problems.add_rows(
        np.asarray(wrong),
        "action_prob",
        chosen,
        expected="more than 0 for the action that was taken, and at most 1",
        remedy="Log the probabilities of the policy that acted.",
    )
    return np.minimum(chosen, 1)


def sort_rows(log: Log, problems: LogProblems) -> tuple[Integers, tuple[str, ...]]:
    """Sorts rows by episode and step, episodes by their first rows; returns a note if that changed the order."""
    rows = np.arange(len(log.rewards))
    episodes = log.episodes
    first = np.full(len(log.episode_names), len(rows))
    np.minimum.at(first, episodes[_changes(episodes)], rows[_changes(episodes)])
    runs = np.bincount(episodes[_changes(episodes)], minlength=len(log.episode_names))
    if log.steps is not None:
        order = np.lexsort((log.steps, first[episodes]))
        _check_steps(log, order, problems)
    elif (runs > 1).any():
        order = np.argsort(first[episodes], kind="stable")
        _check_interleaved(log, runs, problems)
    else:
        order = rows
    _check_marks(log, order, problems)
    _check_ends(log, order, problems)
    if (order == rows).all():
        return rows, ()
    moved = int((order != rows).sum())
    return order, (f"{log.name}: rows were not in the order of their episodes; {moved:,} were moved",)


def _check_ends(log: Log, order: Integers, problems: LogProblems) -> None:
    """Checks that an episode ends once, in its last row."""
    is_last = np.diff(log.episodes[order], append=-1) != 0
    for name, flags in (("terminated", log.terminated), ("truncated", log.truncated)):
        if flags is None:
            continue
        wrong = np.zeros(len(order), bool)
        wrong[order] = flags[order] & ~is_last
        problems.add_rows(
            wrong,
            name,
            flags,
            expected="true in the last row of an episode alone",
            remedy="Two episodes may share an episode_id, or rows are out of order: add a transition_number.",
        )


def _changes(episodes: Integers) -> Bools:
    """Marks the first row of each run of rows of one episode."""
    return np.asarray(np.diff(episodes, prepend=-1) != 0)


def _check_steps(log: Log, order: Integers, problems: LogProblems) -> None:
    assert log.steps is not None
    bad = ~np.isfinite(log.steps)
    problems.add_rows(bad, "transition_number", log.steps, expected="numbers")
    steps, episodes = log.steps[order], log.episodes[order]
    gaps = np.diff(steps, prepend=0)
    same = np.diff(episodes, prepend=-1) == 0
    wrong = np.zeros(len(order), bool)
    wrong[order] = same & (gaps == 0)
    problems.add_rows(
        wrong,
        "transition_number",
        log.steps,
        expected="each number once in an episode",
        remedy="Two episodes may share an episode_id: give each its own.",
    )
    wrong = np.zeros(len(order), bool)
    wrong[order] = same & (gaps > 1)
    problems.add_rows(
        wrong,
        "transition_number",
        log.steps,
        expected="numbers without a gap inside an episode",
        remedy="A state must be followed by the one that came next: restore the missing rows, or split the episode.",
    )


def _check_interleaved(log: Log, runs: Integers, problems: LogProblems) -> None:
    """Checks that rows of one id in several places are one episode: a column must mark where each episode ended."""
    broken = np.flatnonzero(runs > 1)
    names = ", ".join(repr(log.episode_names[number]) for number in broken[:_SHOWN].tolist())
    if log.cumulative_rewards is None:
        problems.add_line(
            f"{log.name}: episode_id: got rows of {names} in several places ({len(broken):,} such ids); expected each "
            "episode's rows together. Add a column transition_number, or give each episode an id of its own."
        )
        return
    marked = np.bincount(log.episodes, weights=marks(log), minlength=len(runs))
    twice = np.flatnonzero((marked > 1) & (runs > 1))
    if len(twice) and is_marked_once(log):
        names = ", ".join(repr(log.episode_names[number]) for number in twice[:_SHOWN].tolist())
        problems.add_line(
            f"{log.name}: episode_id: got {names}, whose cumulative_rewards end more than one episode; expected an id "
            "for each episode. Rename one of them."
        )


def marks(log: Log) -> Bools:
    """Rows with a cumulative reward."""
    assert log.cumulative_rewards is not None
    return np.asarray(np.isfinite(log.cumulative_rewards) & (log.cumulative_rewards != 0))


def is_marked_once(log: Log) -> bool:
    """Whether cumulative_rewards stand at the ends of episodes alone, as the notebook's collector writes them."""
    return int(marks(log).sum()) <= 2 * len(log.episode_names)


def _check_marks(log: Log, order: Integers, problems: LogProblems) -> None:
    """Checks that an episode's return is in its last row; anywhere else, the rows were shuffled."""
    if log.cumulative_rewards is None or not is_marked_once(log):
        return
    marked = marks(log)
    is_last = np.diff(log.episodes[order], append=-1) != 0
    sums = np.cumsum(log.rewards[order], dtype=np.float64)
    before = np.maximum.accumulate(np.where(_changes(log.episodes[order]), np.arange(len(order)), 0))
    running = sums - (sums - log.rewards[order])[before]
    is_running = np.isclose(log.cumulative_rewards[order], running, rtol=1e-3, atol=1e-3)
    wrong = np.zeros(len(order), bool)
    wrong[order] = marked[order] & ~is_last & ~is_running
    problems.add_rows(
        wrong,
        "cumulative_rewards",
        log.cumulative_rewards,
        expected="an episode's return in its last row",
        remedy="The rows of these episodes are out of order: log a transition_number, or sort with kind='stable'.",
    )
