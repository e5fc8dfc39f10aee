"""Hostile checkpoints are refused, file by file; tests/jobs/test_training.py evaluates and resumes a whole one."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.artifacts.checkpoint import HASHES, STATE, JobState, hash_file, restore_random_states, save_checkpoint
from runtime.artifacts.trust import check_checkpoint
from runtime.errors import UserError
from runtime.serving.observations import RequestError


class Payload:
    """An object that touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def write_checkpoint(folder: Path, files: dict[str, bytes]) -> Path:
    """A checkpoint whose algorithm wrote some files."""

    def write(aside: Path) -> None:
        for name, content in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(content)

    return save_checkpoint(folder, JobState("CartPole-v1", [4], "Discrete(2)"), write_algorithm=write)


def list_again(checkpoint: Path) -> None:
    """Rewrites a checkpoint's list of files with correct hashes and sizes, as an attacker would."""
    described = json.loads((checkpoint / STATE).read_text())
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != STATE]
    described[HASHES] = {str(path.relative_to(checkpoint)): hash_file(path) for path in files}
    described["files"] = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    (checkpoint / STATE).write_text(json.dumps(described))


STATES = pickle.dumps({"weights": np.ones((3, 4), np.float32), "steps": 7, "recent": {1.5, 2.5}, "count": np.int64(3)})


