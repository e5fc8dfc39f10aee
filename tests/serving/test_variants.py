"""Variants and a shadow: whose answer is sent, which probabilities are captured, and what is refused."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from runtime.cli import main
from runtime.errors import UserError
from runtime.serving.exploring import Exploration
from runtime.serving.served_policy import load_policy
from runtime.serving.variants import Mixture, event_uniform, read_variants
from tests.servers import JSON, Server, started
from tests.small_models import write_linear_model

# Actions of a state by the signs of its features: `first` follows the first, `second` the second.
FIRST = ((-1.0, 0.0), (1.0, 0.0))
SECOND = ((0.0, -1.0), (0.0, 1.0))
AGREE = [1.0, 1.0]
DIFFER = [1.0, -1.0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directories: `first`, `second`, `nan`, and two of other spaces."""
    folder = tmp_path_factory.mktemp("models")
    write_linear_model(folder / "first", FIRST)
    write_linear_model(folder / "second", SECOND)
    write_linear_model(folder / "wide", np.eye(2, 3).tolist())
    write_linear_model(folder / "many", np.eye(3, 2).tolist())
    return folder


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The captured decisions, as they were answered, with what else the capture says of them."""
    texts = (path.read_text() for path in folder.rglob("*.jsonl"))
    # The last line may be half written.
    lines = [json.loads(line) for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]
    return [json.loads(line["captureData"]["endpointOutput"]["data"]) for line in lines if "captureData" in line]


def test_the_probabilities_are_the_mixtures_and_actions_are_drawn_with_them(models: Path) -> None:
    policies = tuple(load_policy(models / name) for name in ("first", "second"))
    mixture = Mixture(policies, ("a", "b"), (0.7, 0.3))
    states = np.tile(np.array([AGREE, DIFFER], np.float32), (10_000, 1))
    found = mixture.sample(states, ("action_probabilities",), Exploration(epsilon=0.2), None)
    agree, differ = found.decisions.probabilities[::2], found.decisions.probabilities[1::2]
    np.testing.assert_allclose(agree, np.tile([0.1, 0.9], (10_000, 1)))
    np.testing.assert_allclose(differ, np.tile([0.7 * 0.1 + 0.3 * 0.9, 0.7 * 0.9 + 0.3 * 0.1], (10_000, 1)))
    tolerance = 5 * np.sqrt(0.25 / 10_000)
    assert found.decisions.actions[::2].mean() == pytest.approx(0.9, abs=tolerance)
    assert found.decisions.actions[1::2].mean() == pytest.approx(0.66, abs=tolerance)
    names = np.array(found.decisions.variants)
    assert (names == "a").mean() == pytest.approx(0.7, abs=tolerance)
    # The answer beside the decision is that of the variant that was drawn.
    expected = np.where(names == "a", 1, 0)[1::2]
    np.testing.assert_array_equal(found.outputs["action_probabilities"][1::2].argmax(axis=1), expected)
    # What off-policy evaluation rests on: the importance weights of any policy have the mean 1.
    target = np.array([0.5, 0.5])
    weights = (
        target[found.decisions.actions] / found.decisions.probabilities[np.arange(len(states)), found.decisions.actions]
    )
    assert weights.mean() == pytest.approx(1, abs=5 * weights.std() / np.sqrt(len(states)))


def test_the_variant_follows_from_the_events_id_or_from_the_seed(models: Path) -> None:
    policies = tuple(load_policy(models / name) for name in ("first", "second"))
    mixture = Mixture(policies, ("a", "b"), (0.4, 0.6))
    states = np.tile(np.array(DIFFER, np.float32), (500, 1))
    decisions = mixture.sample(states, (), Exploration(), None).decisions
    assert decisions.variants == ["a" if event_uniform(event) < 0.4 else "b" for event in decisions.event_ids]
    assert 0.3 < decisions.variants.count("a") / 500 < 0.5
    seeded = [mixture.sample(states, (), Exploration(epsilon=0.5), 7).decisions for _ in range(2)]
    assert seeded[0].variants == seeded[1].variants
    np.testing.assert_array_equal(seeded[0].actions, seeded[1].actions)
    alone = Mixture(policies[:1]).sample(states, (), Exploration(epsilon=0.5), 7).decisions
    np.testing.assert_array_equal(alone.samples, seeded[0].samples)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("a=first:0.5", "b=second:0.4"),
            r"--variant: got '0.5 \+ 0.4 = 0.9' from here; expected weights that sum to 1",
        ),
        (("a=first:0.5", "a=second:0.5"), r"--variant a: got 'a=second:0.5' from here; expected each name once"),
        (("a=first:2", "b=second:-1"), r"(?s)2 problems .*a: got '2'.*above 0 and at most 1.*b: got '-1'"),
        (("a=first:x", "first:1"), r"(?s)2 problems .*a: got 'x'.*--variant: got 'first:1' .*expected NAME=DIR:WEIGHT"),
        (("a=nowhere:1",), r"--variant a: got 'nowhere' from here; expected a model directory that exists"),
        (("a b=first:1",), r"--variant: got 'a b=first:1' from here; expected NAME=DIR:WEIGHT, with a name of letters"),
    ],
)
def test_wrong_variants_are_refused_all_at_once(
    models: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(models)
    with pytest.raises(UserError, match=message):
        read_variants(words, "here")


def test_variants_and_a_shadow_need_the_modes_that_name_them(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(models)
    assert main(["serve", "first", "--variant", "a=first:1", "--shadow", "nowhere"]) == 2
    error = capsys.readouterr().err
    for part in ("4 problems", "without explore mode", "got a model besides", "without a capture", "'nowhere'"):
        assert part in error
    monkeypatch.setenv("SAGEMAKER_MULTI_MODEL", "true")
    monkeypatch.setenv("SMRL_VARIANTS", "a=first:0.5, b=second:0.5")
    assert main(["serve", "--epsilon", "0"]) == 2
    assert "an endpoint of models by name" in capsys.readouterr().err


@pytest.fixture(scope="module")
def serving(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Two variants and a shadow of the second's policy, and the folder of their capture."""
    folder = tmp_path_factory.mktemp("serve")
    words = ("--variant", f"old={models / 'first'}:0.75", "--variant", f"new={models / 'second'}:0.25")
    shadow = ("--shadow", str(models / "second"), "--epsilon", "0", "--capture", "captured", "--workers", "1")
    with started(folder, *words, *shadow) as server:
        server.wait_until(200, timeout_s=120)
        yield server, folder / "captured"


