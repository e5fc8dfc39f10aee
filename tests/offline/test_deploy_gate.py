"""`smrl deploy-gate`: the verdict on policies whose returns are known, its exit codes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest

from runtime.cli import main
from runtime.errors import UserError
from runtime.offline.deploy_gate import PASSES, REFUSES, GateRequest, decide, judge_policies, run_gate
from runtime.offline.estimators.bounds import ReturnBounds, bound_returns
from runtime.offline.estimators.intervals import Interval
from runtime.offline.selection import Judged, PolicyEvaluator
from runtime.serving.exploring import Exploration
from tests.offline.test_selection import make_chain
from tests.small_models import write_linear_model

BOUNDS = ReturnBounds(0, 10)
# Of a state with features of either sign: the sign of the first, its opposite.
SIGN = ((-1.0, 0.0), (1.0, 0.0))
OPPOSITE = ((1.0, 0.0), (-1.0, 0.0))


def _judged(value: float, low: float, high: float, *, is_vacuous: bool = False) -> Judged:
    interval = Interval(value, low, high, pessimistic=low, outside=0.0, sample_size=50.0, is_vacuous=is_vacuous)
    return Judged(interval, fit_p_value=1.0)


@pytest.mark.parametrize(
    ("champion", "challenger", "margin", "passes", "reason"),
    [
        (_judged(5, 4, 6), _judged(7, 6, 8), 0.5, True, "lower bound 6 exceeds the champion's estimate 5 plus"),
        (_judged(5, 4, 6), _judged(7, 6, 8), 1.0, False, "lower bound 6 does not exceed .* 5 plus the margin 1"),
        (_judged(5, 4, 6), _judged(7, 4.9, 8), 0.0, False, "lower bound 4.9 does not exceed"),
        (_judged(5, 4, 6), _judged(5, 4.9, 8), -0.5, True, "plus the margin -0.5"),
        (_judged(5, 4, 6), _judged(7, 0, 10, is_vacuous=True), -9, False, "no interval for the challenger.*0.00 to 10"),
        (_judged(-5, 0, 10, is_vacuous=True), _judged(7, 6, 8), 0, False, "no interval for the champion"),
    ],
)
def test_a_challenger_passes_if_its_lower_bound_exceeds_the_estimate_by_the_margin(
    champion: Judged, challenger: Judged, margin: float, passes: bool, reason: str
) -> None:
    found = decide(champion, challenger, margin=margin, bounds=BOUNDS)
    assert (found.passes, found.exit_code) == (passes, PASSES if passes else REFUSES)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.reason)


def test_both_policies_are_judged_by_the_same_estimates_as_in_training() -> None:
    data, solve = make_chain(count=3000, seed=3)
    bounds = bound_returns(data, 0.9)
    moves = (0.2, 0.9)
    acts = [
        lambda states, move=move: np.tile(np.array([[1 - move, move]], np.float32), (len(states), 1)) for move in moves
    ]
    found = judge_policies(acts, data, log=data, gamma=0.9, seed=0, bounds=bounds)
    evaluator = PolicyEvaluator(data, gamma=0.9, seed=0, bounds=bounds)
    for one, move, act in zip(found, moves, acts, strict=True):
        policy: Any = SimpleNamespace(probabilities=act)
        reported = evaluator.report(policy).value
        assert (one.value, one.interval.low, one.interval.high) == (reported.value, reported.low, reported.high)
        true = solve(np.full(4, move), 0.9)[0]
        assert one.value == pytest.approx(true, rel=0.25)
        assert one.interval.low <= true <= one.interval.high


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of visits of one step: the reward is 1 where the action is the sign of the first of two features."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(600, 2)).round(3)
    actions = rng.integers(2, size=600)
    columns = {
        "episode_id": np.arange(600),
        "state_feature_0": states[:, 0],
        "state_feature_1": states[:, 1],
        "action": actions,
        "reward": (actions == (states[:, 0] > 0)).astype(float),
        "all_action_probabilities": ["[0.5, 0.5]"] * 600,
    }
    path = tmp_path_factory.mktemp("visits") / "log.csv"
    pandas.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directories: `right` earns 1 a visit, `wrong` 0."""
    folder = tmp_path_factory.mktemp("models")
    write_linear_model(folder / "right", SIGN)
    write_linear_model(folder / "wrong", OPPOSITE)
    write_linear_model(folder / "wide", np.eye(3).tolist())
    return folder


def test_the_command_ends_with_0_or_4_and_a_table(
    visits: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(models)
    words = ["deploy-gate", "--data", str(visits)]
    assert main([*words, "--champion", "wrong", "--challenger", "right", "--margin", "0.7"]) == 0
    first, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("deploy-gate: yes: the challenger's lower bound")
    assert [line.split()[0] for line in table[1:3]] == ["champion", "challenger"]
    assert abs(float(table[1].split()[2])) < 0.2
    assert abs(float(table[2].split()[2]) - 1) < 0.2
    assert "from 600 episodes" in table[3]

    assert main([*words, "--champion", "right", "--challenger", "wrong"]) == 4
    assert capsys.readouterr().out.startswith("deploy-gate: no: ")


def test_exploration_counts_for_both_policies(visits: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = GateRequest(models / "wrong", models / "right", visits, exploration=Exploration(0.0, 0.5))
    assert run_gate(request) == PASSES
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [float(row[2]) for row in rows] == pytest.approx([0.25, 0.75], abs=0.1)


def test_a_log_without_the_challengers_actions_refuses_with_that_reason(
    visits: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No step shows what the right policy would earn, nor does one from a state beside it."""
    rows = pandas.read_csv(visits)
    rows = rows[(rows["action"] != (rows["state_feature_0"] > 0)) & (rows["state_feature_0"].abs() > 1)]
    coins = np.random.default_rng(1).integers(2, size=len(rows))
    rows.assign(reward=coins).to_csv(tmp_path / "poor.csv", index=False)
    assert run_gate(GateRequest(models / "wrong", models / "right", tmp_path / "poor.csv", margin=-2)) == REFUSES
    first, _, champion, challenger, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "deploy-gate: no: the log supports no interval for the challenger: any possible return, 0.00"
    )
    assert challenger.split()[3] == "none"
    assert champion.split()[3] != "none"
    assert "warning: challenger: this log supports no interval" in rest[1]


def test_every_mistake_is_listed_at_once(visits: Path, models: Path, tmp_path: Path) -> None:
    good = GateRequest(models / "wrong", models / "right", visits)
    wrong = replace(good, champion=tmp_path / "none", data=tmp_path / "no.csv", gamma=1.0, margin=float("nan"))
    with pytest.raises(UserError, match=r"(?s)4 problems.*--margin: got nan.*--gamma: got 1.*--champion.*--data"):
        run_gate(wrong)
    with pytest.raises(UserError, match=r"--challenger: got 3 from its manifest; expected 2 inputs"):
        run_gate(replace(good, challenger=models / "wide"))
    pandas.read_csv(visits).head(9).to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(UserError, match=r"--data: got 9 from .*; expected at least 10 episodes"):
        run_gate(replace(good, data=tmp_path / "short.csv"))
