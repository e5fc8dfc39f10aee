"""Measures how often intervals of chosen policies contain the true return, how wide they are, and the choice's regret.

Run: python -m benchmarks.intervals PROBLEM:LOGS[:FIRST_SEED] …, with --keep FOLDER for benchmarks/interval_peers.py.
Each log is a line of benchmarks/intervals.jsonl, from which benchmarks/intervals.md and docs/intervals.png are made.
Problems: clinic, grid, cartpole, collapse, acrobot, pendulum. Logs with seeds from 1,000 are for development and are
printed alone; the report's begin at 200, and a log that has its line is not measured again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: networks and regressions here are small

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.known_values import Clinic, Grid
from benchmarks.offline_problems import CARTPOLE, PROBLEMS, as_policy, collect, measure_truth
from runtime.offline.bcq import Learner, Recipe
from runtime.offline.data.rollouts import Policy
from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import bound_returns
from runtime.offline.selection import PolicyEvaluator, choose, draw_evaluation_episodes

RESULTS = Path(__file__).with_suffix(".jsonl")
_PAGE = Path(__file__).with_suffix(".md")
_PICTURE = Path(__file__).parent.parent / "docs" / "intervals.png"
_SMALL = replace(CARTPOLE, hidden=(64, 64), lr=1e-3)
_NAMES = {"cartpole": "seeds"}
_REFITS = 25
_WIDER = 1.5
_FIRST = 200
_FIRST_OF_DEVELOPMENT = 1_000
_TITLES = {
    "clinic": "clinic",
    "grid": "slippery grid",
    "cartpole": "CartPole",
    "collapse": "CartPole, collapsing",
    "acrobot": "Acrobot",
    "pendulum": "Pendulum",
}
BEFORE, AFTER = "before: resampled regressions, widened by half", "as printed"


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


def run(name: str, seed: int, *, keep: Path | None) -> dict[str, Any]:
    """Learns from a fresh log, chooses, and compares the intervals with the true return.

    Args:
        name: The problem.
        seed: Seed of the log.
        keep: Folder for what other estimators need, or None.
    """
    case = make_case(name, seed)
    gamma = case.recipe.gamma
    learn, held_out = case.data.split(0.7, seed=seed)
    bounds = bound_returns(case.data, gamma)
    used = draw_evaluation_episodes(held_out, seed=seed)
    known = draw_evaluation_episodes(case.data, seed=seed)
    evaluator = PolicyEvaluator(used, gamma=gamma, seed=seed, bounds=bounds, log=known)
    learner = Learner(learn, replace(case.recipe, seed=seed))
    seconds = {"learning": 0.0, "estimates": 0.0}
    scores, policies = [], []
    for _ in range(case.iterations):
        began = time.process_time()
        learner.run(case.updates)
        seconds["learning"] += time.process_time() - began
        policies.append(learner.policy(averaged=True))
        began = time.process_time()
        scores.append(evaluator.score(policies[-1]))
        seconds["estimates"] += time.process_time() - began
    chosen = choose([score["pessimistic_return"] for score in scores], logged=evaluator.logged)
    by_fitted = choose([score["fitted_q_evaluation"] for score in scores], logged=evaluator.logged)
    began = time.process_time()
    report = evaluator.report(policies[chosen])
    seconds["estimates"] += time.process_time() - began
    fitted = scores[chosen]["fitted_q_evaluation"]
    if keep is not None and used.has_probabilities:
        _keep(keep / f"{name}-{seed}.npz", used, evaluator, policies[chosen], gamma)
    truths = [case.truth(as_policy(policy)) for policy in policies]
    return {
        "problem": name,
        "seed": seed,
        "true": truths[chosen].discounted,
        "error": truths[chosen].error,
        "best": max(one.discounted for one in truths),
        "true_of_choice_before": truths[by_fitted].discounted,
        "logged": evaluator.logged,
        "bounds": [bounds.low, bounds.high],
        "estimate": report.value.value,
        "estimate_before": fitted,
        "intervals": {
            AFTER: [report.value.low, report.value.high],
            BEFORE: _resampled(evaluator, policies[chosen], fitted),
        },
        "outside": report.outside,
        "seconds": seconds,
    }


def _resampled(evaluator: PolicyEvaluator, policy: Any, value: float) -> list[float]:
    """The interval of a hundred regressions on resampled episodes, widened by half."""
    target = evaluator._target(policy, evaluator.data)
    refits = [model.resample(target, resamples=_REFITS, seed=draw) for draw, model in enumerate(evaluator._models)]
    low, high = np.quantile(np.concatenate(refits), [0.025, 0.975])
    clip = evaluator._bounds.clip
    return [clip(value - _WIDER * max(value - float(low), 0)), clip(value + _WIDER * max(float(high) - value, 0))]


def _keep(path: Path, data: Transitions, evaluator: PolicyEvaluator, policy: Any, gamma: float) -> None:
    """Writes the held-out episodes, the policy's probabilities and fitted Q evaluation's values there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = policy.probabilities(data.observations)
    q_values = np.mean([model.evaluate(target).q_values for model in evaluator._models], axis=0)
    np.savez_compressed(
        path,
        lengths=data.lengths,
        actions=data.actions,
        rewards=data.rewards,
        behavior=data.chosen_probabilities,
        target=target[: len(data)],
        q_values=q_values,
        gamma=gamma,
    )


def covers(one: Mapping[str, Any], method: str) -> bool:
    """Returns whether an interval contains the true return, as far as that is known."""
    low, high = one["intervals"][method]
    return bool(low - one["error"] <= one["true"] <= high + one["error"])


