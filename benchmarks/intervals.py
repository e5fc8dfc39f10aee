"""Measures how often intervals of chosen policies contain the true return, how wide they are, and the choice's regret.

Run: python -m benchmarks.intervals PROBLEM:LOGS[:FIRST_SEED] …, into benchmarks/intervals.md; `before:` ahead of a
problem also computes the intervals of resampled regressions, widened by half, on the same logs, and `candidates:` those
of benchmarks/interval_candidates.py, into a section of their own. Problems: clinic, grid, cartpole, collapse, acrobot,
pendulum. Logs with seeds from 1,000 are for development and are printed alone; the report's begin at 0, those of its
candidates at 60.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: networks and regressions here are small

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.interval_candidates import candidate_intervals
from benchmarks.known_values import Clinic, Grid
from benchmarks.offline_problems import CARTPOLE, PROBLEMS, as_policy, collect, measure_truth
from benchmarks.result_page import write_sections
from runtime.offline.bcq import Learner, Recipe
from runtime.offline.data.rollouts import Policy
from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import bound_returns
from runtime.offline.selection import (
    PolicyEvaluator,
    choose_by_lower_bound,
    draw_evaluation_episodes,
    selection_optimism,
)

_PAGE = Path(__file__).with_suffix(".md")
_SMALL = replace(CARTPOLE, hidden=(64, 64), lr=1e-3)
_NAMES = {"cartpole": "seeds"}
_REFITS = 25
_WIDER = 1.5
_FIRST_OF_DEVELOPMENT = 1_000
_PROBLEMS = ("clinic", "grid", "cartpole", "collapse", "acrobot", "pendulum")
_DISCRETE = tuple(name for name in _PROBLEMS if name != "pendulum")  # the candidates have an entry for each action
TITLES = (*_PROBLEMS, *(f"{name}, candidates" for name in _DISCRETE))


@dataclass(frozen=True)
class Case:
    """A log and how to learn from it.

    Attributes:
        data: The log.
        recipe: Hyperparameters of the algorithm.
        iterations: Number of off-policy evaluations.
        updates: Number of updates between two of them.
        truth: Returns the true discounted return of a policy, with `discounted` and `error`.
    """

    data: Transitions
    recipe: Recipe
    iterations: int
    updates: int
    truth: Callable[[Policy], Any]


@dataclass(frozen=True)
class Result:
    """What one log gave.

    Attributes:
        truth: True discounted return of the chosen policy.
        error: How far that may be off.
        best: The largest true return among the iterations.
        logged: Discounted return of the log.
        bounds: Least and largest possible return.
        intervals: Ends of each method's interval, by its name.
        outside: Share of the chosen policy's discounted steps outside of the log.
        seconds: CPU seconds of learning, of scoring, of the last report, and of the other intervals.
    """

    truth: float
    error: float
    best: float
    logged: float
    bounds: tuple[float, float]
    intervals: dict[str, tuple[float, float]]
    outside: float
    seconds: tuple[float, ...]


def make_case(name: str, seed: int) -> Case:
    """Makes a fresh log of a problem."""
    if name == "clinic":
        clinic = Clinic(seed)
        return Case(clinic.log(300, seed=seed + 1), _SMALL, 6, 100, clinic.value)
    if name == "grid":
        grid = Grid()
        return Case(grid.log(300, seed=seed + 1), _SMALL, 6, 100, grid.value)
    problem = PROBLEMS[_NAMES.get(name, name)]
    with tempfile.TemporaryDirectory() as folder:
        data = collect(problem, seed, Path(folder) / "log.csv")
    truth = lambda policy: measure_truth(problem, policy, seed=seed)  # noqa: E731
    return Case(data, problem.recipe, problem.iterations, problem.updates, truth)


def run(name: str, seed: int, *, others: str) -> Result:
    """Learns from a fresh log, chooses, and compares the intervals with the true return.

    Args:
        name: The problem.
        seed: Seed of the log.
        others: Further intervals to compute: `before`, `candidates`, or empty.
    """
    case = make_case(name, seed)
    gamma = case.recipe.gamma
    learn, held_out = case.data.split(0.7, seed=seed)
    clock = time.process_time
    bounds = bound_returns(case.data, gamma)
    evaluator = PolicyEvaluator(
        draw_evaluation_episodes(held_out, seed=seed), gamma=gamma, seed=seed, bounds=bounds, log=case.data
    )
    learner = Learner(learn, replace(case.recipe, seed=seed))
    spent = np.zeros(4)
    scores, policies = [], []
    for _ in range(case.iterations):
        began = clock()
        learner.run(case.updates)
        spent[0] += clock() - began
        policy = learner.policy()
        began = clock()
        scores.append(evaluator.score(policy))
        spent[1] += clock() - began
        policies.append(learner.policy(averaged=True))
    lows, values = ([score[f"estimated_return{end}"] for score in scores] for end in ("_low", ""))
    chosen = choose_by_lower_bound(lows, values, logged=evaluator.logged)
    halves = [(score["estimated_return_half_1"], score["estimated_return_half_2"]) for score in scores]
    began = clock()
    report = evaluator.report(policies[chosen], halves=halves)
    spent[2] = clock() - began
    parts = evaluator._interval(policies[chosen], report.value.value)
    optimism = selection_optimism(halves, logged=evaluator.logged)
    intervals = {
        "as printed": (report.value.low, report.value.high),
        "corrected alone": parts.corrected,
        "model alone": parts.modelled,
        "corrected and model, union": (
            min(parts.corrected[0], parts.modelled[0]) - optimism,
            max(parts.corrected[1], parts.modelled[1]),
        ),
    }
    began = clock()
    if others == "before":
        intervals["resampled, times 1.5 (before)"] = _resampled(evaluator, policies[chosen], report.value.value)
    if others == "candidates":
        intervals |= candidate_intervals(evaluator, policies[chosen], gamma)
    spent[3] = clock() - began
    truths = [case.truth(as_policy(policy)) for policy in policies]
    truth = truths[chosen]
    return Result(
        truth=truth.discounted,
        error=truth.error,
        best=max(one.discounted for one in truths),
        logged=evaluator.logged,
        bounds=(bounds.low, bounds.high),
        intervals=intervals,
        outside=parts.outside,
        seconds=tuple(spent.tolist()),
    )


def _resampled(evaluator: PolicyEvaluator, policy: Any, value: float) -> tuple[float, float]:
    """The interval of a hundred regressions on resampled episodes, widened by half."""
    target = evaluator._target(policy, evaluator.data)
    refits = [model.resample(target, resamples=_REFITS, seed=draw) for draw, model in enumerate(evaluator._models)]
    low, high = np.quantile(np.concatenate(refits), [0.025, 0.975])
    clip = evaluator._bounds.clip
    return clip(value - _WIDER * max(value - float(low), 0)), clip(value + _WIDER * max(float(high) - value, 0))


def measure(name: str, seeds: range, *, others: str) -> str:
    """Runs a problem's logs, and makes its section of the page as it goes."""
    title = f"{name}, candidates" if others == "candidates" else name
    results: list[Result] = []
    for seed in seeds:
        results.append(run(name, seed, others=others))
        one = results[-1]
        low, high = one.intervals["as printed"]
        shown = ", ".join(f"{method} {ends[0]:.3f} to {ends[1]:.3f}" for method, ends in one.intervals.items())
        print(
            f"{name} {seed}: true {one.truth:.3f}, best {one.best:.3f}, log {one.logged:.3f}, {shown}, outside "
            f"{one.outside:.2f}, CPU s {' '.join(f'{part:.1f}' for part in one.seconds)}",
            "" if low - one.error <= one.truth <= high + one.error else "MISSED",
            flush=True,
        )
        if seed < _FIRST_OF_DEVELOPMENT:
            write_sections(_PAGE, _HEAD, TITLES, {title: _section(results, seeds)})
    return _section(results, seeds)


