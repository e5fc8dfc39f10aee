"""Batch RL measured: what is chosen without an environment against what it then does in one; speed; large logs.

Run: .venv/bin/python -m benchmarks.offline [PART …], into benchmarks/offline.md. Parts, by default:
`seeds`, `collapse`, `acrobot`, `pendulum`, `updates`, `reading`, `memory`; `cartpole-fresh` and `acrobot-fresh` repeat
on other logs.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: networks and regressions here are small

import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from benchmarks.offline_problems import CARTPOLE, PROBLEMS, TRUTH_EPISODES, Problem, as_policy, collect, measure_truth
from benchmarks.result_page import write_sections
from runtime.offline.bcq import Learner
from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.bounds import bound_returns
from runtime.offline.selection import PolicyEvaluator, choose, draw_evaluation_episodes

_PAGE = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Run:
    """Result of learning from one log.

    Attributes:
        returns: True mean return of each iteration's policy; minus infinity where it was not measured.
        chosen: Which was chosen, from 0.
        covered: Whether the interval holds the true discounted return.
        estimate: The interval in words, and the truth.
        logged: Mean return of the log.
        cloned: True mean return of behavior cloning.
        seconds: Of learning and judging, the last interval included.
    """

    returns: list[float]
    chosen: int
    covered: bool
    estimate: str
    logged: float
    cloned: float
    seconds: float

    @property
    def regret(self) -> float:
        """Regret of the chosen iteration against the best one, as a share of the best return."""
        best = max(self.returns)
        return (best - self.returns[self.chosen]) / abs(best)


def run(problem: Problem, seed: int, folder: Path) -> Run:
    """Logs, learns and chooses as the training job does; then runs every iteration's policy for its true return."""
    data = collect(problem, seed, folder / "log.csv")
    started = time.perf_counter()
    learn, held_out = data.split(0.7, seed=seed)
    gamma = problem.recipe.gamma
    evaluator = PolicyEvaluator(
        draw_evaluation_episodes(held_out, seed=seed), gamma=gamma, seed=seed, bounds=bound_returns(data, gamma)
    )
    learner = Learner(learn, replace(problem.recipe, seed=seed))
    policies = []
    values = []
    for _ in range(problem.iterations):
        learner.run(problem.updates)
        values.append(evaluator.score(learner.policy())["estimated_return"])
        policies.append(learner.policy(averaged=True))
    chosen = choose(values, logged=evaluator.logged)
    value = evaluator.report(policies[chosen]).value
    seconds = time.perf_counter() - started
    wanted = {*range(len(policies))} if problem.runs_all else {chosen, len(policies) - 1}
    measured = {i: measure_truth(problem, as_policy(policies[i]), seed=seed) for i in sorted(wanted)}
    truth = measured[chosen]
    return Run(
        returns=[measured[i].mean_return if i in measured else -np.inf for i in range(len(policies))],
        chosen=chosen,
        covered=value.low - truth.error <= truth.discounted <= value.high + truth.error,
        estimate=f"{value.text()}, true {truth.discounted:.2f}",
        logged=float(data.returns.mean()),
        cloned=_clone(learn, problem, seed),
        seconds=seconds,
    )


def as_d3rlpy(data: Transitions) -> Any:
    """The same episodes for d3rlpy's own `fit`."""
    import d3rlpy

    ends = np.zeros(len(data), np.float32)
    ends[np.append(data.starts[1:], len(data)) - 1] = 1
    terminals = ends * (data.next_rows == -1)
    is_discrete = data.num_actions is not None
    return d3rlpy.dataset.MDPDataset(
        observations=data.states,
        actions=data.actions[:, None] if is_discrete else data.actions,
        rewards=data.rewards[:, None],
        terminals=terminals,
        timeouts=ends - terminals,
        action_space=d3rlpy.ActionSpace.DISCRETE if is_discrete else d3rlpy.ActionSpace.CONTINUOUS,
    )


def fit(algorithm: Any, data: Any, steps: int) -> None:
    """d3rlpy's `fit` without its log files."""
    import d3rlpy

    quiet = d3rlpy.logging.NoopAdapterFactory()
    algorithm.fit(
        data,
        n_steps=steps,
        n_steps_per_epoch=steps,
        logger_adapter=quiet,
        show_progress=False,
        save_interval=steps + 1,
    )


