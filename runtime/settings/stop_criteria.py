"""Which stop criterion a training has met."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.settings.schema import StopCriteria


def reached(stop: StopCriteria, row: Mapping[str, float], *, episodes_of_mean: int) -> str | None:
    """The first criterion that a row of metrics meets, in words, or None.

    Args:
        stop: Criteria.
        row: Metrics of an iteration.
        episodes_of_mean: A mean return counts once it is of that many episodes; few may just be lucky.
    """
    for name, limit in stop.given().items():
        if name == "episode_reward_mean" and row.get("episodes_total", 0) < episodes_of_mean:
            continue
        if name in row and row[name] >= limit:
            return f"{name} {row[name]:g} reached {limit:g}"
    return None
