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


def test_docker_is_asked_for_the_image_before_a_job_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = runpy.run_path(str(ROOT / "examples" / "jobs.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="there is no program docker; install Docker, or use 'here'"):
        jobs["choose"]("docker")
    (tmp_path / "docker").write_text('#!/bin/sh\necho "Error: No such image: $3" >&2\nexit 1\n')
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(RuntimeError, match="No such image: smrl:none; `make image` builds smrl:cpu"):
        jobs["choose"]("docker", image="smrl:none")
