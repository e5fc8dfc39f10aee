"""Estimators of scope-rl and RLlib on the logs of benchmarks/intervals.py, for the same chosen policies.

Run: python -m benchmarks.intervals PROBLEM:LOGS --keep FOLDER, then python -m benchmarks.interval_peers rllib FOLDER,
and, where scope-rl is installed (it pins other versions of Gymnasium and d3rlpy than smrl), with the repository's root
in PYTHONPATH, python -m benchmarks.interval_peers scope-rl FOLDER. Each writes its section of
benchmarks/interval_peers.md. Policies take their most likely action, so that importance weights are 0 after the first
step at which an episode did something else.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.result_page import write_sections

_PAGE = Path(__file__).with_suffix(".md")
_RESULTS = Path(__file__).with_name("intervals.jsonl")
_RESAMPLES = 1000
_HEAD = """# Estimators of other libraries, on the same logs

`python -m benchmarks.interval_peers`: the logs and chosen policies of [intervals.md](intervals.md), by the held-out
episodes. *Covers* counts the 95 % intervals that contain the true return; *width* is their mean share of all possible
returns; *error* is the mean distance of the estimate from the true return."""

Arrays = Mapping[str, NDArray[Any]]
Found = dict[str, tuple[float, float, float]]  # estimate and ends of the interval, by the estimator's name


def with_scope_rl(log: Arrays) -> Found:
    """Estimates by scope-rl, whose episodes all have the same length: shorter ones are filled up with rewards of 0.

    The direct method and doubly robust estimators get the values of smrl's fitted Q evaluation.
    """
    from scope_rl.ope import discrete

    longest = int(log["lengths"].max())
    rows = np.concatenate([longest * episode + np.arange(length) for episode, length in enumerate(log["lengths"])])

    def filled(values: NDArray[Any], rest: Any) -> NDArray[Any]:
        found = np.full((longest * len(log["lengths"]), *values.shape[1:]), rest, values.dtype)
        found[rows] = values
        return found

    # After the end, both policies take action 0, which changes no weight.
    first = np.eye(log["target"].shape[1], dtype=np.float64)[0]
    behavior = filled(log["behavior"].astype(np.float64)[:, None].repeat(len(first), axis=1), 1.0)
    inputs = {
        "step_per_trajectory": longest,
        "action": filled(log["actions"], 0),
        "reward": filled(log["rewards"].astype(np.float64), 0),
        "pscore": behavior[:, 0],
        "evaluation_policy_action_dist": filled(log["target"].astype(np.float64), first),
        "state_action_value_prediction": filled(log["q_values"].astype(np.float64), 0),
        "gamma": float(log["gamma"]),
    }
    found = {}
    for name in (
        "DirectMethod",
        "TrajectoryWiseImportanceSampling",
        "PerDecisionImportanceSampling",
        "DoublyRobust",
        "SelfNormalizedTIS",
        "SelfNormalizedPDIS",
        "SelfNormalizedDR",
    ):
        estimator = getattr(discrete, name)()
        ends = estimator.estimate_interval(**inputs, n_bootstrap_samples=_RESAMPLES, random_state=0)
        low, high = (next(end for key, end in ends.items() if side in key) for side in ("lower", "upper"))
        found[name] = (float(estimator.estimate_policy_value(**inputs)), float(low), float(high))
    return found


class _LoggedPolicy:
    """The policy as RLlib's estimators ask it: the likelihood of logged actions."""

    config: Mapping[str, Any] = {}

    def __init__(self, target: NDArray[np.floating]) -> None:
        self._target = target

    def compute_log_likelihoods(
        self, actions: NDArray[np.int64], obs_batch: NDArray[np.int64], **_: Any
    ) -> NDArray[np.float64]:
        """Log-likelihoods of actions; an observation here is the number of its row."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self._target[obs_batch, actions].astype(np.float64)))


def with_rllib(log: Arrays) -> Found:
    """Estimates by RLlib, which returns means and standard deviations over episodes: the interval is the normal one."""
    from ray.rllib.offline.estimators import ImportanceSampling, WeightedImportanceSampling
    from ray.rllib.policy.sample_batch import SampleBatch

    count = len(log["lengths"])
    batch = SampleBatch(
        obs=np.arange(len(log["rewards"])),
        actions=log["actions"],
        rewards=log["rewards"].astype(np.float64),
        action_prob=log["behavior"].astype(np.float64),
        eps_id=np.repeat(np.arange(count), log["lengths"]),
    )
    found = {}
    policy: Any = _LoggedPolicy(log["target"])
    for name, make in (("IS", ImportanceSampling), ("WIS", WeightedImportanceSampling)):
        with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # WIS divides by weights that are all 0
            got = make(policy, gamma=float(log["gamma"])).estimate(batch)
        margin = 1.96 * float(got["v_target_std"]) / np.sqrt(count)
        value = float(got["v_target"])
        found[name] = (value, value - margin, value + margin)
    return found


def _logs(folder: Path) -> Iterator[tuple[dict[str, Any], Arrays]]:
    """Yields each measured log's result and arrays."""
    for one in map(json.loads, _RESULTS.read_text(encoding="utf-8").splitlines()):
        path = folder / f"{one['problem']}-{one['seed']}.npz"
        if path.exists():
            with np.load(path) as arrays:
                yield one, dict(arrays)


def measure(estimate: Callable[[Arrays], Found], folder: Path) -> str:
    """Makes a table of all estimators on all logs."""
    rows: dict[tuple[str, str], list[tuple[bool, float, float]]] = {}
    for one, log in _logs(folder):
        least, largest = one["bounds"]
        found = estimate(log) | {"smrl, as printed": (one["estimate"], *one["intervals"]["as printed"])}
        for name, (value, low, high) in found.items():
            # WIS of weights that are all 0 is no number: it covers nothing, and its error is all possible returns.
            ends = (low, high) if np.isfinite([low, high]).all() else (0.0, 0.0)
            held = np.isfinite(value) and ends[0] - one["error"] <= one["true"] <= ends[1] + one["error"]
            off = abs(value - one["true"]) if np.isfinite(value) else largest - least
            width = (ends[1] - ends[0]) / (largest - least)
            rows.setdefault((one["problem"], name), []).append((bool(held), width, off))
    lines = ["| problem | estimator | covers | width | error |", "|---|---|---|---|---|"]
    for (problem, name), values in sorted(rows.items()):
        held, widths, offs = (np.array(column) for column in zip(*values, strict=True))
        lines.append(f"| {problem} | {name} | {held.sum()} of {len(held)} | {widths.mean():.0%} | {offs.mean():.3f} |")
    return "\n".join(lines)


def main(peer: str, folder: str) -> None:
    """Measures one library."""
    estimate, note = {
        "scope-rl": (
            with_scope_rl,
            "scope-rl 0.2.1; its direct method and doubly robust estimators get the values of our fitted Q evaluation.",
        ),
        "rllib": (
            with_rllib,
            "RLlib 2.60's `ray.rllib.offline.estimators`, given the policies' likelihoods. An algorithm of its new API "
            "stack cannot use them: they ask `Algorithm.get_policy`, which its env runners do not have. They return "
            "means and standard deviations; the interval is 1.96 standard errors on either side. Its direct method and "
            "doubly robust estimator train a network of the old stack and are left out. WIS is no number where no "
            "episode has any weight left, which counts as an error of all possible returns.",
        ),
    }[peer]
    text = f"{note}\n\n{measure(estimate, Path(folder))}"
    write_sections(_PAGE, _HEAD, ("scope-rl", "rllib"), {peer: text})
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
