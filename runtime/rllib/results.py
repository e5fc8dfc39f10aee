"""Flattens RLlib's nested result of an iteration into one row of metrics, under the names of SageMaker's examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from runtime.rllib.episodes import LENGTHS, RETURNS

_ONLY = "default_policy"  # RLlib's name for the policy of a training with one agent
_EXPLAINED = "vf_explained_var"
_UNEXPLAINED_ITERATIONS = 10
_LEAST_EXPLAINED = 0.05  # of the variance
# Before episodes count as endless: iterations, lengths of the usual episode, and steps where none has ended yet.
_ENDLESS_ITERATIONS, _ENDLESS_LENGTHS, _ENDLESS_STEPS = 5, 3, 1000
_LEARNER = {
    "total_loss": "total_loss",
    "policy_loss": "policy_loss",
    "vf_loss": "vf_loss",
    _EXPLAINED: "vf_explained_var",
    "kl": "mean_kl_loss",
    "entropy": "entropy",
    "cur_kl_coeff": "curr_kl_coeff",
    "cur_lr": "default_optimizer_learning_rate",
    "grad_norm": "gradients_default_optimizer_global_norm",
    "qf_loss": "qf_loss",
    "qf_mean": "qf_mean",
    "td_error_mean": "td_error_mean",
    "alpha": "alpha_value",
    "alpha_loss": "alpha_loss",
}
# IMPALA's losses are sums over the batch, with their means beside them.
_MEANS = {"policy_loss": "mean_pi_loss", "vf_loss": "mean_vf_loss"}


def to_row(result: Mapping[str, Any], recent: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Flattens an RLlib result.

    Args:
        result: Result of one iteration.
        recent: Return and length of the last episodes, newest last; all of them are averaged.

    Returns:
        Steps, then returns (absent while no episode has ended), then losses, which end in the policy's name where
        several agents learn; only finite numbers.
    """
    row: dict[str, float] = {"timesteps_total": int(result["num_env_steps_sampled_lifetime"])}
    if recent:
        returns = [episode_return for episode_return, _ in recent]
        row["episode_reward_mean"] = math.fsum(returns) / len(returns)
        row["episode_reward_max"], row["episode_reward_min"] = max(returns), min(returns)
        row["episode_len_mean"] = sum(length for _, length in recent) / len(recent)
    for policy, learner in _by_policy(result).items():
        floats: dict[str, Any] = {name: learner.get(theirs) for name, theirs in _LEARNER.items()}
        floats |= {name: learner[theirs] for name, theirs in _MEANS.items() if theirs in learner}
        end = "" if policy == _ONLY else f"_{policy}"
        row |= {f"{name}{end}": float(value) for name, value in floats.items() if _is_number(value)}
    return row


def _by_policy(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns what the learner reports of each policy, without its totals over all of them."""
    learners = result.get("learners", {})
    return {policy: learners[policy] for policy in learners if not policy.startswith("__")}


def explains_nothing(rows: Sequence[Mapping[str, float]]) -> bool:
    """Whether the value function has predicted returns no better than their mean for the last 10 iterations.

    Args:
        rows: Rows of metrics, newest last; one without `vf_explained_var` counts as explained.
    """
    last = rows[-_UNEXPLAINED_ITERATIONS:]
    return len(last) == _UNEXPLAINED_ITERATIONS and all(row.get(_EXPLAINED, 1.0) < _LEAST_EXPLAINED for row in last)


def endless_steps(rows: Sequence[Mapping[str, float]], environments: int) -> int:
    """Returns for how many steps no environment has ended an episode, if that is suspiciously long; else 0.

    Args:
        rows: Rows of metrics, newest last.
        environments: How many step side by side.
    """
    newest = rows[-1]
    quiet = list(takewhile(lambda row: row["episodes_total"] == newest["episodes_total"], reversed(rows)))
    steps = int(newest["timesteps_total"] - quiet[-1]["timesteps_total"]) // environments
    usual = _ENDLESS_LENGTHS * newest.get("episode_len_mean", _ENDLESS_STEPS / _ENDLESS_LENGTHS)
    return steps if len(quiet) > _ENDLESS_ITERATIONS and steps > usual else 0


def finished_episodes(result: Mapping[str, Any]) -> list[tuple[float, int]]:
    """Return and length of each episode that ended in an iteration."""
    runners = result.get("env_runners", {})
    returns, lengths = (flatten_series(runners.get(name, ())) for name in (RETURNS, LENGTHS))
    return [(float(r), int(length)) for r, length in zip(returns, lengths, strict=True)]


def flatten_series(series: Any) -> list[float]:
    """Flattens a series, whose items are numbers or arrays of them; RLlib passes a series of one item bare."""
    items = series if isinstance(series, list | tuple) else [series]
    return [value for item in items for value in np.atleast_1d(item).tolist()]


def has_nan_loss(result: Mapping[str, Any]) -> bool:
    """Whether the losses of an update are NaN or infinite."""
    found = [
        learner[name]
        for learner in _by_policy(result).values()
        for name in ("total_loss", "policy_loss")
        if name in learner
    ]
    return not all(math.isfinite(float(loss)) for loss in found)


def _is_number(value: Any) -> bool:
    try:
        return value is not None and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
