"""The charts of DeepRacer's newest episodes, from traces of cars that were driven."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.deepracer.metadata import DEFAULT
from envs.deepracer.racing import read_options
from runtime.container.signals import StopRequest
from runtime.families.deepracer.driven_episodes import TRACE
from runtime.families.deepracer.races import Racer, run_race
from runtime.families.deepracer.records import SimTrace, Trace
from runtime.report.report_command import run_report
from runtime.report.steps import find_traces, read_step_charts

CONTINUOUS = {
    "action_space": {"steering_angle": {"low": -30, "high": 30}, "speed": {"low": 1, "high": 2}},
    "action_space_type": "continuous",
}


def drive(*, continuous: bool = False) -> list[Trace]:
    """Two trials of a car that turns left in every third step."""
    metadata = {**DEFAULT, **(CONTINUOUS if continuous else {})}
    options = read_options(track="oval", model_metadata=metadata, is_training=False)
    steps = 0

    def logits(pictures: NDArray[Any]) -> NDArray[np.float32]:
        nonlocal steps
        steps += 1
        if continuous:
            return np.array([[0.5 if steps % 3 == 0 else 0.0, 0.0, 0.0, 0.0]], np.float32)
        return np.eye(5, dtype=np.float32)[[3 if steps % 3 == 0 else 2]]

    stop = StopRequest()
    (result,) = run_race(options, [Racer("car", logits, options.metadata)], trials=2, videos=None, stop=stop, seed=0)
    stop.release()
    return result.traces


def test_charts_are_those_of_the_steps(tmp_path: Path) -> None:
    traces = drive()
    SimTrace(tmp_path / "evaluation-1" / "evaluation-simtrace").write(0, list(enumerate(traces)))
    found = find_traces([tmp_path])
    assert found is not None
    assert found[0] == "Laps of the evaluation"
    charts = read_step_charts(*found)
    assert charts is not None
    progress, reward = charts.charts
    columns = {name: np.concatenate([trace[1:, TRACE.index(name)] for trace in traces]) for name in TRACE}
    assert progress.alt == (
        f"progress of 2 episodes over {progress.plots[0].x[-1]:.1f} seconds: "
        f"from {columns['progress'].min():.4g} to {columns['progress'].max():.4g}"
    )
    assert f"to {columns['reward'].max():.4g}" in reward.alt
    assert progress.plots[0].x[-1] == pytest.approx((len(traces[0]) - 1) / 15, abs=0.06)
    assert len(progress.plots[0].series) == len(reward.plots[0].series) == 2
    for one, trace in zip(progress.plots[0].series, traces, strict=True):
        values = [value for value in one.values if value is not None]
        assert values[-1] == pytest.approx(trace[-1, TRACE.index("progress")], rel=1e-3)
        assert len(values) == len(trace) - 1
    shares = {bar.name: bar.share for bar in charts.actions}
    assert set(shares) == {"0°, 1 m/s", "15°, 1 m/s"}
    assert shares["15°, 1 m/s"] == pytest.approx(100 * np.mean(columns["action"] == 3))


def test_continuous_actions_are_counted_by_their_angle(tmp_path: Path) -> None:
    SimTrace(tmp_path / "training-simtrace").write(0, list(enumerate(drive(continuous=True))))
    charts = read_step_charts("", tmp_path / "training-simtrace" / "0-iteration.csv")
    assert charts is not None
    assert [bar.name for bar in charts.actions] == ["about 0°", "about 20°"]  # 15 is as near to 20 as to 10
    assert sum(bar.share for bar in charts.actions) == pytest.approx(100)


def test_the_newest_trace_is_shown_and_one_without_steps_is_not(tmp_path: Path) -> None:
    traces = list(enumerate(drive()))
    for iteration in (2, 10):
        SimTrace(tmp_path / "training-simtrace").write(iteration, traces)
        os.utime(tmp_path / "training-simtrace" / f"{iteration}-iteration.csv", (1, 1))
    assert find_traces([tmp_path]) == ("Episodes of iteration 11", tmp_path / "training-simtrace" / "10-iteration.csv")
    empty = tmp_path / "training-simtrace" / "11-iteration.csv"
    empty.write_text("episode,steps\n")
    assert read_step_charts("", empty) is None
    assert find_traces([tmp_path / "absent"]) is None


def test_the_report_shows_them(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps({"mean_reward": 1.0}))
    traces = drive()
    SimTrace(tmp_path / "deepracer" / "evaluation-1" / "evaluation-simtrace").write(0, list(enumerate(traces)))
    page = run_report([tmp_path], None).read_text()
    section = page[page.index("Laps of the evaluation") :]
    assert len(re.findall('&#34;label&#34;: &#34;episode|"label": "episode', section)) == 4
    assert "reward of each step" in section
    assert re.search(r"<span>15°, 1 m/s</span><div><i style=\"width: [\d.]+%\">", section)
