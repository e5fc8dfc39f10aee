"""The loop from serving, small: real servers, real HTTP, and a policy that is better than the one that was served."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from runtime.offline.data.reading import read_transitions
from tests.conftest import ROOT, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.ray]
EXAMPLES = ROOT / "examples"
FEW = ("rl.training.stop.training_iteration=10", "rl.training.config.seed=0")


def run_loop(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "serving_loop.py"), "--out", str(folder), *words]
    variables = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)


def test_users_decisions_make_a_better_policy(tmp_path: Path) -> None:
    done = run_loop(tmp_path, "--episodes", "450", "--judged", "5", *FEW)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "deploy-gate: yes: the challenger's lower bound" in done.stdout
    v0, v1 = map(float, re.findall(r"v[01]: mean return ([\d.]+)", done.stdout))
    assert v1 > 2 * v0
    log, training, held_out = (read_transitions(tmp_path / f"{name}.csv") for name in ("log", "training", "held_out"))
    assert [len(one.starts) for one in (log, training, held_out)] == [450, 300, 150]
    # CartPole pays 1 a step, and users' actions were sampled with an epsilon of 0.9.
    assert log.returns.tolist() == log.lengths.tolist()
    assert {round(float(p), 6) for p in log.chosen_probabilities} == {0.45, 0.55}


def test_a_version_that_is_not_better_by_the_margin_is_not_deployed(tmp_path: Path) -> None:
    few = ("rl.training.stop.training_iteration=1", "rl.training.config.updates_per_iteration=1")
    done = run_loop(tmp_path, "--episodes", "60", "--judged", "1", "--margin", "1000", *few)
    assert done.returncode == 4, done.stderr + done.stdout
    assert "deploy-gate: no: " in done.stdout
    assert "v1: mean return" not in done.stdout
    assert not (tmp_path / "judged-v1").exists()


def test_the_notebook_runs_from_v0_to_the_verdict(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "serving_loop.ipynb", as_version=4)
    (at,) = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    quick = ["rl.training.stop.training_iteration=2", "rl.training.config.updates_per_iteration=20"]
    small = f"episodes, judged, settings, folder = 60, 2, {quick!r}, {str(tmp_path)!r}"
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(small))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    code, returns = (result_of(notebook.cells, beginning) for beginning in ("code =", "versions ="))
    assert code in ("0", "4")
    assert ("'v1'" in returns) == (code == "0")
    assert len(read_transitions(tmp_path / "log.csv").starts) == 60


def result_of(cells: Any, beginning: str) -> str:
    """The value that the only cell that starts with a text ends with."""
    (cell,) = [cell for cell in cells if cell.source.startswith(beginning)]
    (found,) = [output for output in cell.outputs if output.output_type == "execute_result"]
    return str(found.data["text/plain"])
