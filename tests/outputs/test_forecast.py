from __future__ import annotations

import math

import numpy as np
import pytest

from runtime.outputs.forecast import Forecast, Progress


def rows_of(returns: list[float], *, seconds: float = 2.0, steps: int = 100) -> list[dict[str, float]]:
    """Iterations of equal length, each with a return."""
    return [
        {
            "training_iteration": number,
            "timesteps_total": number * steps,
            "time_total_s": number * seconds,
            "episode_reward_mean": value,
        }
        for number, value in enumerate(returns, 1)
    ]


def progress_of(rows: list[dict[str, float]], **stop: float) -> Progress:
    progress = Progress(stop)
    for row in rows:
        progress.add(row)
    return progress


def test_the_criterion_that_is_met_first_is_forecast() -> None:
    rows = rows_of([0.0] * 10)
    assert progress_of(rows, timesteps_total=1500).forecast() == Forecast(10.0, "timesteps_total")
    assert progress_of(rows, timesteps_total=1500, time_total_s=25).forecast() == Forecast(5.0, "time_total_s")
    assert progress_of(rows, training_iteration=11, time_total_s=25).forecast() == Forecast(2.0, "training_iteration")


def test_the_pace_is_the_last_minutes() -> None:
    slow, fast = rows_of([0.0] * 100, seconds=1), rows_of([0.0] * 200, seconds=1, steps=300)[100:]
    for row in fast:
        row["timesteps_total"] -= 100 * 300 - 100 * 100
    progress = progress_of([*slow, *fast], timesteps_total=100_000)
    assert progress.per_second("timesteps_total") == pytest.approx(300)
    assert progress_of(slow).per_second("timesteps_total") == pytest.approx(100)


def test_iterations_longer_than_a_minute_have_a_pace() -> None:
    assert progress_of(rows_of([0.0] * 3, seconds=500)).per_second("timesteps_total") == pytest.approx(0.2)


def test_a_resumed_job_has_a_pace_from_its_second_iteration_on() -> None:
    """The counts of a job that starts from another's checkpoint began before its clock."""
    row = {"training_iteration": 51, "timesteps_total": 5_100, "time_total_s": 1.0}
    later = {"training_iteration": 52, "timesteps_total": 5_200, "time_total_s": 3.0}
    assert progress_of([row], timesteps_total=9_000).forecast() is None
    assert progress_of([row, later]).per_second("timesteps_total") == pytest.approx(50)
    first = rows_of([0.0])
    assert progress_of(first).per_second("timesteps_total") == pytest.approx(50)


def test_a_steady_rise_forecasts_the_return() -> None:
    progress = progress_of(rows_of([float(n) for n in range(100)]), episode_reward_mean=120)
    forecast = progress.forecast()
    assert forecast is not None
    assert forecast.is_trend
    assert forecast.seconds == pytest.approx(2 * 21)


@pytest.mark.parametrize(
    ("returns", "goal"),
    [
        ([float(n) for n in range(19)], 20.0),  # too few iterations
        ([float(n) for n in range(100)], 500.0),  # further ahead than the trend is long
        ([float(min(n, 75)) for n in range(100)], 80.0),  # a plateau since
        ([-float(n) for n in range(100)], 10.0),  # falling
        ([5.0] * 100, 10.0),  # flat
        (list(np.random.default_rng(0).normal(0, 10, 200) + np.arange(200) * 0.01), 40.0),  # noise
    ],
)
def test_no_trend_is_no_forecast(returns: list[float], goal: float) -> None:
    assert progress_of(rows_of(returns), episode_reward_mean=goal).forecast() is None


def test_what_is_met_is_not_ahead() -> None:
    assert progress_of(rows_of([0.0] * 10), timesteps_total=1000, time_total_s=500).forecast() is None


def test_thousands_of_returns_are_thinned_out_and_the_newest_and_the_best_are_kept() -> None:
    returns = [math.sin(n / 500) * n for n in range(10_000)]
    progress = progress_of(rows_of(returns))
    assert len(progress.returns) <= 1025
    assert progress.returns[-1] == returns[-1]
    assert progress.best == max(returns)


def test_rows_of_before_a_resume_have_returns_and_no_pace() -> None:
    progress = Progress({"timesteps_total": 1000})
    progress.add_earlier(rows_of([1.0, 5.0, 2.0]))
    assert (progress.returns, progress.best) == ([1.0, 5.0, 2.0], 5.0)
    assert progress.per_second("timesteps_total") is None
    assert progress.forecast() is None
