"""Local tuning against random search and against the preset: what the reacher returns after 61,440 steps.

python -m benchmarks.tuning [REPEATS], about five minutes a repeat on 2 cores. Both searches take the same number of
environment steps; what each found is then trained again with seeds that no search has seen.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMRL = Path(sys.executable).parent / "smrl"
STEPS = 61_440
FRESH_SEEDS = 8
SEARCHES = ("Random", "Bayesian")
TRIALS = 30
CONTINUOUS = {
    "lr": (1e-5, 1e-2, "Logarithmic"),
    "gamma": (0.9, 0.995, "ReverseLogarithmic"),
    "lambda_": (0.8, 0.98, "ReverseLogarithmic"),
    "model.initial_log_std": (-2.0, 0.0, "Linear"),
}
INTEGER = {"num_epochs": (2.0, 30.0, "Logarithmic")}
CATEGORIES = {"minibatch_size": [64, 128, 256, 512], "train_batch_size": [1024, 2048, 4096]}
PREFIX = "rl.training.config."
STATIC = {
    "preset": "reacher",
    "rl.training.stop.timesteps_total": str(STEPS),
}


def tune(config: dict[str, Any], static: dict[str, str], *, seeds: int = 1) -> tuple[dict[str, Any], float, int]:
    """Runs a tuning; returns the best trial's point, its mean return, and the environment steps of all."""
    objective = {"Type": "Maximize", "MetricName": "episode_reward_mean"}
    words = {
        "HyperParameterTuningJobConfig": {"HyperParameterTuningJobObjective": objective, **config},
        "TrainingJobDefinition": {"StaticHyperParameters": static},
        "SeedsPerTrial": seeds,
    }
    with tempfile.TemporaryDirectory() as scratch:
        job, out = Path(scratch, "job.json"), Path(scratch, "out")
        job.write_text(json.dumps(words))
        subprocess.run([SMRL, "tune", job, "--out", out], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (out / "tuning.jsonl").read_text().splitlines()]
    ended = [line for line in lines if line["state"] == "completed"]
    trials = {line["trial"]: [one["objective"] for one in ended if one["trial"] == line["trial"]] for line in ended}
    best = max(trials, key=lambda number: statistics.fmean(trials[number]))
    point = next(line["hyperparameters"] for line in ended if line["trial"] == best)
    steps = sum(line["timesteps_total"] for line in lines if line["state"] != "started")
    return point, statistics.fmean(trials[best]), steps


def search(strategy: str, seed: int) -> tuple[dict[str, Any], int]:
    """A search over seven hyperparameters: the point that it found, and the environment steps that it took."""
    numbers: dict[str, dict[str, tuple[float, float, str]]] = {
        "ContinuousParameterRanges": CONTINUOUS,
        "IntegerParameterRanges": INTEGER,
    }
    ranges: dict[str, Any] = {
        kind: [
            {"Name": PREFIX + name, "MinValue": low, "MaxValue": high, "ScalingType": scaling}
            for name, (low, high, scaling) in listed.items()
        ]
        for kind, listed in numbers.items()
    }
    ranges["CategoricalParameterRanges"] = [
        {"Name": PREFIX + name, "Values": list(map(str, values))} for name, values in CATEGORIES.items()
    ]
    limits = {"MaxNumberOfTrainingJobs": TRIALS, "MaxParallelTrainingJobs": 2}
    config = {"Strategy": strategy, "RandomSeed": seed, "ResourceLimits": limits, "ParameterRanges": ranges}
    point, _, steps = tune(config, {**STATIC, "rl.training.config.seed": str(1000 * seed)})
    return point, steps


def score(point: dict[str, Any], seed: int) -> float:
    """Measures the mean return over seeds that no search has used."""
    fixed = {name: str(value) for name, value in point.items()} or {f"{PREFIX}clip_param": "0.2"}  # the preset's own
    name = next(iter(fixed))  # a range of one value
    grid = {"CategoricalParameterRanges": [{"Name": name, "Values": [fixed.pop(name)]}]}
    config = {"Strategy": "Grid", "ParameterRanges": grid, "ResourceLimits": {"MaxParallelTrainingJobs": 2}}
    static = {**STATIC, **fixed, "rl.training.config.seed": str(500_000 + 100 * seed)}
    return tune(config, static, seeds=FRESH_SEEDS)[1]


def main() -> None:
    """Prints a row a repeat, and the means."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{TRIALS} trials a search; mean return after {STEPS:,} environment steps, of {FRESH_SEEDS} fresh seeds\n")
    print(f"| repeat | preset | {' | '.join(SEARCHES)} | {' | '.join(f'steps, {name}' for name in SEARCHES)} |")
    print("|---" * (2 + 2 * len(SEARCHES)) + "|")
    rows = []
    for repeat in range(1, repeats + 1):
        found = {name: search(name, repeat) for name in SEARCHES}
        row = [score({}, repeat), *(score(point, repeat) for point, _ in found.values())]
        rows.append(row)
        returns = " | ".join(f"{value:.2f}" for value in row)
        steps = " | ".join(f"{n:,}" for _, n in found.values())
        print(f"| {repeat} | {returns} | {steps} |", flush=True)
    means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    for name, mean in zip(SEARCHES, means[1:], strict=True):
        against = f"{mean / means[0]:.2f} times the preset's, {mean / means[1]:.2f} times random search's"
        print(f"\n{name}: {mean:.2f}, {against}")


if __name__ == "__main__":
    main()