def share(one: Mapping[str, Any], method: str) -> float:
    """Returns an interval's width as a share of all possible returns."""
    (low, high), (least, largest) = one["intervals"][method], one["bounds"]
    return float((high - low) / (largest - least))


def read_results() -> dict[str, list[dict[str, Any]]]:
    """Reads the report's results of each problem, in the order of their seeds."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _TITLES}
    for one in sorted(map(json.loads, lines), key=lambda one: int(one["seed"])):
        found[one["problem"]].append(one)
    return {name: results for name, results in found.items() if results}


def _section(results: list[dict[str, Any]]) -> str:
    truths, best, logged, before = (
        np.array([one[name] for one in results]) for name in ("true", "best", "logged", "true_of_choice_before")
    )
    errors, errors_before = (
        np.mean([abs(one[name] - one["true"]) for one in results]) for name in ("estimate", "estimate_before")
    )
    rows = []
    for method in results[0]["intervals"]:
        shares = np.array([share(one, method) for one in results])
        widths = [high - low for low, high in (one["intervals"][method] for one in results)]
        rows.append(
            f"| {method} | {sum(covers(one, method) for one in results)} of {len(results)} | {np.median(widths):.3f} "
            f"| {shares.mean():.0%} | {int((shares >= 0.999).sum())} |"
        )
    scale = max(abs(best.mean()), 1e-9)
    seconds = {name: np.mean([one["seconds"][name] for one in results]) for name in results[0]["seconds"]}
    return "\n".join(
        [
            f"{len(results)} logs, seeds {results[0]['seed']} to {results[-1]['seed']}. True return of the chosen "
            f"policies {truths.mean():.3f}, of the best iterations {best.mean():.3f}, of the logs {logged.mean():.3f}; "
            f"regret {(best - truths).mean() / scale:.1%}, by the estimates of before "
            f"{(best - before).mean() / scale:.1%}; better than the log in {(truths > logged).sum()}. Mean error of "
            f"the estimate {errors:.3f}, before {errors_before:.3f}. CPU seconds a log: learning "
            f"{seconds['learning']:.1f}, estimates {seconds['estimates']:.1f}.",
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
returns. *Before* is the interval that was printed at first: fitted Q evaluation on a hundred draws of the episodes.
[intervals_compared.md](intervals_compared.md) has what else was tried."""


def _misses(found: Mapping[str, list[dict[str, Any]]], count: int = 3) -> str:
    """The logs on which the interval of before was farthest off the truth, and what is printed now."""
    missed = [one for results in found.values() for one in results if not covers(one, BEFORE)]

    def distance(one: Mapping[str, Any]) -> float:
        (low, high), (least, largest) = one["intervals"][BEFORE], one["bounds"]
        return float(max(low - one["true"], one["true"] - high) / (largest - least))

    def written(interval: Any) -> str:
        return f"[{interval[0]:.2f}, {interval[1]:.2f}]"

    return "\n".join(
        [
            f"The interval of before missed the true return on {len(missed)} logs; these are the {count} where it was "
            "farthest off.",
            "",
            "| problem | seed | true return | before | as printed now |",
            "|---|---|---|---|---|",
            *(
                f"| {one['problem']} | {one['seed']} | {one['true']:.2f} | {written(one['intervals'][BEFORE])} "
                f"| {written(one['intervals'][AFTER])} |"
                for one in sorted(missed, key=distance, reverse=True)[:count]
            ),
        ]
    )


def write_page() -> None:
    """Writes the page and the picture from the results."""
    found = read_results()
    parts = {name: _section(results) for name, results in found.items()}
    parts["Where the interval of before was wrong"] = _misses(found)
    sections = "".join(f"\n## {title}\n\n{text}\n" for title, text in parts.items())
    _PAGE.write_text(f"{_HEAD}\n{sections}", encoding="utf-8")
    draw(found, _PICTURE)


def draw(found: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws coverage and width of each problem's intervals, before and now."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharey=True)
    places = np.arange(len(found))[::-1]
    for shift, method, label, color in ((0.2, BEFORE, "before", "#bbbbbb"), (-0.2, AFTER, "now", "#2a6f97")):
        held = [100 * np.mean([covers(one, method) for one in results]) for results in found.values()]
        widths = [100 * np.mean([share(one, method) for one in results]) for results in found.values()]
        for axes, values in ((above, held), (below, widths)):
            bars = axes.barh(places + shift, values, 0.38, color=color, label=label)
            axes.bar_label(bars, [f"{value:.0f}" for value in values], padding=3, fontsize=12)
    above.axvline(95, color="#d62728", linewidth=1.5)
    above.set_title("Contain the true return, % (goal 95)", fontsize=13, loc="left")
    below.set_title("Their width, % of all possible returns", fontsize=13, loc="left")
    for axes in (above, below):
        axes.set_xlim(0, 112)
        axes.set_yticks(places, [f"{_TITLES[name]}" for name in found], fontsize=13)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    below.legend(frameon=False, fontsize=12, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures the problems named, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", help="PROBLEM:LOGS[:FIRST_SEED]; none writes the page alone")
    parser.add_argument("--keep", type=Path, help="folder for what benchmarks/interval_peers.py reads")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for word in given.problems:
        name, count, *rest = word.split(":")
        first = int(rest[0]) if rest else _FIRST
        done = {one["seed"] for one in read_results().get(name, ())}
        for seed in range(first, first + int(count)):
            if seed in done:
                continue
            result = run(name, seed, keep=given.keep)
            line = json.dumps(result)
            print(line, *(method for method in result["intervals"] if not covers(result, method)), flush=True)
            if seed < _FIRST_OF_DEVELOPMENT:
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
    write_page()


if __name__ == "__main__":
    main()
