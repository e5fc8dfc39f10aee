"""`smrl rollback-check`: false alarms over whole streams, real harm, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from runtime.cli import main
from runtime.errors import UserError
from runtime.offline.estimators.sequential import confidence_sequence
from runtime.offline.rollback_check import KEEPS, ROLLS_BACK, RollbackRequest, measure_arm, run_rollback_check


def _write(folder: Path, old: Any, new: Any, *, extra: list[dict[str, Any]] | None = None) -> Path:
    """A joined log of the decisions of two variants, in turn."""
    rows = [
        {"episode_id": f"{name}-{i}", "variant": name, "reward": float(reward)}
        for name, rewards in (("old", old), ("new", new))
        for i, reward in enumerate(rewards)
    ]
    pandas.DataFrame(rows + (extra or [])).to_csv(folder / "log.csv", index=False)
    return folder / "log.csv"


def test_the_false_alarms_of_all_looks_together_stay_below_alpha() -> None:
    """Both variants earn the same, and the test is made after every pair of decisions."""
    rng = np.random.default_rng(0)
    alpha, streams = 0.2, 500
    alarms = 0
    for _ in range(streams):
        old, new = (rng.random((2, 1000)) < 0.3).astype(float)
        alarms += bool((confidence_sequence(new, alpha=alpha)[1] < confidence_sequence(old, alpha=alpha)[0]).any())
    assert alarms / streams <= alpha


def test_a_worse_variant_is_rolled_back_and_an_equal_one_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    good, bad = (rng.random(2000) < share for share in (0.7, 0.5))
    words = ("--control", "old", "--treatment", "new", "--rewards", "0", "1")
    assert main(["rollback-check", str(_write(tmp_path, good, bad)), *words]) == ROLLS_BACK == 4
    assert capsys.readouterr().out.startswith("rollback-check: roll back: new's mean reward is at most 0.")
    assert main(["rollback-check", str(_write(tmp_path, good, bad)), *words, "--margin", "0.4"]) == KEEPS == 0
    assert main(["rollback-check", str(_write(tmp_path, bad, good)), *words]) == KEEPS
    assert main(["rollback-check", str(_write(tmp_path, good, good)), *words]) == KEEPS
    assert "rollback-check: keep: new's mean reward" in capsys.readouterr().out


def test_rewards_of_any_range_are_scaled_and_back() -> None:
    values = np.random.default_rng(2).random(500)
    unit = measure_arm(values, least=0, most=1, alpha=0.05)
    wide = measure_arm(values * 30 - 10, least=-10, most=20, alpha=0.05)
    assert (wide.low, wide.high, wide.mean) == pytest.approx(
        (unit.low * 30 - 10, unit.high * 30 - 10, unit.mean * 30 - 10)
    )


def test_episodes_that_variants_share_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = [{"episode_id": "both", "variant": name, "reward": 1.0} for name in ("old", "new")]
    log = _write(tmp_path, [0, 0, 0], [0, 0], extra=shared)
    assert run_rollback_check(RollbackRequest(log, "old", "new", 0, 1)) == KEEPS
    out = capsys.readouterr().out
    assert "1 episodes of several decisions left out" in out
    assert "of 3 decisions" in out
    assert "of 2 decisions" in out


def test_every_mistake_is_named(tmp_path: Path) -> None:
    good = RollbackRequest(_write(tmp_path, [0, 1], [1, 0.5]), "old", "new", 0, 1)
    wrong = replace(good, data=tmp_path / "none.csv", treatment="old", least=2, alpha=1.0, margin=-1.0)
    with pytest.raises(UserError, match=r"(?s)5 problems.*data.*--treatment.*--rewards.*--alpha.*--margin"):
        run_rollback_check(wrong)
    with pytest.raises(UserError, match=r"variant: got 'newer' .* the log has new, old"):
        run_rollback_check(replace(good, treatment="newer"))
    with pytest.raises(UserError, match=r"reward of old: got 1.0 .* expected numbers from 0 to 0.9 \(1 are not\)"):
        run_rollback_check(replace(good, most=0.9))
    pandas.DataFrame({"reward": [1.0]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(UserError, match=r"got no column variant or episode_id; expected a log of smrl join"):
        run_rollback_check(replace(good, data=tmp_path / "other.csv"))
