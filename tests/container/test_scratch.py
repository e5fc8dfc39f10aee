"""Temporary folders: one a process, gone with it; those of the dead are swept, nobody else's."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.container.scratch import ray_folder, remove_dead_folders
from runtime.errors import PlatformError
from tests.conftest import ROOT, clean_environment

MARK = "scratch folder of smrl\n"


def make(root: Path, name: str, *, mark: str | None = MARK) -> Path:
    """A folder as a job leaves it that was killed."""
    folder = root / name
    (folder / "ray" / "session_1").mkdir(parents=True)
    if mark is not None:
        (folder / ".lock").write_text(mark)
    return folder


def test_what_dead_jobs_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead, living = make(tmp_path, "smrl-dead"), make(tmp_path, "smrl-living")
    others = [
        make(tmp_path, "smrl-starting", mark=None),
        make(tmp_path, "smrl-others", mark="of another program\n"),
        make(tmp_path, "session_1"),
    ]
    elsewhere = make(tmp_path / "elsewhere", "smrl-dead")
    (tmp_path / "smrl-link").symlink_to(elsewhere)
    with (living / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_dead_folders(tmp_path)
    assert not dead.exists()
    assert all(folder.is_dir() for folder in (living, elsewhere, *others))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of another user's")
def test_another_users_folder_stays(tmp_path: Path) -> None:
    folder = make(tmp_path, "smrl-dead")
    os.chown(folder, 12345, 12345)
    remove_dead_folders(tmp_path)
    assert folder.is_dir()


def test_a_process_has_one_folder_which_goes_with_it(tmp_path: Path) -> None:
    program = (
        "import os; from runtime.container.scratch import scratch_folder\n"
        "folder = scratch_folder(); assert folder == scratch_folder(); print(folder, flush=True)\n"
        "(folder / 'file').touch()\n"
        "if os.fork() == 0: assert scratch_folder() != folder; raise SystemExit\n"
        "os.wait(); assert (folder / 'file').exists()\n"
    )
    environment = {**clean_environment(), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{tmp_path}/smrl-")
    assert list(tmp_path.iterdir()) == []


def test_rays_folder_is_short_enough_for_its_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    program = (
        "from runtime.container.scratch import ray_folder, scratch_folder; print(scratch_folder()); print(ray_folder())"
    )
    environment = {**clean_environment(), "TMPDIR": str(long)}
    environment.pop("RAY_TMPDIR", None)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    scratch, rays = done.stdout.splitlines()
    assert Path(scratch).parent == long
    assert len(f"{rays}/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store") <= 107
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_folder().parent.parent == tmp_path
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "not" / "there"))
    assert ray_folder().parent.parent == tmp_path / "not" / "there"
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(PlatformError, match=r"file: got a temporary folder that cannot be written to"):
        ray_folder()
