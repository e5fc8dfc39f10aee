"""The command `smrl ope`: evaluates a policy on a log, and prints every estimate as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cluster.session import prepare_environment
from runtime.errors import Problems
from runtime.outputs.console import Reporter, Summary

if TYPE_CHECKING:
    from runtime.offline.evaluation import PolicyEvaluation

# In the order of the output.
_NAMES: Mapping[str, str] = {
    "is": "importance sampling",
    "wis": "weighted IS",
    "pdis": "per-decision IS",
    "wpdis": "weighted PDIS",
    "dm": "direct method",
    "sdr": "doubly robust",
    "wdr": "weighted DR",
    "magic": "MAGIC",
}


@dataclass(frozen=True)
class OpeRequest:
    """Request of `smrl ope`; see `evaluate_policy` for what is not described here.

    Attributes:
        policy: File or folder of the policy; None if none was given.
        data: File or folder of the log; None if none was given.
        as_json: Whether to print one JSON object instead of text.
    """

    policy: Path | None
    data: Path | None
    gamma: float
    horizon: int | None = None
    temperature: float | None = None
    epsilon: float = 0.0
    estimate_behavior: bool = False
    seed: int = 0
    as_json: bool = False


def run_ope(request: OpeRequest) -> None:
    """Evaluates a policy and prints the estimates on stdout; remarks go to stderr.

    Raises:
        UserError: An option, the policy or the log is invalid; all problems are listed.
    """
    problems = Problems("this evaluation")
    if request.policy is None:
        problems.add_line("--policy: got none; expected the policy to evaluate, as results/cartpole-bcq-….")
    if request.data is None:
        problems.add_line("--data: got none; expected the log to evaluate it on, as data/cartpole.csv.")
    problems.raise_if_any()
    assert request.policy is not None
    assert request.data is not None
    prepare_environment()
    from runtime.offline.evaluation import evaluate_policy  # imports torch
    from runtime.offline.results import finite

    found = evaluate_policy(
        request.policy,
        request.data,
        gamma=request.gamma,
        horizon=request.horizon,
        temperature=request.temperature,
        epsilon=request.epsilon,
        estimate_behavior=request.estimate_behavior,
        seed=request.seed,
    )
    reporter = Reporter()
    if request.as_json:
        reporter.line(json.dumps(finite(asdict(found)), indent=2))
        return
    for note in found.notes:
        reporter.note(note)
    reporter.finish(_summarize(found))


def _summarize(found: PolicyEvaluation) -> Summary:
    from runtime.offline.results import summary_facts, warning_facts

    facts = summary_facts(found, found.gamma)
    facts["possible returns"] = f"{found.bounds.low:.2f} to {found.bounds.high:.2f}, by the log's rewards"
    for name, title in _NAMES.items():
        if name in found.estimators:
            facts[title] = found.estimators[name].text()
    for why in dict.fromkeys(found.left_out.values()):
        names = [title for name, title in _NAMES.items() if found.left_out.get(name) == why]
        facts["left out"] = f"{', '.join(names)}: {why}"
    facts |= warning_facts(found)
    return Summary(f"{found.policy} on {found.steps:,} steps of {found.episodes:,} episodes of {found.log}", facts)
