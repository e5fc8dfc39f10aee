from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.artifacts.checkpoint import (
    JobState,
    best_checkpoint,
    checkpoints_in,
    find_checkpoint,
    read_state,
    save_checkpoint,
)
from runtime.errors import PlatformError, UserError
from tests.conftest import ROOT


def save(folder: Path, iteration: int, mean: float | None = None) -> Path:
    rows = [{"training_iteration": n} for n in range(1, iteration + 1)]
    state = JobState(
        "CartPole-v1", [4], "Discrete(2)", training_iteration=iteration, episode_reward_mean=mean, rows=rows
    )
    return save_checkpoint(folder, state, write_algorithm=writing(str(iteration).encode()))


def writing(weights: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "weights").write_bytes(weights)

    return write


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = save(tmp_path, 4, 1.5)
    state = read_state(path)
    assert (state.training_iteration, state.episode_reward_mean, len(state.rows)) == (4, 1.5, 4)
    assert find_checkpoint(tmp_path) == path == find_checkpoint(path)


def test_the_newest_three_and_the_best_are_kept(tmp_path: Path) -> None:
    for iteration, mean in enumerate((1.0, 9.0, 2.0, 3.0, None, 4.0), start=1):
        save(tmp_path, iteration, mean)
    assert [read_state(p).training_iteration for p in checkpoints_in(tmp_path)] == [2, 4, 5, 6]
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert read_state(best).episode_reward_mean == 9.0


def test_a_score_chooses_the_best_before_any_mean_return(tmp_path: Path) -> None:
    """The mean return of a checkpoint that was not evaluated says nothing beside another's score."""
    for iteration, (mean, score) in enumerate([(1.0, 5.0), (2.0, 7.0), (9.0, None)], start=1):
        extra = {} if score is None else {"evaluation": {"score": score}}
        state = JobState("CartPole-v1", [4], "", training_iteration=iteration, episode_reward_mean=mean, extra=extra)
        save_checkpoint(tmp_path, state, write_algorithm=writing(b""))
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert read_state(best).training_iteration == 2


def test_a_full_disk_costs_no_earlier_checkpoint(tmp_path: Path) -> None:
    earlier = save(tmp_path, 1)

    def fill_disk(path: Path) -> None:
        (path / "weights").write_text("half")
        raise OSError(28, "No space left on device")

    state = JobState("CartPole-v1", [4], "Discrete(2)", training_iteration=2)
    with pytest.raises(PlatformError, match=r"No space left on device.*Earlier checkpoints are whole"):
        save_checkpoint(tmp_path, state, write_algorithm=fill_disk)
    assert checkpoints_in(tmp_path) == [earlier]
    assert list(tmp_path.iterdir()) == [earlier]


def test_a_disk_that_is_really_full_costs_no_earlier_checkpoint(small_disk: Path) -> None:
    earlier = save(small_disk, 1)
    state = JobState("CartPole-v1", [4], "Discrete(2)", training_iteration=2)
    with pytest.raises(PlatformError, match="No space left on device"):
        save_checkpoint(small_disk, state, write_algorithm=writing(b"x" * 10**6))
    assert checkpoints_in(small_disk) == [earlier]


# Forks, for each number that it reads, a process that saves from that iteration on until it is killed.
SAVE_FOREVER = """
import os, sys, tempfile
from pathlib import Path
from tests.artifacts.test_checkpoint import save
with tempfile.TemporaryDirectory() as elsewhere:
    save(Path(elsewhere), 1)  # which imports what it needs, once for all
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        iteration = int(line)
        while True:
            iteration += 1
            save(Path(sys.argv[1]), iteration)
            print(iteration, flush=True)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


def test_a_kill_at_any_instant_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    """A process that does nothing but save is killed 20 times; every checkpoint left behind is whole."""
    command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
    forks = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert forks.stdin is not None
    assert forks.stdout is not None
    newest = 0
    for attempt in range(20):
        forks.stdin.write(f"{newest}\n")
        forks.stdin.flush()
        saving, *_ = (int(forks.stdout.readline()) for _ in range(3))  # its number, and two iterations
        time.sleep(0.003 * attempt / 20)
        os.kill(saving, signal.SIGKILL)
        while forks.stdout.readline() != "killed\n":
            pass
        found = checkpoints_in(tmp_path)
        for path in found:
            iteration = read_state(path).training_iteration
            assert (path / "weights").read_text() == str(iteration)
            assert len(read_state(path).rows) == iteration
        assert read_state(found[-1]).training_iteration >= newest + 2
        newest = read_state(found[-1]).training_iteration
    forks.communicate()


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "job.json").write_text('{"env": "Cart')
    with pytest.raises(UserError, match=r"job.json: got a file that cannot be read"):
        read_state(path)


def test_a_checkpoint_with_a_file_cut_or_missing_is_not_whole(tmp_path: Path) -> None:
    """SageMaker restores checkpoints file by file; the newest may have come only in part."""
    older, newest = save(tmp_path, 1), save(tmp_path, 22)
    (newest / "weights").write_bytes(b"2")
    assert checkpoints_in(tmp_path) == [older]
    (newest / "weights").unlink()
    assert find_checkpoint(tmp_path) == older


def test_saving_the_same_iteration_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3, 1.0)
    path = save(tmp_path, 3, 2.0)
    assert read_state(path).episode_reward_mean == 2.0
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_without_a_checkpoint_holds_none(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint_000001.writing").mkdir()
    (tmp_path / "checkpoint_000001").mkdir()
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "absent") is None
