"""Decides from a log whether a policy may replace the one that is served: `smrl deploy-gate`, for a pipeline."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.artifacts.manifest import unpack
from runtime.container.scratch import scratch_folder
from runtime.errors import Problems
from runtime.offline.data.reading import read_transitions
from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import ReturnBounds, bound_returns
from runtime.offline.estimators.support import Act
from runtime.offline.log_job import FEW_EPISODES
from runtime.offline.selection import Judged, PolicyEvaluator, draw_evaluation_episodes
from runtime.serving.exploring import Exploration, compute_probabilities
from runtime.serving.served_policy import ServedPolicy, load_policy

PASSES = 0
# 1, 2 and 3 are failures of the command itself (runtime.errors): no verdict was reached.
REFUSES = 4

_GREEDY = Exploration()
_ROWS = 65_536  # observations that a policy computes at a time


@dataclass(frozen=True)
class GateRequest:
    """What `smrl deploy-gate` compares.

    Attributes:
        champion: Model directory, results folder or model.tar.gz of the policy that is served.
        challenger: The same of the policy that may replace it.
        data: Log of episodes that neither policy learned from.
        margin: Discounted return by which the challenger must be better.
        gamma: Discount per step, in [0, 1).
        horizon: Steps after which every episode is over; None if there is no such limit.
        seed: Seed of the estimators.
        exploration: How both policies sample discrete actions where they are served.
    """

    champion: Path
    challenger: Path
    data: Path
    margin: float = 0.0
    gamma: float = 0.99
    horizon: int | None = None
    seed: int = 0
    exploration: Exploration = _GREEDY


@dataclass(frozen=True)
class Verdict:
    """The gate's decision.

    Attributes:
        passes: Whether the challenger may be deployed.
        reason: The comparison, or why there is none, without an end of sentence.
    """

    passes: bool
    reason: str

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return PASSES if self.passes else REFUSES


def run_gate(request: GateRequest) -> int:
    """Compares two policies, prints the verdict and a table, and returns the exit code: 0 to deploy, 4 not to.

    Raises:
        UserError: A policy or the log is invalid, or they do not fit each other; every problem is listed.
    """
    _check(request)
    with tempfile.TemporaryDirectory(prefix="gate-", dir=scratch_folder()) as scratch:
        champion, challenger = (
            _load(place, Path(scratch) / name)
            for name, place in (("champion", request.champion), ("challenger", request.challenger))
        )
    data = read_transitions(request.data, num_actions=_count_actions(champion))
    _check_spaces(request, {"--champion": champion, "--challenger": challenger}, data)
    evaluated_on = draw_evaluation_episodes(data, seed=request.seed)
    bounds = bound_returns(data, request.gamma, horizon=request.horizon)
    acts = [partial(_act, policy, request.exploration) for policy in (champion, challenger)]
    judged = judge_policies(acts, evaluated_on, log=data, gamma=request.gamma, seed=request.seed, bounds=bounds)
    verdict = decide(*judged, margin=request.margin, bounds=bounds)
    print(f"deploy-gate: {'yes' if verdict.passes else 'no'}: {verdict.reason}")
    print(_table(judged, (champion, challenger), evaluated_on, request, bounds))
    return verdict.exit_code


def decide(champion: Judged, challenger: Judged, *, margin: float, bounds: ReturnBounds) -> Verdict:
    """Passes a challenger whose lower bound exceeds the champion's estimate by the margin.

    An interval that the log does not support refuses the challenger, whichever policy's it is: there is nothing to
    compare with an estimate that may be any number.

    Args:
        champion: The served policy's return.
        challenger: The return of the policy that may replace it.
        margin: Discounted return by which it must be better.
        bounds: Limits of discounted returns.
    """
    for name, one in (("challenger", challenger), ("champion", champion)):
        if one.interval.is_vacuous:
            return Verdict(
                False,
                f"the log supports no interval for the {name}: any possible return, {bounds.low:.2f} to "
                f"{bounds.high:.2f}, may be its own",
            )
    passes = challenger.interval.low - champion.value > margin
    needed = f" plus the margin {margin:g}" if margin else ""
    return Verdict(
        passes,
        f"the challenger's lower bound {challenger.interval.low:.4g} {'exceeds' if passes else 'does not exceed'} the "
        f"champion's estimate {champion.value:.4g}{needed}",
    )


@dataclass(frozen=True)
class _ActingPolicy:
    """A function of states as the policy that `PolicyEvaluator` evaluates.

    Attributes:
        act: Returns the policy's (B, A) action probabilities, or continuous actions, at (B, O) states.
    """

    act: Act

    def probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self.act(observations), np.float32)

    actions = probabilities  # the evaluator calls the one that the log's actions need


def judge_policies(
    acts: Sequence[Act], data: Transitions, *, log: Transitions, gamma: float, seed: int, bounds: ReturnBounds
) -> list[Judged]:
    """Estimates the discounted return of policies, each with its interval, by the evaluator of `smrl train`.

    Args:
        acts: Each returns a policy's (B, A) action probabilities, or actions, at (B, O) states.
        data: Episodes to estimate from.
        log: All episodes, in whose transitions policies are rolled out.
        gamma: Discount per step, below 1.
        seed: Seed of the features and the rollouts.
        bounds: Limits of discounted returns.
    """
    evaluator = PolicyEvaluator(data, gamma=gamma, seed=seed, bounds=bounds, log=log)
    return [evaluator.judge(_ActingPolicy(act)) for act in acts]


def _check(request: GateRequest) -> None:
    problems = Problems("this command line")
    if not math.isfinite(request.margin):
        problems.add("--margin", request.margin, "the command line", expected="a finite number")
    if not 0 <= request.gamma < 1:
        problems.add("--gamma", request.gamma, "the command line", expected="a number of at least 0 and below 1")
    for name in ("champion", "challenger"):
        place = getattr(request, name)
        if not place.exists():
            problems.add(
                f"--{name}",
                str(place),
                "the command line",
                expected="a model directory, results folder or model.tar.gz",
            )
    if not request.data.exists():
        problems.add("--data", str(request.data), "the command line", expected="a log, as smrl join writes it")
    problems.raise_if_any()


def _load(place: Path, scratch: Path) -> ServedPolicy:
    return load_policy(unpack(place, scratch) if place.is_file() else place)


def _count_actions(policy: ServedPolicy) -> int | None:
    """Returns the number of a policy's discrete actions; None where its actions are continuous."""
    return None if policy.sampling_source is None else _act(policy, _GREEDY, _zeros(policy)).shape[1]


