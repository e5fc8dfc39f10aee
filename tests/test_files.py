"""Atomic writes and locks, tried by killing the process at every file operation."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.files import (
    append_line,
    drop_partial_line,
    folder_aside,
    lock,
    remove_folder,
    replace_folder,
    sweep,
    write_bytes,
    write_json,
    write_text,
    writing_aside,
)
from tests.conftest import ROOT

# Runs ACTION and kills itself (SIGKILL) right before the file operation of the given number, as Python's audit hooks
# report them.
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from runtime import files

number, target, action = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def count(event, arguments):
    global number
    if event.partition(".")[0] in ("open", "os", "shutil", "ctypes") and event != "os.kill":
        number -= 1
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)

def write_file():
    files.write_text(target, "new" * 1000)

def write_folder():
    with files.writing_aside(target) as aside:
        (aside / "below").mkdir(parents=True)
        for name in ("a", "below/b"):
            (aside / name).write_text("new")

def write_folder_in_two_renames():
    files.ctypes.CDLL = lambda name: None  # a C library without renameat2, as macOS has
    write_folder()

def remove_folder():
    files.remove_folder(target)

act = globals()[action]
sys.addaudithook(count)
act()
"""

State = dict[str, str] | str | None


def state_of(path: Path) -> State:
    """A file's text, a folder's files, or None if the path is absent."""
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}
    return path.read_text() if path.exists() else None


def set_up(path: Path, state: State) -> None:
    if isinstance(state, str):
        path.write_text(state)
    for name, text in state.items() if isinstance(state, dict) else ():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)


OLD_FOLDER = {"a": "old", "below/b": "old", "gone": "old"}
NEW_FOLDER = {"a": "new", "below/b": "new"}


@pytest.mark.parametrize(
    ("action", "old", "new"),
    [
        ("write_file", "old", "new" * 1000),
        ("write_file", None, "new" * 1000),
        ("write_folder", OLD_FOLDER, NEW_FOLDER),
        ("write_folder", None, NEW_FOLDER),
        ("write_folder_in_two_renames", OLD_FOLDER, NEW_FOLDER),
        ("remove_folder", OLD_FOLDER, None),
    ],
)
def test_a_kill_at_any_file_operation_leaves_the_old_version_or_the_new(
    action: str, old: State, new: State, tmp_path: Path
) -> None:
    found: list[State] = []
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        set_up(folder / "target", old)
        command = [sys.executable, "-c", KILLED_AT, str(number), str(folder / "target"), action]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if action != "write_folder_in_two_renames":  # which needs sweep to put the old folder back
            assert state_of(folder / "target") in (old, new)
        sweep(folder)
        found.append(state_of(folder / "target"))
        assert found[-1] in (old, new)
        assert {path.name for path in folder.iterdir()} <= {"target"}
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert found[0] == old
    assert found[-1] == new
    assert len(found) >= 5
    assert found == sorted(found, key=lambda state: state == new)  # never back to the old version


def test_an_existing_folder_is_never_absent_while_it_is_replaced(tmp_path: Path) -> None:
    """The two folders are exchanged in one system call, which Linux's file systems have."""
    set_up(tmp_path / "target", OLD_FOLDER)
    set_up(tmp_path / "source", NEW_FOLDER)
    before = (tmp_path / "source").stat().st_ino
    replace_folder(tmp_path / "source", tmp_path / "target")
    assert state_of(tmp_path / "target") == NEW_FOLDER
    assert (tmp_path / "target").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def write_some_text(path: Path) -> None:
    write_text(path, "naïve\n")


def write_some_bytes(path: Path) -> None:
    write_bytes(path, "naïve\n".encode())


@pytest.mark.parametrize("write", [write_some_text, write_some_bytes])
def test_what_was_written_is_read(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "file")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "naïve\n"


def test_json_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"a": [1]})
    assert (tmp_path / "file").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_a_full_disk_leaves_the_old_version(small_disk: Path) -> None:
    write_text(small_disk / "file", "old")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(small_disk / "file", bytes(10**6))
    assert caught.value.errno == errno.ENOSPC
    assert state_of(small_disk) == {"file": "old"}


def test_a_block_that_fails_leaves_the_old_version(tmp_path: Path) -> None:
    set_up(tmp_path / "target", OLD_FOLDER)

    def fail_in_the_middle() -> None:
        with writing_aside(tmp_path / "target") as aside:
            aside.mkdir()
            (aside / "a").write_text("new")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail_in_the_middle()
    assert state_of(tmp_path) == {f"target/{name}": text for name, text in OLD_FOLDER.items()}


def test_files_moved_out_of_a_folder_aside_stay_and_the_rest_goes(tmp_path: Path) -> None:
    with folder_aside(tmp_path, "export") as aside:
        assert aside.parent == tmp_path
        (aside / "kept").write_text("kept")
        (aside / "dropped").write_text("dropped")
        os.replace(aside / "kept", tmp_path / "kept")
    assert state_of(tmp_path) == {"kept": "kept"}


def test_sweep_removes_only_leftovers(tmp_path: Path) -> None:
    set_up(tmp_path, {".a.writing": "", ".b.writing/c": "", ".d.removing/e": "", ".lock": "", "f.writing": ""})
    sweep(tmp_path)
    assert state_of(tmp_path) == {".lock": "", "f.writing": ""}


def test_a_folder_is_removed_with_what_is_below_it(tmp_path: Path) -> None:
    set_up(tmp_path / "target", OLD_FOLDER)
    remove_folder(tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_a_line_cut_by_a_kill_is_dropped_before_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log"
    drop_partial_line(log)
    append_line(log, "one")
    with log.open("a") as file:
        file.write("tw")
    drop_partial_line(log)
    append_line(log, "two")
    assert log.read_text() == "one\ntwo\n"


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, with a child of its own, that holds the lock."""
    program = (
        "import subprocess, sys; from pathlib import Path; from runtime.files import lock\n"
        "with lock(Path(sys.argv[1])):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "    print('held', flush=True); input()\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_second_writer_is_refused_and_told_why(kind: str, tmp_path: Path) -> None:
    path = tmp_path if kind == "folder" else tmp_path / ".lock"
    with (
        holder(path),
        pytest.raises(BlockingIOError, match=f"locked by another process: '{re.escape(str(path))}'"),
        lock(path, timeout_s=0.15),
    ):
        pass


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_goes_with_its_process(kind: str, tmp_path: Path) -> None:
    """The lock is released even if its process is killed and a child process survives."""
    path = tmp_path if kind == "folder" else tmp_path / ".lock"
    with holder(path) as process:
        process.kill()
        process.wait()
        with lock(path):
            pass
    with lock(path):  # it goes with its block, too
        pass


def test_a_second_writer_waits_until_its_time_is_up(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()  # the holder ends
        with lock(tmp_path, timeout_s=30):
            pass