def refuse(checkpoint: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        check_checkpoint(checkpoint, trust=False, setting="rl.training.trust_checkpoint")
    assert "set rl.training.trust_checkpoint=true" in str(caught.value)
    check_checkpoint(checkpoint, trust=True, setting="rl.training.trust_checkpoint")


def test_a_checkpoint_as_it_was_written_is_let_through(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, {"state.pkl": STATES, "learner/state.pkl": STATES, "other.json": b"{}"})
    check_checkpoint(checkpoint, trust=False, setting="rl.training.trust_checkpoint")


def test_files_that_were_changed_or_added_are_all_named(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, {"state.pkl": STATES, "learner/state.pkl": STATES})
    (checkpoint / "learner" / "state.pkl").write_bytes(STATES + b" ")
    (checkpoint / "added.pkl").write_bytes(STATES)
    refuse(checkpoint, r"added\.pkl: not listed in job\.json\n  learner/state\.pkl: not the file that job\.json lists")


@pytest.mark.parametrize("name", ["algorithm_state.pkl", "learner_group/learner/state.pkl", "env_runner/state.pkl"])
def test_a_pickle_that_calls_a_function_is_never_read(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "escaped"
    payload = pickle.dumps(Payload(marker))
    pickle.loads(payload)
    assert marker.exists(), "the payload does nothing, so this test could not fail"
    marker.unlink()
    checkpoint = write_checkpoint(tmp_path / "checkpoints", {name: STATES})
    (checkpoint / name).write_bytes(payload)
    list_again(checkpoint)
    refuse(checkpoint, rf"{name}: UnpicklingError: it calls (posix|nt)\.system")
    assert not marker.exists()


def test_marks_that_sagemaker_puts_beside_a_checkpoints_files_change_nothing(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, {"state.pkl": STATES, "state.pkl.sagemaker-uploading": b""})
    assert not any("sagemaker" in name for name in json.loads((checkpoint / STATE).read_text())["files"])
    (checkpoint / "state.pkl.sagemaker-uploading").rename(checkpoint / "state.pkl.sagemaker-uploaded")
    check_checkpoint(checkpoint, trust=False, setting="rl.training.trust_checkpoint")


def test_functions_of_trusted_libraries_are_no_way_around(tmp_path: Path) -> None:
    """numpy's loader and torch's storages unpickle what they are given."""
    for payload in (
        b"cnumpy\nload\n(S'x'\ntR.",
        b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
        b"cbuiltins\neval\n.",
    ):
        checkpoint = write_checkpoint(tmp_path, {"state.pkl": payload})
        refuse(checkpoint, r"state\.pkl: UnpicklingError: it calls (numpy\.load|torch\.storage|builtins\.eval)")


def test_links_to_folders_elsewhere_are_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoints", {"state.pkl": STATES})
    (tmp_path / "elsewhere").mkdir()
    (checkpoint / "learner_group").symlink_to(tmp_path / "elsewhere")
    refuse(checkpoint, "learner_group: a link")


def test_msgpack_states_and_checkpoints_without_hashes_are_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, {"state.msgpack": b"\x80"})
    refuse(checkpoint, r"state\.msgpack: a state in msgpack")
    described = json.loads((checkpoint / STATE).read_text())
    del described[HASHES]
    (checkpoint / STATE).write_text(json.dumps(described))
    refuse(checkpoint, r"job\.json: lists no hashes")


def test_random_states_are_numbers_and_come_back(tmp_path: Path) -> None:
    import random

    import torch

    checkpoint = write_checkpoint(tmp_path, {})
    assert not list(checkpoint.glob("*.pkl"))
    drawn = random.random(), np.random.random(), torch.rand(1).item()
    restore_random_states(checkpoint)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == drawn


def arrange(folder: Path, payload: bytes) -> dict[str, tuple[Callable[[], object], str]]:
    """The payload as each file that others bring: what reads it, and what is said of it."""
    from envs.deepracer.tracks import load_track
    from runtime.families.deepracer.job_files import read_job_file
    from runtime.offline.bcq import ALGORITHM, Learner
    from runtime.offline.data.reading import read_transitions
    from runtime.policies.network_policy import NetworkPolicy
    from runtime.serving.decoding import NPY, decode
    from runtime.serving.served_policy import ServedPolicy
    from runtime.settings.presets import load_preset
    from runtime.tuning.request import read_job
    from tests.offline.test_bcq import RECIPE, make_data

    array = io.BytesIO()
    np.save(array, np.array([Payload(folder / "escaped")], dtype=object), allow_pickle=True)
    tagged = f"!!python/object/apply:os.system ['touch {folder / 'escaped'}']".encode()
    pickles = ("log.csv", "log.parquet", "log.h5", "policy.safetensors", "old.pt", ALGORITHM)
    for name, content in {**dict.fromkeys(pickles, payload), "track.npy": array.getvalue(), "job.yaml": tagged}.items():
        (folder / name).write_bytes(content)
    served = ServedPolicy.__new__(ServedPolicy)  # a body of objects does not get as far as a policy
    learner = Learner(make_data(), RECIPE)
    return {
        "a track": (lambda: load_track(folder / "track.npy"), "NumPy cannot read"),
        "a CSV log": (lambda: read_transitions(folder / "log.csv"), "expected episode_id among them"),
        "a Parquet log": (lambda: read_transitions(folder / "log.parquet"), "is not Parquet"),
        "an HDF5 log": (lambda: read_transitions(folder / "log.h5"), "expected a whole HDF5 file"),
        "a policy": (lambda: NetworkPolicy.load(folder / "policy.safetensors"), "is no policy of this program"),
        "an older policy": (lambda: NetworkPolicy.load(folder / "old.safetensors"), "Weights only load failed"),
        "a learner's state": (lambda: learner.restore(folder), "Weights only load failed"),
        "a preset": (lambda: load_preset(str(folder / "job.yaml"), source="a test"), "is not a valid preset"),
        "a tuning job": (lambda: read_job(folder / "job.yaml"), "cannot be read"),
        "a race's job file": (lambda: read_job_file(folder / "job.yaml", is_training=True), "is no YAML"),
        "a request": (lambda: decode(array.getvalue(), NPY, served), "got no NumPy array"),
    }


def test_no_file_that_others_bring_is_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "escaped"
    readers = arrange(tmp_path, pickle.dumps(Payload(marker), protocol=2))
    for what, (read, message) in readers.items():
        with pytest.raises((UserError, ValueError, RequestError), match=message):
            read()
        assert not marker.exists(), what
