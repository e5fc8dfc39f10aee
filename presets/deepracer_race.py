"""A reward function for races: the meters that the last step gained along the center line.

A lap pays the same at any speed; a faster car has it sooner, which discounting prefers. A car that leaves the
road loses what it would have gained afterwards. No line is prescribed: the policy may cut corners.
"""

from __future__ import annotations

from typing import Any

_SCALE = 10.0  # about 1 a step at 1.5 m/s and 15 steps a second
_MOST_M = 1.0  # of a step; a larger difference is the finish line, or a car that was put back

_last = {"steps": 0.0, "progress": 0.0}


def reward_function(params: dict[str, Any]) -> float:
    """Pays ten times the meters gained since the episode's last step."""
    is_next = params["steps"] == _last["steps"] + 1
    gained = (params["progress"] - _last["progress"]) / 100 * params["track_length"] if is_next else 0.0
    _last.update(steps=params["steps"], progress=params["progress"])
    return _SCALE * gained if abs(gained) < _MOST_M else 0.0
