"""The export at the end of a job, in a process beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from runtime.artifacts.manifest import only_writer, read_manifest
from runtime.errors import UserError
from runtime.jobs.exporting import Exporting
from runtime.outputs.console import Reporter


class Notes(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def note(self, text: str) -> None:
        """Keeps a note."""
        self.kept.append(text)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("has_used_gpu", [False, True])
def test_a_model_is_exported_in_a_fork_but_not_after_cuda_was_used(
    has_used_gpu: bool, tiny_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch refuses CUDA in a fork of a process that has used it; the tests have no GPU to use."""
    folder = shutil.copytree(tiny_results / "model", tmp_path / "model")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: has_used_gpu)
    notes = Notes()
    with Exporting(notes) as exporting:
        exporting.start(folder)
        assert bool(read_manifest(folder).get("exports")) == has_used_gpu  # done before it returned, in this process
        if not has_used_gpu:
            with pytest.raises(UserError, match="another process is writing to"), only_writer(folder):
                pass
        exporting.finish()
    assert notes.kept == []
    assert [entry["file"] for entry in read_manifest(folder)["exports"]] == [
        *("1/saved_model.pb", "policy.onnx", "policy.pt2")
    ]
    with only_writer(folder):  # it was released
        pass


def test_a_model_that_cannot_be_exported_is_noted_in_the_manifest(tiny_results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_results / "model", tmp_path / "model")
    os.truncate(folder / "checkpoint" / "policy.safetensors", 100)
    notes = Notes()
    with Exporting(notes) as exporting:
        exporting.start(folder)
        exporting.finish()
    (note,) = notes.kept
    assert note.startswith("the policy is not exported: ")
    assert "got 'checkpoint', which" in note  # it is not whole
    assert read_manifest(folder)["not_exported"] in note


def test_a_folder_that_another_process_writes_to_is_left_alone(tiny_results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_results / "model", tmp_path / "model")
    before = (folder / "manifest.json").read_text()
    notes = Notes()
    with only_writer(folder), Exporting(notes) as exporting:
        exporting.start(folder)
        exporting.finish()
    (note,) = notes.kept
    assert "the policy is not exported: " in note
    assert "another process is writing to" in note
    assert (folder / "manifest.json").read_text() == before


def test_leaving_a_job_early_kills_its_export(tiny_results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_results / "model", tmp_path / "model")
    with Exporting(Notes()) as exporting:
        exporting.start(folder)
    assert not read_manifest(folder).get("exports")
    with only_writer(folder):  # nobody holds it
        pass
