"""The loop from serving, small: real servers, real HTTP, and a policy that is better than the one that was served."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.offline.data.reading import read_transitions
from tests.conftest import ROOT, clean_environment


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.ray
def test_users_decisions_make_a_better_policy(tmp_path: Path) -> None:
    words = ("--out", str(tmp_path), "--episodes", "300", "--judged", "5", "rl.training.stop.training_iteration=10")
    command = [sys.executable, str(ROOT / "examples" / "serving_loop.py"), *words]
    variables = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    v0, v1 = map(float, re.findall(r"v[01]: mean return ([\d.]+)", done.stdout))
    assert v1 > 2 * v0
    log = read_transitions(tmp_path / "log.csv")
    assert len(log.starts) == 300
    # CartPole pays 1 a step, and users' actions were sampled with an epsilon of 0.9.
    assert log.returns.tolist() == log.lengths.tolist()
    assert {round(float(p), 6) for p in log.chosen_probabilities} == {0.45, 0.55}