@pytest.mark.slow
def test_answers_name_their_variant_and_the_shadow_is_captured_alone(
    serving: tuple[Server, Path], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, folder = serving
    answer = server.invoke([DIFFER] * 400)
    decisions = answer["decisions"]
    counts = Counter(decision["variant"] for decision in decisions)
    assert abs(counts["old"] - 300) < 5 * np.sqrt(400 * 0.75 * 0.25)
    ids = {"old": load_policy(models / "first").model_id, "new": load_policy(models / "second").model_id}
    for decision, prediction in zip(decisions, answer["predictions"], strict=True):
        is_old = decision["variant"] == "old"
        assert decision["action"] == int(is_old) == int(np.argmax(prediction))
        assert decision["action_prob"] == pytest.approx(0.75 if is_old else 0.25)
        assert decision["model_id"] == ids[decision["variant"]]
        assert is_old == (event_uniform(decision["event_id"]) < 0.75)

    seeded = {**JSON, "X-Amzn-SageMaker-Custom-Attributes": "seed=11"}
    assert len({server.invoke([DIFFER], seeded)["decisions"][0]["variant"] for _ in range(10)}) == 1

    _wait(lambda: len(_lines(folder)) == 2 * 410)
    shadows = [line for line in _lines(folder) if line.get("shadow")]
    sent = {line["event_id"]: line for line in _lines(folder) if not line.get("shadow")}
    assert len(shadows) == len(sent) == 410
    for line in shadows:
        assert (line["action"], line["action_probabilities"], line["model_id"]) == (0, [1.0, 0.0], ids["new"])
        assert line["answered"] == sent[line["event_id"]]["action"]
        assert "variant" not in line
    metrics = server.request("GET", "/metrics")[2].decode()
    _wait(lambda: "smrl_shadow_captured_total 410\n" in server.request("GET", "/metrics")[2].decode())
    assert "smrl_shadow_dropped_total 0\n" in metrics

    for decision in decisions:
        body = json.dumps({"reward": float(decision["action"]), "terminated": True})
        assert server.request("POST", f"/events/{decision['event_id']}/reward", body)[0] == 202
    rewards = "groundTruthData"
    _wait(lambda: sum(path.read_text().count(rewards) for path in folder.rglob("*.jsonl")) == 400)
    assert main(["join", str(folder), "--out", str(tmp_path / "log.csv")]) == 0
    assert "decisions of a shadow, which nobody got, left out: 410" in capsys.readouterr().out
    log = pandas.read_csv(tmp_path / "log.csv")
    assert len(log) == 400
    assert log.groupby("variant")["reward"].mean().to_dict() == {"new": 0.0, "old": 1.0}
    assert set(log["all_action_probabilities"]) == {"[0.25,0.75]"}


@pytest.mark.slow
def test_a_shadow_that_fails_costs_no_answer_and_no_decision(models: Path, tmp_path: Path) -> None:
    write_linear_model(tmp_path / "broken", ((1e38, 0.0), (0.0, 1e38)))
    words = (str(models / "first"), "--shadow", str(tmp_path / "broken"), "--epsilon", "0.2", "--capture", "captured")
    with started(tmp_path, *words, "--workers", "1") as server:
        server.wait_until(200, timeout_s=120)
        for _ in range(5):
            assert len(server.invoke([[9e37, 9e37]])["decisions"]) == 1
        assert len(server.invoke([AGREE])["decisions"]) == 1
        _wait(lambda: "smrl_captured_total 6\n" in server.request("GET", "/metrics")[2].decode())
        _wait(
            lambda: (
                sum(
                    int(line.split()[1])
                    for line in server.request("GET", "/metrics")[2].decode().splitlines()
                    if line.startswith("smrl_shadow_")
                )
                == 6
            )
        )
    shadows = [line for line in _lines(tmp_path / "captured") if line.get("shadow")]
    assert 1 <= len(shadows) <= 6


@pytest.mark.slow
def test_serving_goes_on_when_the_disk_fills_under_a_shadow(models: Path, small_disk: Path, tmp_path: Path) -> None:
    folder = small_disk / "captured"
    words = ("--variant", f"a={models / 'first'}:1", "--shadow", str(models / "second"), "--capture", str(folder))
    with started(tmp_path, *words, "--epsilon", "0.1", "--workers", "1") as server:
        server.wait_until(200, timeout_s=120)
        (small_disk / "other").write_bytes(b"x" * 240 * 1024)
        for _ in range(20):
            assert len(server.invoke([DIFFER] * 40)["decisions"]) == 40
        _wait(lambda: "smrl_shadow_dropped_total 0\n" not in server.request("GET", "/metrics")[2].decode())
        assert "the shadow's decisions are not captured, serving goes on" in server.log
        (small_disk / "other").unlink()
        assert server.invoke([AGREE])["decisions"][0]["variant"] == "a"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("first", "--shadow", "wide", "--capture", "captured"),
            "--shadow: got 'observations (3,) and 2 actions' from its manifest; expected (2,) and 2, as the served",
        ),
        (
            ("--variant", "a=first:0.5", "--variant", "b=many:0.5"),
            "--variant b: got 'observations (2,) and 3 actions' from its manifest; expected (2,) and 2",
        ),
    ],
)
def test_policies_of_other_spaces_are_not_ready(
    models: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    absolute = [word.replace("first", f"{models}/first").replace("=many", f"={models}/many") for word in words]
    absolute = [str(models / "wide") if word == "wide" else word for word in absolute]
    with started(tmp_path, *absolute, "--epsilon", "0.1", "--workers", "1") as server:
        _wait(lambda: message in server.log)
        assert server.refusal([AGREE])[0] == 503
