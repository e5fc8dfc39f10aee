"""`smrl join`: a log whose rows are known, every problem that is counted, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from runtime.errors import UserError
from runtime.offline.data.joining import JoinRequest, run_join
from runtime.offline.data.reading import read_transitions
from runtime.serving.capture import decision_lines, reward_lines
from runtime.serving.exploring import Attributes, Decisions

START = datetime(2026, 1, 1, tzinfo=UTC)


def _decision(
    event: str, episode: str = "", step: int | None = None, *, after_s: float = 0, p: tuple[float, ...] = (0.25, 0.75)
) -> str:
    observation = np.array([[after_s, 1]], np.float32)
    made = Decisions(np.array([1]), np.array([p]), np.array([0.5]), [event], ["abc"])
    time = START + timedelta(seconds=after_s)
    return b"".join(decision_lines(observation, made, Attributes(None, episode, step), time)).decode()


def _reward(event: str, reward: float, *, after_s: float = 0, **ends: bool) -> str:
    time = START + timedelta(seconds=after_s)
    return b"".join(reward_lines(event, {"reward": reward, **ends}, time)).decode()


def _join(folder: Path, lines: list[str], **settings: Any) -> pandas.DataFrame:
    (folder / "lines.jsonl").write_text("".join(lines))
    run_join(JoinRequest((folder,), folder / "log.csv", **settings))
    return pandas.read_csv(folder / "log.csv")


def test_a_mask_that_was_asked_with_becomes_columns(tmp_path: Path) -> None:
    made = Decisions(
        np.array([2, 1]), np.array([[0.5, 0, 0.5], [0, 1, 0]]), np.array([0.5, 1]), ["a", "b"], ["abc"] * 2
    )
    rows = np.array([[7, 8, 1, 0, 1], [9, 8, 0, 1, 0]], np.float32)
    lines = decision_lines(rows, made, Attributes(None, "", None), START, mask_size=3)
    _join(tmp_path, [line.decode() for line in lines])
    data = read_transitions(tmp_path / "log.csv")
    assert data.mask_size == 3
    np.testing.assert_array_equal(data.states, rows)


def test_decisions_become_episodes_in_the_order_of_their_steps(tmp_path: Path) -> None:
    lines = [
        _decision("c", "b", 2, after_s=2),
        _decision("a", "b", 0, after_s=0),
        _decision("b", "b", 1, after_s=1),
        _reward("c", 3, after_s=3, terminated=True),
        _reward("a", 1, after_s=1),
        _reward("b", 2, after_s=2),
        _decision("d", "other", after_s=9),
        _reward("d", 7, after_s=9),
        _decision("alone", after_s=10),
        '{"groundTruthData": {"data": "5", "encoding": "CSV"}, "eventMetadata": {"eventId": "alone"}}\n',
    ]
    log = _join(tmp_path, lines)
    assert log["episode_id"].tolist() == ["b", "b", "b", "other", "alone"]
    assert log["reward"].tolist() == [1, 2, 3, 7, 5]
    assert log["state_feature_0"].tolist() == [0, 1, 2, 9, 10]
    assert log["terminated"].tolist() == [False, False, True, False, True]
    assert log["truncated"].tolist() == [False, False, False, True, False]
    assert set(log["all_action_probabilities"]) == {"[0.25,0.75]"}


def test_the_log_is_one_that_training_reads(tmp_path: Path) -> None:
    lines = [_decision(f"{e}-{s}", f"e{e}", s, after_s=s) for e in range(3) for s in range(4)]
    lines += [_reward(f"{e}-{s}", s, after_s=s, terminated=s == 3) for e in range(3) for s in range(4)]
    # Another action somewhere, as nothing is learned of one alone.
    lines[0] = lines[0].replace('\\"action\\":1', '\\"action\\":0').replace("0.75,", "0.25,", 1)
    _join(tmp_path, lines)
    found = read_transitions(tmp_path / "log.csv")
    assert found.lengths.tolist() == [4, 4, 4]
    assert found.returns.tolist() == [6, 6, 6]
    assert found.probabilities is not None
    np.testing.assert_allclose(found.chosen_probabilities, [0.25] + [0.75] * 11)


@pytest.mark.parametrize(
    ("lines", "said", "rewards"),
    [
        ([_reward("x", 2), _reward("x", 9, after_s=1)], "rewards of an event that has one, the earliest kept: 1", [2]),
        ([_reward("x", 9, after_s=1), _reward("x", 2)], "rewards of an event that has one, the earliest kept: 1", [2]),
        ([_reward("x", 2), _reward("y", 9)], "rewards of unknown events, left out: 1", [2]),
        ([_reward("x", 2, after_s=61)], "rewards after the window, left out: 1", [-1]),
        ([], "decisions without a reward within the window, which got the default: 1", [-1]),
        ([_reward("x", 2, after_s=-5)], "rewards before their decision by the clock, joined: 1", [2]),
        ([_reward("x", 2), _decision("x")], "decisions captured twice, one kept: 1", [2]),
        ([_reward("x", 2), '{"captureData": {"endp'], "neither a decision nor a reward, left out: 1", [2]),
        ([_reward("x", 2), _decision("y", p=(0.5, 0.6))], "wrong probabilities (sum not 1, or 0 for", [2]),
        ([_reward("x", 2), _decision("y", p=(1.0, 0.0))], "wrong probabilities (sum not 1, or 0 for", [2]),
        ([_reward("x", 2), _decision("y", "e", p=(1, 1)), _decision("z", "e", 1)], "lack a decision, left out: 1", [2]),
        ([_reward("x", 2), _decision("y", "e", 0), _decision("z", "e", 2)], "steps are not 0, 1, 2, … each once", [2]),
        (
            [_reward("x", 2), _decision("y", "e", 0, after_s=5), _decision("z", "e", 1, after_s=3)],
            "steps whose clock goes back, joined by their numbers: 1",
            [2, -1, -1],
        ),
        (
            [_reward("x", 2), _decision("y", "e", 0), _decision("z", "e", 1), _reward("y", 1, terminated=True)],
            "episodes with decisions after their end, left out: 1",
            [2],
        ),
        (
            [_reward("x", 2), _decision("y", after_s=1e10)],
            "episodes that still wait for rewards within the window",
            [2],
        ),
    ],
)
def test_problems_are_counted(
    lines: list[str], said: str, rewards: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = _join(tmp_path, [_decision("x"), *lines], window_s=60.0, default_reward=-1.0)
    assert said in capsys.readouterr().out
    assert log["reward"].tolist() == rewards


def test_nothing_to_join_and_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got no episode to learn from"):
        _join(tmp_path, [_reward("x", 1)])
    with pytest.raises(UserError, match=r"4 problems with this command line(.|\n)*--window: got nan"):
        run_join(JoinRequest((tmp_path / "none",), tmp_path / "log.txt", float("nan"), float("inf")))