def _section(results: list[Result], seeds: range) -> str:
    truths, errors = (np.array([getattr(one, field) for one in results]) for field in ("truth", "error"))
    ranges = np.array([one.bounds[1] - one.bounds[0] for one in results])
    rows = []
    for method in results[0].intervals:
        ends = np.array([one.intervals[method] for one in results])
        held = (ends[:, 0] - errors <= truths) & (truths <= ends[:, 1] + errors)
        widths: NDArray[np.float64] = ends[:, 1] - ends[:, 0]
        whole = int((widths >= 0.999 * ranges).sum())
        rows.append(
            f"| {method} | {held.sum()} of {len(results)} | {np.median(widths):.3f} | {np.mean(widths / ranges):.0%} "
            f"| {whole} |"
        )
    best, logged = (np.array([getattr(one, field) for one in results]) for field in ("best", "logged"))
    regret = (best - truths).mean() / max(abs(best).mean(), 1e-9)
    seconds = np.array([one.seconds for one in results]).mean(axis=0)
    after = seconds[1] + seconds[2]
    return "\n".join(
        [
            f"{len(results)} logs, seeds {seeds[0]} to {seeds[len(results) - 1]}. True return of the chosen policies "
            f"{truths.mean():.3f}, of the best iterations {best.mean():.3f}, of the logs {logged.mean():.3f}; regret "
            f"{regret:.1%}; better than the log in {(truths > logged).sum()}. CPU seconds a log: learning "
            f"{seconds[0]:.1f}, estimates {after:.1f}"
            + (f", the other intervals {seconds[3]:.1f}." if seconds[3] >= 0.1 else "."),
            "",
            "| interval | covers | median width | mean share of all possible returns | all of them |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


_HEAD = """# Intervals, measured

`python -m benchmarks.intervals PROBLEM:LOGS`: 95 % intervals of the discounted return of the policy that was chosen
from a fresh log, against its true return: exact on the grid, from 20,000 episodes in the clinic, from 100 elsewhere,
with two standard errors of it allowed for. *All of them* counts the logs that support no interval but all possible
returns."""


def main(words: list[str]) -> None:
    """Measures the problems named, as PROBLEM:LOGS[:FIRST_SEED], with `before:` or `candidates:` ahead of it or not."""
    torch.set_num_threads(1)
    for word in words:
        parts = word.split(":")
        others = parts.pop(0) if parts[0] in ("before", "candidates") else ""
        first = int(parts[2]) if len(parts) > 2 else 0
        measure(parts[0], range(first, first + int(parts[1])), others=others)


if __name__ == "__main__":
    main(sys.argv[1:])
