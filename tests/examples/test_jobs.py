"""Jobs of the notebooks, as examples/jobs.py starts and shows them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.conftest import ROOT


def test_show_names_a_report_only_where_there_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An evaluation leaves no report.html; its folder was said to have one."""
    jobs = runpy.run_path(str(ROOT / "examples" / "jobs.py"))
    job = jobs["Job"]("smrl-evaluate", tmp_path, tmp_path / "model")
    job.data.mkdir(parents=True)
    job.show()
    assert capsys.readouterr().out == f"all of it: {job.data}\n"
    (job.data / "report.html").touch()
    job.show()
    assert capsys.readouterr().out == f"all of it: {job.data / 'report.html'}\n"
