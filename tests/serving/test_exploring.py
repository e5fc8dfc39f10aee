"""Explore mode and its capture: the probabilities, the answers over real HTTP, and what lies in the folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from runtime.artifacts.exports import PROBABILITIES
from runtime.serving.capture import Capture
from runtime.serving.exploring import Exploration, compute_probabilities, draw, pick, read_attributes
from runtime.serving.observations import RequestError
from tests.conftest import run_smrl
from tests.servers import JSON, LINES, ROWS, Server, started

STATES = [[0.1, 0.2, -0.1, 0.0], [0.0, -1.0, 0.05, 1.5]]


def test_probabilities_are_a_softmax_at_the_temperature_mixed_with_uniform_ones() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2]], np.float32))
    found = compute_probabilities("behaviour_logits", logits, Exploration(temperature=1, epsilon=0.3))
    np.testing.assert_allclose(found, [[0.45, 0.31, 0.24]], rtol=1e-6)
    squares = np.square([0.5, 0.3, 0.2])
    found = compute_probabilities("behaviour_logits", logits, Exploration(temperature=0.5))
    np.testing.assert_allclose(found, [squares / squares.sum()], rtol=1e-6)
    found = compute_probabilities("q_values", logits, Exploration(epsilon=0.3))
    np.testing.assert_allclose(found, [[0.8, 0.1, 0.1]])
    one_hot = np.array([[0, 1, 0]], np.float32)
    found = compute_probabilities(PROBABILITIES, one_hot, Exploration(temperature=2, epsilon=0.3))
    np.testing.assert_allclose(found, [[0.1, 0.8, 0.1]])


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("source", [PROBABILITIES, "q_values"])
def test_a_masked_action_has_no_probability(source: str, temperature: float) -> None:
    values = np.array([[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]], np.float32)
    masks = np.array([[False, True, True], [False, True, False]])
    found = compute_probabilities(source, values, Exploration(temperature, epsilon=0.5), masks=masks)
    assert (found[~masks] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[0].argmax() == 1


@pytest.mark.parametrize("seed", [None, 5])
def test_actions_are_drawn_with_their_probabilities(seed: int | None) -> None:
    p = np.array([0.7, 0.0, 0.3])
    drawn = draw(20_000, seed)
    actions = pick(np.tile(p, (20_000, 1)), drawn.uniforms)
    counts = np.bincount(actions, minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] / 20_000 - 0.7) < 5 * np.sqrt(0.21 / 20_000)
    assert len(set(drawn.event_ids)) == 20_000
    assert drawn.samples.min() >= 0
    assert drawn.samples.max() < 1
    assert abs(np.corrcoef(actions, drawn.samples)[0, 1]) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [
        (b"seed=-1", 1, "seed: got '-1'; expected a whole number from 0"),
        (b"seed=99999999999999999999", 1, "seed: got '99999999999999999999'"),
        (b"episode=a,step=x", 1, "step: got 'x'"),
        (b"episode=a", 2, "episode: got 2 observations; expected one"),
        (b"episode=" + b"a" * 201, 1, "episode: got 201 characters"),
    ],
)
def test_wrong_attributes_are_refused(text: bytes, rows: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_attributes(text, rows)


def test_attributes_of_others_are_left_to_them() -> None:
    assert read_attributes(b"trace-7,user=ann, episode=e-1 ,step=2", 1)[:3] == (None, "e-1", 2)


def _counted(folder: Path, limit_bytes: float) -> tuple[Capture, list[int]]:
    counts = [0, 0]

    def count(captured: int, dropped: int) -> None:
        counts[0] += captured
        counts[1] += dropped

    return Capture(folder, limit_bytes=limit_bytes, count=count), counts


def _offer(capture: Capture, lines: int, size: int = 100) -> None:
    line = b"x" * (size - 1) + b"\n"
    capture.offer(lambda: iter([line] * lines), lines=lines, size_bytes=lines * size)


def test_a_full_folder_drops_and_counts_lines_and_takes_more_once_files_are_moved(tmp_path: Path) -> None:
    folder = tmp_path / "capture"
    capture, counts = _counted(folder, 1000)
    _offer(capture, 15)
    _wait(lambda: sum(counts) == 15)
    assert counts == [10, 5]
    (file,) = folder.rglob("*.jsonl")
    assert file.stat().st_size == 1000
    file.unlink()
    _offer(capture, 3)
    capture.close()
    assert counts == [13, 5]
    (file,) = folder.rglob("*.jsonl")
    assert file.read_bytes() == (b"x" * 99 + b"\n") * 3


def test_a_full_disk_drops_whole_batches_and_leaves_no_partial_line(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capture, counts = _counted(small_disk, 1e9)
    _offer(capture, 10)
    _wait(lambda: counts[0] == 10)
    _offer(capture, 5000)
    _wait(lambda: counts[1] == 5000)
    _offer(capture, 10)
    capture.close()
    assert counts == [20, 5000]
    assert sum(path.stat().st_size for path in small_disk.rglob("*.jsonl")) == 2000
    log = capfd.readouterr().err
    assert "No space left on device" in log
    assert "captured again" in log


def test_what_arrives_faster_than_the_disk_takes_it_is_dropped(tmp_path: Path) -> None:
    capture, counts = _counted(tmp_path, 1e9)
    for _ in range(4):
        capture.offer(lambda: iter([b"large\n"]), lines=1, size_bytes=30 * 2**20)
    capture.close()
    assert counts == [2, 2]


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="session")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of a tiny policy of CartPole from a log; not to be written to."""
    folder = tmp_path_factory.mktemp("cartpole")
    log = str(folder / "log.csv")
    done = run_smrl("collect", "--env", "CartPole-v0", "--envs", "40", "--out", log, cwd=folder)
    assert done.returncode == 0, done.stderr
    words = ("rl.training.stop.training_iteration=2", "rl.training.config.updates_per_iteration=20")
    done = run_smrl("train", "--preset", "cartpole-bcq", "--data", log, "--out", "results", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results"


@pytest.fixture(scope="module")
def exploring(cartpole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A worker that explores with epsilon 0.4, and the folder of its capture."""
    folder = tmp_path_factory.mktemp("serve")
    words = (str(cartpole), "--workers", "1", "--epsilon", "0.4", "--capture", "captured")
    with started(folder, *words) as server:
        server.wait_until(200)
        yield server, folder / "captured"


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.ray
def test_decisions_are_answered_beside_todays_answer_and_captured(exploring: tuple[Server, Path]) -> None:
    server, folder = exploring
    greedy = np.array(server.invoke(STATES)["predictions"])
    seeded = {**JSON, "X-Amzn-SageMaker-Custom-Attributes": "seed=3"}
    answers = [server.invoke({"inputs": STATES}, seeded) for _ in range(2)]
    first, second = (answer["decisions"] for answer in answers)
    np.testing.assert_array_equal(answers[0]["outputs"], greedy)
    same = ("action", "action_prob", "model_id", "sample_prob")
    assert [[row[name] for name in same] for row in first] == [[row[name] for name in same] for row in second]
    assert len({row["event_id"] for row in first + second}) == 4
    for row, best in zip(first, greedy, strict=True):
        assert row["action_prob"] == pytest.approx(0.8 if best[row["action"]] else 0.2)

    headers = {**JSON, "X-Amzn-SageMaker-Custom-Attributes": "episode=e,step=4"}
    (decision,) = server.invoke([STATES[1]], headers)["decisions"]
    _wait(lambda: any(line["eventMetadata"]["eventId"] == decision["event_id"] for line in _lines(folder)))
    (line,) = [line for line in _lines(folder) if line["eventMetadata"]["eventId"] == decision["event_id"]]
    assert set(line) == {"captureData", "eventMetadata", "eventVersion"}
    asked, given = line["captureData"]["endpointInput"], line["captureData"]["endpointOutput"]
    assert {name: asked[name] for name in ("observedContentType", "mode", "encoding")} == {
        "observedContentType": "application/json",
        "mode": "INPUT",
        "encoding": "JSON",
    }
    np.testing.assert_allclose(json.loads(asked["data"]), STATES[1], rtol=1e-6)
    found = json.loads(given["data"])
    assert found["action_probabilities"][decision["action"]] == decision["action_prob"]
    assert found == {**decision, "action_probabilities": found["action_probabilities"], "episode_id": "e", "step": 4}
    _wait(lambda: f"smrl_captured_total {len(_lines(folder))}\n" in server.request("GET", "/metrics")[2].decode())
    assert "smrl_capture_dropped_total 0\n" in server.request("GET", "/metrics")[2].decode()


@pytest.mark.slow
@pytest.mark.ray
def test_the_export_of_a_learned_policy_has_the_statistics_of_its_log(cartpole: Path) -> None:
    found = json.loads((cartpole / "model" / "manifest.json").read_text())["training_observations"]
    log = pandas.read_csv(cartpole.parent / "log.csv")
    states = log[[f"state_feature_{i}" for i in range(4)]].to_numpy()
    # Some episodes are held out of the training.
    np.testing.assert_allclose(found["mean"], states.mean(axis=0), atol=0.3 * states.std(axis=0).max())
    np.testing.assert_allclose(found["std"], states.std(axis=0), rtol=0.3)
    assert found["clip"] > 1


@pytest.mark.slow
@pytest.mark.ray
def test_each_line_of_json_lines_has_its_decision_and_one_array_is_refused(exploring: tuple[Server, Path]) -> None:
    server, _ = exploring
    body = "".join(json.dumps(state) + "\n" for state in STATES)
    status, _, answer = server.request("POST", "/invocations", body, LINES)
    assert status == 200
    for line in map(json.loads, answer.splitlines()):
        assert len(line["predictions"]) == len(line["decisions"]) == 1
    status, error = server.refusal(STATES, {**JSON, "Accept": "text/csv"})
    assert (status, "in explore mode" in error) == (406, True)
    status, error = server.refusal(STATES, {**JSON, "X-Amzn-SageMaker-Custom-Attributes": "seed=x"})
    assert (status, "seed: got 'x'" in error) == (400, True)


@pytest.mark.slow
@pytest.mark.ray
def test_rewards_are_written_beside_the_decisions_and_joined(exploring: tuple[Server, Path], tmp_path: Path) -> None:
    server, folder = exploring
    events = []
    for step in range(3):
        headers = {**JSON, "X-Amzn-SageMaker-Custom-Attributes": f"episode=joined,step={step}"}
        (decision,) = server.invoke([[step, 0, 0, 0]], headers)["decisions"]
        body = json.dumps({"reward": step, "terminated": step == 2})
        status, _, answer = server.request("POST", f"/events/{decision['event_id']}/reward", body)
        assert (status, json.loads(answer)) == (202, {"event_id": decision["event_id"]})
        events.append(decision)
    for path, body, status, message in (
        (f"/events/{events[0]['event_id']}/reward", '{"reward": "1"}', 400, "reward: got '1'"),
        (f"/events/{events[0]['event_id']}/reward", "[1]", 400, "body: got '[1]'"),
        ("/events/a/reward", '{"reward": 1}', 400, "event_id: got 'a'"),
        ("/events/a/prize", '{"reward": 1}', 404, "not found"),
    ):
        found, _, answer = server.request("POST", path, body)
        assert (found, message in answer.decode()) == (status, True)
    _wait(lambda: sum("groundTruthData" in line for line in _lines(folder)) == 3)
    done = run_smrl("join", str(folder), "--out", str(tmp_path / "log.csv"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = pandas.read_csv(tmp_path / "log.csv").query("episode_id == 'joined'")
    assert log["action"].tolist() == [event["action"] for event in events]
    assert log["reward"].tolist() == [0, 1, 2]
    assert log["state_feature_0"].tolist() == [0, 1, 2]
    assert log["terminated"].tolist() == [False, False, True]


@pytest.mark.slow
@pytest.mark.ray
def test_serving_goes_on_when_the_disk_fills_under_the_capture(
    cartpole: Path, small_disk: Path, tmp_path: Path
) -> None:
    words = (str(cartpole), "--workers", "1", "--temperature", "1", "--capture", str(small_disk / "captured"))
    with started(tmp_path, *words) as server:
        server.wait_until(200)
        (small_disk / "other").write_bytes(os.urandom(240 * 1024))
        for _ in range(20):
            assert len(server.invoke(STATES * 20)["decisions"]) == 40
        _wait(lambda: "serving goes on" in server.log)
        _wait(lambda: "smrl_capture_dropped_total 0\n" not in server.request("GET", "/metrics")[2].decode())
        (small_disk / "other").unlink()
        server.invoke(STATES)
        _wait(lambda: "captured again" in server.log)


@pytest.mark.slow
@pytest.mark.ray
def test_a_policy_of_continuous_actions_is_not_ready_to_explore(exported_results: Path, tmp_path: Path) -> None:
    with started(tmp_path, str(exported_results), "--workers", "1", environment={"SMRL_EPSILON": "0.1"}) as server:
        _wait(lambda: "explore mode: got the policy of" in server.log)
        assert server.refusal(ROWS.tolist())[0] == 503


def test_a_capture_without_explore_mode_is_refused(tmp_path: Path) -> None:
    done = run_smrl("serve", str(tmp_path), "--capture", "captured", cwd=tmp_path)
    assert done.returncode == 2
    assert "Add --epsilon 0 to answer the most likely action" in done.stderr
