"""What MARWIL makes of a log: the return of its policies beside the log's own and behavior cloning's.

Run: .venv/bin/python -m benchmarks.marwil (writes benchmarks/marwil.md and prints it; four minutes). The logs are those
of benchmarks/offline.py, with other seeds.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.offline_problems import PROBLEMS, TRUTH_EPISODES, as_policy, collect, measure_truth
from runtime.offline.bcq import Learner

_SEEDS = (501, 502, 503)
_UPDATES = 4000
_LEARNED = {"BC": ("BC", 1.0), "beta 1": ("MARWIL", 1.0), "beta 3": ("MARWIL", 3.0)}
_NAMES = {"seeds": "CartPole, uniform actions", "acrobot": "Acrobot, half random", "pendulum": "Pendulum, 70 % random"}


def main() -> None:
    """Learns from each log by each algorithm and writes the table."""
    torch.set_num_threads(1)
    rows = []
    for name, title in _NAMES.items():
        problem = PROBLEMS[name]
        returns: dict[str, list[float]] = {"log": [], **{column: [] for column in _LEARNED}}
        for seed in _SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                data = collect(problem, seed, Path(folder) / "log.csv")
            returns["log"].append(float(data.returns.mean()))
            for column, (algorithm, beta) in _LEARNED.items():
                learner = Learner(data, replace(problem.recipe, algorithm=algorithm, beta=beta, seed=seed))
                learner.run(_UPDATES)
                truth = measure_truth(problem, as_policy(learner.policy(averaged=True)), seed=seed)
                returns[column].append(truth.mean_return)
        cells = [f"{np.mean(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})" for values in returns.values()]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    lines = [
        "# Batch RL: MARWIL beside behavior cloning",
        "",
        f"`python -m benchmarks.marwil`: mean return of {len(_SEEDS)} logs, lowest and highest in brackets, after"
        f" {_UPDATES:,} updates; {TRUTH_EPISODES} episodes of each policy. No iteration is chosen: it is the last one.",
        "",
        "| log | its return | BC | MARWIL, beta 1 | MARWIL, beta 3 |",
        "|---|--:|--:|--:|--:|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
