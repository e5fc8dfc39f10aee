"""Batch transform of files, by the command that users type."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from runtime.artifacts.manifest import unpack
from runtime.errors import UserError
from runtime.policies.policy import Policy
from tests.conftest import run_smrl

ROWS = np.random.default_rng(4).normal(size=(5000, 9)).astype(np.float32)  # more than are taken at once

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def actions(policy: Policy) -> np.ndarray:
    """The trained policy's actions for ROWS."""
    found: np.ndarray = policy.outputs(ROWS)["actions"]
    return found


def transform(results: Path, source: Path, *words: str) -> tuple[int, str]:
    """Exit code and what it said."""
    done = run_smrl("transform", str(results), "--input", str(source), "--output", "out", *words, cwd=source.parent)
    return done.returncode, done.stderr


def test_a_line_a_record(exported_results: Path, tmp_path: Path, actions: np.ndarray) -> None:
    text = "".join(f"{json.dumps(row)}\n\n" for row in ROWS.tolist())[:-2]
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8-sig")  # with a mark, as Windows writes it
    code, said = transform(exported_results, tmp_path / "a.jsonl")
    assert code == 0, said
    assert "files in out: 1; 5,000 records" in said
    lines = (tmp_path / "out" / "a.jsonl.out").read_text().splitlines()
    np.testing.assert_allclose([json.loads(line)["predictions"][0] for line in lines], actions, atol=1e-5)


def test_records_are_joined_as_sagemaker_joins_them(
    exported_results: Path, tmp_path: Path, actions: np.ndarray
) -> None:
    """Arrays under SageMakerInput, objects with a key more, rows of CSV with columns more; a folder keeps its tree."""
    (tmp_path / "in" / "b").mkdir(parents=True)
    lists = ROWS[:3].tolist()
    objects = [{"observations": row} for row in ROWS[:3].tolist()]
    (tmp_path / "in" / "lists.jsonl").write_text("".join(json.dumps(row) + " \r\n" for row in lists))
    (tmp_path / "in" / "b" / "objects").write_text("".join(json.dumps(row) + "\n" for row in objects))
    (tmp_path / "in" / "rows.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in lists))
    code, said = transform(exported_results, tmp_path / "in", "--join", "input")
    assert code == 0, said
    out = tmp_path / "out"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.out")) == [
        "b/objects.out",
        "lists.jsonl.out",
        "rows.csv.out",
    ]
    joined = [json.loads(line) for line in (out / "lists.jsonl.out").read_text().splitlines()]
    assert [line["SageMakerInput"] for line in joined] == lists
    np.testing.assert_allclose([line["SageMakerOutput"]["predictions"][0] for line in joined], actions[:3], atol=1e-5)
    joined = [json.loads(line) for line in (out / "b" / "objects.out").read_text().splitlines()]
    assert [line["observations"] for line in joined] == lists
    np.testing.assert_allclose([line["SageMakerOutput"]["predictions"][0] for line in joined], actions[:3], atol=1e-5)
    table = np.loadtxt(out / "rows.csv.out", delimiter=",")
    np.testing.assert_allclose(table, np.hstack([ROWS[:3], actions[:3]]), atol=1e-5)


def test_a_bad_record_is_found_and_earlier_outputs_stay(exported_results: Path, tmp_path: Path) -> None:
    good = json.dumps(ROWS[0].tolist())
    (tmp_path / "a.jsonl").write_text(f"{good}\n" * 4500 + "\n[1, 2]\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl.out").write_text("of yesterday")
    code, said = transform(exported_results, tmp_path / "a.jsonl")
    assert code == 2
    assert f"{tmp_path / 'a.jsonl'}: line 4502: instances: got shape (1, 2); expected (batch, 9)" in said
    assert [p.read_text() for p in (tmp_path / "out").iterdir()] == ["of yesterday"]