def _zeros(policy: ServedPolicy) -> NDArray[np.float32]:
    return np.zeros((1, *policy.row_shape), np.float32)


def _act(policy: ServedPolicy, exploration: Exploration, states: NDArray[np.float32]) -> NDArray[np.floating]:
    """Computes action probabilities (B, A) of discrete actions, or the continuous actions, at (B, O) states."""
    source = policy.sampling_source or policy.main_output
    parts = []
    for start in range(0, len(states), _ROWS):
        rows = np.ascontiguousarray(states[start : start + _ROWS], np.float32).reshape(-1, *policy.row_shape)
        values = policy.run(rows, (source,))[source]
        if policy.sampling_source is not None:
            values = compute_probabilities(source, values, exploration, masks=policy.masks_of(rows))
        parts.append(values.reshape(len(rows), -1))
    return np.concatenate(parts)


def _check_spaces(request: GateRequest, policies: dict[str, ServedPolicy], data: Transitions) -> None:
    """Checks that both policies have the log's states and actions, and that the log has enough episodes."""
    problems = Problems("these policies and this log")
    inputs = math.prod(data.shape)
    number = data.num_actions or data.actions.shape[1]
    kind = "continuous" if data.num_actions is None else "discrete"
    for option, policy in policies.items():
        found = math.prod(policy.row_shape)
        if found != inputs:
            problems.add(
                option, found, "its manifest", expected=f"{inputs} inputs, the state features of {request.data}"
            )
            continue
        own_kind = "continuous" if policy.sampling_source is None else "discrete"
        own = _act(policy, _GREEDY, _zeros(policy)).shape[1]
        if (own, own_kind) != (number, kind):
            problems.add(
                option,
                f"{own} {own_kind} actions",
                "its outputs",
                expected=f"{number} {kind} ones, as {request.data} has",
            )
        elif kind == "continuous" and request.exploration != _GREEDY:
            problems.add_line(
                f"{option}: got continuous actions with --epsilon or --temperature; expected discrete ones."
            )
    if len(data.starts) < FEW_EPISODES:
        problems.add("--data", len(data.starts), f"{request.data}", expected=f"at least {FEW_EPISODES} episodes")
    problems.raise_if_any()


def _table(
    judged: Sequence[Judged],
    policies: Sequence[ServedPolicy],
    data: Transitions,
    request: GateRequest,
    bounds: ReturnBounds,
) -> str:
    """Formats both policies' estimates, a line each, and what to know about them."""
    names = ("champion", "challenger")
    rows = [("", "model_id", "estimate", "95 % interval", "outside the log", "fit p-value")]
    for name, policy, one in zip(names, policies, judged, strict=True):
        interval = one.interval
        ends = "none" if interval.is_vacuous else f"[{interval.low:.4g}, {interval.high:.4g}]"
        cells = (f"{one.value:.4g}", ends, f"{interval.outside:.0%}", f"{one.fit_p_value:.2g}")
        rows.append((name, policy.model_id, *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(f"discounted by {request.gamma:g}, from {len(data.starts):,} episodes of {request.data}")
    lines += [
        f"warning: {name}: {warning}" for name, one in zip(names, judged, strict=True) for warning in one.doubts(bounds)
    ]
    return "\n".join(lines)
