"""Evaluates any policy on any log: the estimators and the interval by which training judges its own policies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from runtime.errors import Problems, UserError
from runtime.offline.data.reading import read_transitions
from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.behavior import estimate_behavior as clone_behavior
from runtime.offline.estimators.bounds import ReturnBounds, bound_returns
from runtime.offline.selection import PolicyEvaluator, Report, draw_evaluation_episodes
from runtime.offline.target_policies import EvaluatedPolicy, LoadedPolicy, check_spaces, load_target

GAMMA = 0.99
_LEAST_EPISODES = 2

Function = Callable[[NDArray[np.float32]], NDArray[Any]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PolicyEvaluation(Report):
    """Off-policy estimates of a policy, as training reports them, and what they were computed from.

    Attributes:
        policy: Path or name of the policy.
        log: Path of the log; empty if it was given in memory.
        gamma: Discount per step of all returns, except `behaviour_return`.
        steps: Steps of the episodes behind the estimates.
        bounds: Least and largest possible discounted return.
        notes: Corrections of the log and assumptions, one line each.
    """

    policy: str
    log: str
    gamma: float
    steps: int
    bounds: ReturnBounds
    notes: tuple[str, ...] = ()


def evaluate_policy(
    policy: str | Path | Function,
    log: str | Path | Transitions,
    *,
    gamma: float = GAMMA,
    horizon: int | None = None,
    temperature: float | None = None,
    epsilon: float = 0.0,
    estimate_behavior: bool = False,
    seed: int = 0,
) -> PolicyEvaluation:
    """Estimates the return of a policy from a log of another one, without an environment.

    Args:
        policy: Model directory, results folder or model.tar.gz of this program, ONNX file, checkpoint of RLlib's new
            API stack, or d3rlpy's .d3 file; or a function that returns (B, A) action probabilities at (B, O) float32
            observations, or (B, A) actions where the log's are continuous.
        log: CSV, Parquet, HDF5 or Minari as docs/batch-rl.md describes them, RLlib's JSON or Parquet, or transitions
            in memory. It should hold episodes that the policy did not learn from.
        gamma: Discount per step, from 0 to below 1.
        horizon: Steps after which every episode is over, if there is such a limit.
        temperature: Temperature of the softmax over the policy's logits or values that actions are sampled from.
            None evaluates a function's probabilities as they are, and the most likely action of a network.
        epsilon: Share of uniformly random actions.
        estimate_behavior: Whether to estimate the probabilities of the logged actions by behavior cloning where the
            log has none; otherwise the estimators that need them are left out.
        seed: Seed of random features, resamples, rollouts, and of the episodes drawn from a large log.

    Returns:
        The estimates, each with its 95 % interval. `refused` says why there is no interval, `left_out` which
        estimators there are none of.

    Raises:
        UserError: An argument, the policy or the log is invalid, or they have other spaces; all problems are listed.
    """
    _check(gamma=gamma, horizon=horizon, temperature=temperature, epsilon=epsilon)
    loaded, data = _load(policy, log)
    loaded, data = _match_actions(loaded, data)
    check_spaces(loaded, data, temperature=temperature, epsilon=epsilon)
    notes, warnings = list(data.notes), list(_doubts(loaded, data))
    used = draw_evaluation_episodes(data, seed=seed)
    if used is not data:
        notes.append(f"{len(used.starts):,} of {len(data.starts):,} episodes were drawn for the estimates")
    with threadpool_limits(limits=1):  # for regressions this small, more threads add waiting
        if estimate_behavior and data.num_actions is not None and not data.has_probabilities:
            used = replace(used, probabilities=clone_behavior(data, used, seed=seed))
            notes.append("the log has no action probabilities: importance sampling uses estimated ones")
        bounds = bound_returns(data, gamma, horizon=horizon)
        evaluator = PolicyEvaluator(used, gamma=gamma, seed=seed, bounds=bounds)
        count = data.num_actions or data.actions.shape[1]
        target = EvaluatedPolicy(loaded, count, temperature=temperature, epsilon=epsilon, mask_size=data.mask_size)
        report = evaluator.report(target)
    found = vars(report) | {"warnings": (*warnings, *report.warnings)}
    return PolicyEvaluation(
        **found,
        policy=loaded.name,
        log="" if isinstance(log, Transitions) else str(log),
        gamma=gamma,
        steps=len(used),
        bounds=bounds,
        notes=tuple(notes),
    )


def _check(*, gamma: float, horizon: int | None, temperature: float | None, epsilon: float) -> None:
    problems = Problems("this evaluation")
    source = "the arguments"
    if not 0 <= gamma < 1:  # NaN neither
        remedy = "For undiscounted returns of episodes that end, 0.999 is close." if gamma == 1 else ""
        problems.add("gamma", gamma, source, expected="a discount from 0 to below 1", remedy=remedy)
    if horizon is not None and horizon < 1:
        problems.add("horizon", horizon, source, expected="a number of steps from 1")
    if temperature is not None and not (temperature >= 0 and math.isfinite(temperature)):
        problems.add("temperature", temperature, source, expected="a number from 0")
    if not 0 <= epsilon <= 1:
        problems.add("epsilon", epsilon, source, expected="a share from 0 to 1")
    problems.raise_if_any()


def _load(policy: str | Path | Function, log: str | Path | Transitions) -> tuple[LoadedPolicy, Transitions]:
    """Loads both, so that problems of both are listed."""
    problems = Problems("this evaluation")
    data = log if isinstance(log, Transitions) else _attempt(problems, lambda: read_transitions(Path(log)))
    if data is not None and len(data.starts) < _LEAST_EPISODES:
        where = "" if isinstance(log, Transitions) else f" from {log}"
        problems.add_line(
            f"log: got {len(data.starts)} episodes{where}; expected at least {_LEAST_EPISODES}, as each half judges "
            "the other. Check that episode_id tells them apart."
        )
    loaded = _attempt(problems, lambda: load_target(policy))
    problems.raise_if_any()
    assert loaded is not None
    assert data is not None
    return loaded, data


def _attempt(problems: Problems, load: Callable[[], T]) -> T | None:
    try:
        return load()
    except UserError as error:
        problems.add_line(str(error))
        return None


def _match_actions(policy: LoadedPolicy, data: Transitions) -> tuple[LoadedPolicy, Transitions]:
    """Takes the number of actions from the policy where the log's largest action is all that is known of it."""
    if policy.kind == "either" and policy.count is None:
        answer = np.asarray(policy.answer(data.states[:1]))
        policy = replace(policy, count=answer.shape[1] if answer.ndim == 2 else None)
    is_known = data.num_actions is None or data.probabilities is not None or data.mask_size > 0
    if is_known or policy.count is None:
        return policy, data
    assert data.num_actions is not None
    return policy, replace(data, num_actions=max(data.num_actions, policy.count))


def _doubts(policy: LoadedPolicy, data: Transitions) -> tuple[str, ...]:
    """Says what of the log or the policy makes every estimate doubtful."""
    found = []
    if policy.learned_from == data.fingerprint:
        found.append(
            "the policy learned from this log: estimates on the same episodes are too high. The ope.json of its "
            "training has those of held-out episodes"
        )
    if data.has_probabilities and (data.chosen_probabilities == 1).all():
        found.append(
            "every logged action has probability 1: where the log's policy explored, these are wrong (RLlib logs 1 "
            "for random actions of DQN, too), and so is importance sampling"
        )
    return tuple(found)
