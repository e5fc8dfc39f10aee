"""Decides from joined rewards whether a variant of the server earns less than another: `smrl rollback-check`.

The test is always valid: it may be run after every reward, for as long as one likes, and its chance to ever call for a
rollback of a variant that is no worse stays below alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import Problems, UserError
from runtime.offline.estimators.sequential import Floats, confidence_sequence

KEEPS = 0
ROLLS_BACK = 4  # as the deploy gate's no

_COLUMNS = ("variant", "reward", "episode_id")


@dataclass(frozen=True)
class RollbackRequest:
    """What `smrl rollback-check` compares.

    Attributes:
        data: Log that `smrl join` wrote, .csv or .parquet.
        control: Name of the variant that a rollback returns to.
        treatment: Name of the variant that may be worse.
        least: Least possible reward.
        most: Largest possible reward.
        alpha: Chance of a false alarm, over all looks together.
        margin: Reward by which the treatment may be worse.
    """

    data: Path
    control: str
    treatment: str
    least: float
    most: float
    alpha: float = 0.05
    margin: float = 0.0


@dataclass(frozen=True)
class Arm:
    """A variant's mean reward.

    Attributes:
        count: Number of its rewards.
        mean: Their mean.
        low: Lower end of its confidence sequence.
        high: Upper end.
    """

    count: int
    mean: float
    low: float
    high: float


def run_rollback_check(request: RollbackRequest) -> int:
    """Compares two variants, prints the verdict and both means, and returns the exit code: 0 to keep, 4 to roll back.

    Raises:
        UserError: The request or the log is invalid; every problem is listed.
    """
    _check(request)
    rewards, left_out = _read(request)
    control, treatment = (
        measure_arm(rewards[name], least=request.least, most=request.most, alpha=request.alpha)
        for name in (request.control, request.treatment)
    )
    is_worse = treatment.high < control.low - request.margin
    margin = f" less the margin {request.margin:g}" if request.margin else ""
    print(
        f"rollback-check: {'roll back' if is_worse else 'keep'}: {request.treatment}'s mean reward is at most "
        f"{treatment.high:.4g}, {'below' if is_worse else 'not below'} {request.control}'s of at least "
        f"{control.low:.4g}{margin}"
    )
    width = max(len(request.control), len(request.treatment))
    for name, arm in ((request.control, control), (request.treatment, treatment)):
        ends = f"[{arm.low:.4g}, {arm.high:.4g}]"
        print(f"{name.ljust(width)}  mean reward {arm.mean:.4g} {ends} of {arm.count:,} decisions")
    if left_out:
        print(f"{left_out:,} episodes of several decisions left out: several variants share their rewards")
    return ROLLS_BACK if is_worse else KEEPS


def measure_arm(rewards: Floats, *, least: float, most: float, alpha: float) -> Arm:
    """Computes a variant's mean reward with the confidence sequence that two variants share alpha by.

    An alarm needs the control's lower end or the treatment's upper end to be wrong. Each is with a probability of at
    most alpha / 2, by the union bound alpha together.

    Args:
        rewards: (N,) rewards in the order of their decisions.
        least: Least possible reward.
        most: Largest possible reward.
        alpha: Chance of a false alarm.
    """
    low, high = confidence_sequence((rewards - least) / (most - least), alpha=alpha)
    span = most - least
    return Arm(len(rewards), float(rewards.mean()), least + span * float(low[-1]), least + span * float(high[-1]))


def _check(request: RollbackRequest) -> None:
    problems = Problems("this command line")
    source = "the command line"
    if not request.data.is_file():
        problems.add("data", str(request.data), source, expected="a log, as smrl join writes it")
    if request.control == request.treatment:
        problems.add("--treatment", request.treatment, source, expected="another variant than --control")
    if not (math.isfinite(request.least) and math.isfinite(request.most) and request.least < request.most):
        problems.add(
            "--rewards", (request.least, request.most), source, expected="the least and a larger largest reward"
        )
    if not 0 < request.alpha < 1:
        problems.add("--alpha", request.alpha, source, expected="a probability above 0 and below 1")
    if not (math.isfinite(request.margin) and request.margin >= 0):
        problems.add("--margin", request.margin, source, expected="a number of at least 0")
    problems.raise_if_any()


def _read(request: RollbackRequest) -> tuple[dict[str, Floats], int]:
    """Reads the rewards of each of both variants, and the number of episodes that were left out."""
    table = _read_table(request.data)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise UserError(
            f"{request.data}: got no column {' or '.join(missing)}; expected a log of smrl join, from a server with "
            "--variant."
        )
    lengths = table.groupby("episode_id")["reward"].transform("size")
    left_out = int(table.loc[lengths > 1, "episode_id"].nunique())
    table = table[lengths == 1]
    problems = Problems(str(request.data))
    found = {}
    for name in (request.control, request.treatment):
        found[name] = table.loc[table["variant"].astype(str) == name, "reward"].to_numpy(np.float64)
        if not len(found[name]):
            known = ", ".join(sorted(set(table["variant"].dropna().astype(str)))) or "none"
            problems.add(
                "variant", name, "the command line", expected=f"one with episodes of one decision; the log has {known}"
            )
        outside = found[name][~((found[name] >= request.least) & (found[name] <= request.most))]
        if len(outside):
            problems.add(
                f"reward of {name}",
                float(outside[0]),
                str(request.data),
                expected=f"numbers from {request.least:g} to {request.most:g} ({len(outside):,} are not)",
                remedy="Give the range of all possible rewards with --rewards; one taken from the log is not valid.",
            )
    problems.raise_if_any()
    return found, left_out


def _read_table(path: Path) -> Any:
    import pandas

    try:
        return pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path}: got a file that cannot be read ({error}); expected a log that smrl join wrote."
        ) from None
