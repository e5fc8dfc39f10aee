"""Checks which stop criterion a training has met."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.settings.schema import StopCriteria


def reached(stop: StopCriteria, row: Mapping[str, float], *, episodes_of_mean: int) -> str | None:
    """Describes the first criterion that a row of metrics meets; None if none is met.

    Args:
        stop: Stop criteria of the job.
        row: Metrics of an iteration.
        episodes_of_mean: Least number of episodes in a mean return, as the mean of a few is noisy.
    """
    for name, limit in stop.given().items():
        if name == "episode_reward_mean" and row.get("episodes_total", 0) < episodes_of_mean:
            continue
        if name in row and row[name] >= limit:
            return f"{name} {_text(row[name])} reached {_text(limit)}"
    return None


def _text(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"
