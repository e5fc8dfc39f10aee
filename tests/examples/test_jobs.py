"""Jobs of the notebooks, as examples/jobs.py starts and shows them."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY


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


@pytest.mark.slow
def test_a_job_that_is_not_waited_for_is_looked_at_stopped_and_says_why_it_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    here = runpy.run_path(str(ROOT / "examples" / "jobs.py"))["choose"]("here", folder=tmp_path)
    settings = {**TINY, "rl.training.env": "CartPole-v1", "rl.training.stop.training_iteration": "100000"}
    job = here.run("train", {**settings, "rl.training.video_freq": "0"}, wait=False)
    try:
        deadline = time.monotonic() + 240
        while f"{job.name} runs, " not in capsys.readouterr().out:
            assert job.refresh(), "it has ended"
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        job.stop()
    assert not job.refresh()
    assert f"{job.name} has ended, " in capsys.readouterr().out
    assert (job.folder / "model" / "manifest.json").is_file()
    wrong = here.run("train", {"rl.training.config.gama": 0.9}, wait=False)
    with pytest.raises(RuntimeError, match=r"smrl-train-\S+ has failed:\n(.*\n)*.*Did you mean 'gamma'\?"):
        wrong.wait()


def test_docker_is_asked_for_the_image_before_a_job_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = runpy.run_path(str(ROOT / "examples" / "jobs.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="there is no program docker; install Docker, or use 'here'"):
        jobs["choose"]("docker")
    (tmp_path / "docker").write_text('#!/bin/sh\necho "Error: No such image: $3" >&2\nexit 1\n')
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(RuntimeError, match="No such image: smrl:none; `make image` builds smrl:cpu"):
        jobs["choose"]("docker", image="smrl:none")