def test_files_without_a_fault_are_answered_beside_those_with_one(exported_results: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, line in (("a", "[1]"), ("b", json.dumps(ROWS[0].tolist())), ("c", "x")):
        (tmp_path / "in" / name).write_text(f"{line}\n")
    code, said = transform(exported_results, tmp_path / "in")
    assert code == 2
    assert f"{tmp_path / 'in' / 'a'}: line 1: instances: got shape (1, 1)" in said
    assert f"{tmp_path / 'in' / 'c'}: line 1: " in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.out"]


def test_mistakes_are_told(exported_results: Path, tmp_path: Path) -> None:
    assert "--input: got " in transform(exported_results, tmp_path / "nothing")[1]
    (tmp_path / "in").mkdir()
    assert "which holds no file" in transform(exported_results, tmp_path / "in")[1]
    (tmp_path / "in" / "a").write_text("")
    code, said = transform(exported_results, tmp_path / "in")
    assert (code, (tmp_path / "out" / "a.out").read_text()) == (0, ""), said
    assert "expected a model directory" in transform(tmp_path, tmp_path / "in")[1]
    (tmp_path / "in" / "out").mkdir()
    done = run_smrl("transform", str(exported_results), "--input", ".", "--output", "out", cwd=tmp_path / "in")
    assert "--output: got 'out', which is inside --input" in done.stderr


def test_a_full_disk_is_reported(exported_results: Path, small_disk: Path) -> None:
    (small_disk / "a").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:1000].tolist()))
    code, said = transform(exported_results, small_disk / "a", "--join", "input")
    assert code == 3
    assert f"{Path('out') / 'a.out'}: could not be read or written: No space left on device." in said
    assert not list((small_disk / "out").iterdir())


def test_an_archive_is_a_model(exported_results: Path, tmp_path: Path) -> None:
    """model.tar.gz, as SageMaker packs the model directory."""
    shutil.make_archive(str(tmp_path / "model"), "gztar", exported_results / "model")
    (tmp_path / "a").write_text(json.dumps(ROWS[0].tolist()) + "\n")
    code, said = transform(tmp_path / "model.tar.gz", tmp_path / "a")
    assert code == 0, said
    assert len((tmp_path / "out" / "a.out").read_text().splitlines()) == 1


def test_a_record_that_the_policy_overflows_on_is_found(tmp_path: Path) -> None:
    """An unfiltered network of weights 10: float32 ends at 3.4e38."""
    import onnxruntime

    from runtime.artifacts.exports import OBSERVATIONS
    from runtime.export.graph import Graph
    from runtime.export.onnx_file import write_onnx
    from runtime.serving.observations import RequestError
    from runtime.serving.served_policy import Input, ServedPolicy
    from runtime.serving.transform import _answer_lines

    graph = Graph((1,))
    graph.name_output("actions", graph.add("multiply", OBSERVATIONS, graph.constant(10.0)), np.float32, (1,))
    session = onnxruntime.InferenceSession(write_onnx(graph))
    policy = ServedPolicy("ten", {OBSERVATIONS: Input("float32", (1,))}, ("actions",), "actions", (1,), session)
    assert _answer_lines(policy, [b"[1]"], numbers=[1], join=False) == b'{"predictions":[[10.0]]}\n'
    with pytest.raises(RequestError, match="line 7: got numbers so large that the actions are not finite"):
        _answer_lines(policy, [b"[1]", b"[1e38]"], numbers=[5, 7], join=False)


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_an_archive_that_reaches_outside_is_refused(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    member = tarfile.TarInfo({"above": "../taken", "absolute": "/smrl-taken", "link": "model"}[kind])
    if kind == "link":
        member.type = tarfile.SYMTYPE
        member.linkname = "/etc"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(member)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(UserError, match=r"cannot be unpacked \('.*' is no plain file or folder below its root\)"):
        unpack(archive, scratch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.tar.gz", "scratch"]
    assert not list(scratch.iterdir())