def _clone(learn: Transitions, problem: Problem, seed: int) -> float:
    """True mean return of d3rlpy's behavior cloning."""
    import d3rlpy

    d3rlpy.seed(seed)
    scaler = d3rlpy.preprocessing.StandardObservationScaler()
    is_discrete = learn.num_actions is not None
    factory = d3rlpy.algos.DiscreteBCConfig if is_discrete else d3rlpy.algos.BCConfig
    scalers = {} if is_discrete else {"action_scaler": d3rlpy.preprocessing.MinMaxActionScaler()}
    algorithm = factory(observation_scaler=scaler, batch_size=128, **scalers).create()
    fit(algorithm, as_d3rlpy(learn), 3000)

    def act(states: NDArray[np.float32]) -> NDArray[np.float64]:
        chosen = algorithm.predict(states)
        return np.asarray(np.eye(learn.num_actions)[chosen] if learn.num_actions else chosen, np.float64)

    return measure_truth(problem, act, seed=seed).mean_return


def measure_runs(name: str, seeds: range) -> list[str]:
    """A row a seed, and what they say together."""
    problem = PROBLEMS[name]
    runs = []
    rows = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            one = run(problem, seed, Path(folder))
        runs.append(one)
        true = one.returns
        cells = [
            *(str(seed), f"{one.logged:.1f}", f"{one.cloned:.1f}", f"{true[one.chosen]:.1f}"),
            *(f"{one.chosen + 1} of {len(true)}", f"{max(true):.1f}" if problem.runs_all else "", f"{true[-1]:.1f}"),
            f"{one.regret:.1%}" if problem.runs_all else "",
            *(one.estimate, "yes" if one.covered else "no", f"{one.seconds:.0f}"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
        print(name, rows[-1], flush=True)
    chosen = [one.returns[one.chosen] for one in runs]
    count = len(runs)
    better = sum(v > max(one.logged, one.cloned) for v, one in zip(chosen, runs, strict=True))
    facts = [
        f"Chosen: mean {np.mean(chosen):.1f}, least {min(chosen):.1f}",
        *([f"{sum(value >= 195 for value in chosen)} of {count} at 195 or more"] if "CartPole" in problem.env else []),
        *([f"regret {np.mean([one.regret for one in runs]):.2%} on average"] if problem.runs_all else []),
        f"better than the log and the clone: {better} of {count}",
        f"interval covers: {sum(one.covered for one in runs)} of {count}",
        f"{np.mean([one.seconds for one in runs]):.0f} s a run",
    ]
    return [
        f"{problem.env}, {problem.recipe.algorithm} with the {problem.recipe.loss} loss, "
        f"{problem.iterations} x {problem.updates} updates, {problem.envs * problem.episodes} episodes.",
        "",
        "| seed | logged | cloned | chosen | iteration | best | last | regret | estimate | covered | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "; ".join(facts) + ".",
    ]


def measure_updates(seed: int = 0) -> list[str]:
    """Updates a second against d3rlpy's `fit`, each in turn, several times in one process."""
    import d3rlpy

    from runtime.offline import bcq

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = collect(PROBLEMS["seeds"], seed, Path(folder) / "log.csv")
    dataset = as_d3rlpy(data)
    rows = []
    for hidden in ((128, 128), (256, 256)):
        recipe = replace(CARTPOLE, hidden=hidden)
        learner = Learner(data, recipe)
        encoder = d3rlpy.models.VectorEncoderFactory(list(hidden))
        theirs = d3rlpy.algos.DiscreteBCQConfig(
            learning_rate=recipe.lr,
            batch_size=recipe.batch_size,
            target_update_interval=recipe.target_update,
            encoder_factory=encoder,
            q_func_factory=bcq.SquaredErrorQFunctionFactory(),
            observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(),
        ).create()
        fit(theirs, dataset, 100)
        learner.run(100)
        seconds: dict[str, list[float]] = {"fit": [], "ours": []}
        for _ in range(5):
            started = time.perf_counter()
            fit(theirs, dataset, 500)
            between = time.perf_counter()
            learner.run(500)
            seconds["fit"].append((between - started) / 500)
            seconds["ours"].append((time.perf_counter() - between) / 500)
        fitted, ours = (float(np.median(seconds[name])) for name in ("fit", "ours"))
        rows.append(f"| {hidden} | {1 / ours:,.0f} | {1 / fitted:,.0f} | {fitted / ours:.2f} |")
        print(rows[-1], flush=True)
    return [
        "DiscreteBCQ, batch 128, one thread, median of 5 rounds of 500 updates; the averaged weights are ours alone.",
        "",
        "| hidden layers | ours (updates/s) | d3rlpy's `fit` (updates/s) | ratio |",
        "|---|---|---|---|",
        *rows,
    ]


def measure_reading(megabytes: int = 1000) -> list[str]:
    """Seconds and memory for a large CSV, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.csv"
        rows = _write_large(path, megabytes)
        program = (
            "import resource, sys, time; from pathlib import Path\n"
            "from runtime.offline.data.reading import read_transitions\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; started = time.perf_counter()\n"
            "d = read_transitions(Path(sys.argv[1])); took = time.perf_counter() - started\n"
            "arrays = d.observations, d.actions, d.rewards, d.next_rows, d.starts, d.probabilities\n"
            "size = sum(array.nbytes for array in arrays)\n"
            "peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024\n"
            "print(len(d), took, size, peak)"
        )
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    count, took, size, peak = (float(word) for word in done.stdout.split())
    assert count == rows
    line = (
        f"{megabytes / 1000:g} GB of CSV, {rows:,.0f} rows with distinct probabilities: {took:.1f} s; arrays of "
        f"{size / 1e9:.2f} GB, at most {peak / 1e9:.2f} GB more than before ({peak / size:.1f} times the arrays)."
    )
    print(line, flush=True)
    return [line]


def _write_large(path: Path, megabytes: int) -> int:
    rng = np.random.default_rng(0)
    rows = 0
    with path.open("w") as file:
        file.write("action,all_action_probabilities,episode_id,reward,cumulative_rewards,")
        file.write("state_feature_0,state_feature_1,state_feature_2,state_feature_3\n")
        while path.stat().st_size < megabytes * 1e6:
            count = 20_000
            p = rng.uniform(0.1, 0.9, count)
            states = rng.normal(size=(count, 4))
            actions = rng.integers(2, size=count)
            lines = [
                f'{a},"[{q:.6f}, {1 - q:.6f}]",{(rows + i) // 20},1.0,{20.0 if i % 20 == 19 else 0.0},'
                f"{s[0]:.6f},{s[1]:.6f},{s[2]:.6f},{s[3]:.6f}\n"
                for i, (a, q, s) in enumerate(zip(actions.tolist(), p.tolist(), states.tolist(), strict=True))
            ]
            file.write("".join(lines))
            rows += count
    return rows


def measure_memory(millions: int = 10) -> list[str]:
    """A whole training on millions of transitions, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.csv"
        rows = _write_large(path, 83 * millions)
        words = [
            "train",
            "--data",
            str(path),
            "--out",
            str(Path(folder) / "results"),
            "rl.training.stop.training_iteration=4",
        ]
        command = [sys.executable, "-m", "runtime.cli", *words, "rl.training.config.updates_per_iteration=1000"]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent.parent)
        took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    line = (
        f"{rows:,} transitions: read, 4,000 updates, 4 evaluations and the export in {took:.0f} s, at most "
        f"{peak / 1e9:.1f} GB."
    )
    print(line, flush=True)
    return [line]


_TITLES = {
    "seeds": "CartPole, ten logs of a uniform policy",
    "cartpole-fresh": "The same on twenty other logs",
    "collapse": "A learner that collapses",
    "acrobot": "Acrobot, from a poor controller that acts half of the time",
    "acrobot-fresh": "The same from other logs",
    "pendulum": "Pendulum, continuous torques",
    "updates": "Updates a second",
    "reading": "Reading a large log",
    "memory": "Ten million transitions",
}
_PARTS: dict[str, Callable[[], list[str]]] = {
    "seeds": lambda: measure_runs("seeds", range(10)),
    "collapse": lambda: measure_runs("collapse", range(10)),
    "acrobot": lambda: measure_runs("acrobot", range(20)),
    "pendulum": lambda: measure_runs("pendulum", range(20)),
    "updates": measure_updates,
    "reading": measure_reading,
    "memory": measure_memory,
    "cartpole-fresh": lambda: measure_runs("seeds", range(20, 40)),
    "acrobot-fresh": lambda: measure_runs("acrobot", range(20, 30)),
}


def main(words: list[str]) -> None:
    """Measures some parts and rewrites them in the page; the others stay as they were measured."""
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))  # d3rlpy's own log
    for name in words or [part for part in _PARTS if not part.endswith("-fresh")]:
        _write(name, _PARTS[name]())


def _write(name: str, lines: list[str]) -> None:
    head = (
        f"# Batch RL, measured\n\n`python -m benchmarks.offline` on {os.cpu_count()} CPUs ({platform.machine()}), "
        f"Python {platform.python_version()}, one thread, shared with other work. *Logged*, *cloned*, *chosen*, *best* "
        f"and *last* are mean returns; those of policies over {TRUTH_EPISODES} episodes, measured after everything was "
        "chosen without running one; *cloned* is d3rlpy's behavior cloning. *Regret* is what *chosen* lost to *best*. "
        "*Estimate* is the discounted return with its 95 % interval, and the true one; it is *covered* if they agree, "
        "within two standard errors of the true mean and what a time limit cut off."
    )
    write_sections(_PAGE, head, _TITLES.values(), {_TITLES[name]: "\n".join(lines)})


if __name__ == "__main__":
    main(sys.argv[1:])
