"""model_metadata.json: a car's actions, sensors and network, as DeepRacer's console and simulator write it.

Source: DeepRacer's simulation application 6.0.5, `boto/s3/files/model_metadata.py` and its constants.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CAMERAS = ("FRONT_FACING_CAMERA", "LEFT_CAMERA", "STEREO_CAMERAS", "observation")
LIDARS = ("LIDAR", "SECTOR_LIDAR", "DISCRETIZED_SECTOR_LIDAR")
NETWORKS = (
    "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW",
    "DEEP_CONVOLUTIONAL_NETWORK",
    "DEEP_CONVOLUTIONAL_NETWORK_DEEP",
)
ALGORITHMS = ("clipped_ppo", "sac")
LIDAR_RAYS = 64
SECTORS = 8
_NEAREST_M = 0.15
_FARTHEST_M = 12.0
# Limits that catch typing errors; a car clips smaller excesses.
_SHARPEST_DEG = 90.0
_FASTEST = 20.0


class MetadataError(ValueError):
    """A model_metadata.json is invalid; the message lists every problem."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Actions, sensors and network of a car's model, as its metadata has them.

    Attributes:
        actions: (A, 2) steering in degrees and speed in meters a second of each discrete action; None if continuous.
        low: (2,) least steering and speed of continuous actions; None if discrete.
        high: (2,) largest ones.
        sensors: Names, the camera first.
        network: One of NETWORKS.
        algorithm: One of ALGORITHMS.
        version: Version of the simulator that it was written for; it sets how fast wheels turn.
        num_sectors: Sectors of the discretized LIDAR.
        values_per_sector: Values of each of these sectors.
        clipping_m: Range of the LIDAR in meters.
        source: The JSON object that was read.
    """

    actions: NDArray[np.float64] | None
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    sensors: tuple[str, ...] = ("FRONT_FACING_CAMERA",)
    network: str = NETWORKS[0]
    algorithm: str = ALGORITHMS[0]
    version: float = 5.0
    num_sectors: int = 8
    values_per_sector: int = 8
    clipping_m: float = 2.0
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def camera(self) -> str:
        """The one camera's name."""
        return self.sensors[0]

    @property
    def lidar(self) -> str | None:
        """The LIDAR's name, if there is one."""
        return self.sensors[1] if len(self.sensors) > 1 else None

    @property
    def scan_size(self) -> int:
        """Numbers of a scan; 0 without a LIDAR."""
        values = self.num_sectors * self.values_per_sector
        sizes = {"LIDAR": LIDAR_RAYS, "SECTOR_LIDAR": SECTORS, "DISCRETIZED_SECTOR_LIDAR": values}
        return 0 if self.lidar is None else sizes[self.lidar]


_RANGES: dict[str, dict[str, float]] = {
    "steering_angle": {"least": -_SHARPEST_DEG, "most": _SHARPEST_DEG},
    "speed": {"least": 0.0, "most": _FASTEST},
}

DEFAULT: Mapping[str, Any] = {
    "action_space": [
        {"steering_angle": angle, "speed": 1.0, "index": index} for index, angle in enumerate((-30, -15, 0, 15, 30))
    ],
    "sensor": ["FRONT_FACING_CAMERA"],
    "neural_network": NETWORKS[0],
    "training_algorithm": "clipped_ppo",
    "action_space_type": "discrete",
    "version": "5",
}


def read_metadata(path: Path) -> Metadata:
    """Reads a file.

    Raises:
        MetadataError: It cannot be read, or is no metadata.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MetadataError(f"{path}: could not be read ({error.strerror}); expected a model_metadata.json.") from None
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{path}: got a file that is no JSON ({error}); expected a model_metadata.json.") from None
    return parse_metadata(found, where=str(path))


def parse_metadata(found: Any, *, where: str = "model_metadata") -> Metadata:
    """Parses the JSON object of a metadata file.

    Args:
        found: The JSON object, or DEFAULT.
        where: Source of the object, for messages.

    Raises:
        MetadataError: It is wrong; every problem is listed.
    """
    if not isinstance(found, Mapping):
        raise MetadataError(f"{where}: got {type(found).__name__}; expected a JSON object with an action_space.")
    wrong: list[str] = []
    facts: dict[str, Any] = {"source": dict(found)}
    space = found.get("action_space")
    # A list is discrete and an object continuous: files older than action_space_type lack it.
    kind = found.get("action_space_type", "continuous" if isinstance(space, Mapping) else "discrete")
    facts |= {"actions": None, "low": None, "high": None}
    if kind == "discrete" and isinstance(space, list):
        facts["actions"] = _read_actions(space, wrong)
    elif kind == "continuous" and isinstance(space, Mapping):
        facts["low"], facts["high"] = _read_bounds(space, wrong)
    else:
        wrong.append(
            f"action_space: got {type(space).__name__} with the action_space_type {kind!r}; expected a list of actions "
            "that are discrete, or an object of steering_angle and speed with high and low that is continuous."
        )
    facts["sensors"] = _read_sensors(found, wrong)
    facts["network"] = _one_of(found, "neural_network", NETWORKS, wrong)
    facts["algorithm"] = _one_of(found, "training_algorithm", ALGORITHMS, wrong)
    if facts["algorithm"] == "sac" and kind == "discrete":
        wrong.append("training_algorithm: got 'sac' with discrete actions; expected continuous ones, or 'clipped_ppo'.")
    facts["version"] = _number(found.get("version", 2.0 if "sensor" in found else 1.0), "version", wrong, least=0)
    facts |= _read_lidar(found.get("lidar_config", {}), wrong)
    if wrong:
        raise MetadataError("\n".join(f"{where}: {line}" for line in wrong))
    return Metadata(**facts)


def _number(value: Any, name: str, wrong: list[str], *, least: float = -math.inf, most: float = math.inf) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most):
        bounds = "" if least == -math.inf else f" from {least:g}" + ("" if most == math.inf else f" to {most:g}")
        wrong.append(f"{name}: got {value!r}; expected a number{bounds}.")
        return max(least, 0.0)
    return number


def _read_actions(space: list[Any], wrong: list[str]) -> NDArray[np.float64]:
    if not space:
        wrong.append("action_space: got an empty list; expected actions of a steering_angle and a speed.")
    rows = []
    for index, action in enumerate(space):
        if not isinstance(action, Mapping):
            wrong.append(f"action_space[{index}]: got {action!r}; expected an object of steering_angle and speed.")
            continue
        names = ("steering_angle", "speed")
        rows.append(
            [_number(action.get(name), f"action_space[{index}].{name}", wrong, **_RANGES[name]) for name in names]
        )
        if "index" in action and action["index"] != index:
            wrong.append(f"action_space[{index}].index: got {action['index']!r}; expected {index}, its place.")
    return np.array(rows, np.float64).reshape(-1, 2)


def _read_bounds(space: Mapping[str, Any], wrong: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = np.zeros(2), np.ones(2)
    for column, name in enumerate(("steering_angle", "speed")):
        bounds = space.get(name)
        if not isinstance(bounds, Mapping):
            wrong.append(f"action_space.{name}: got {bounds!r}; expected an object of high and low.")
            continue
        low[column] = _number(bounds.get("low"), f"action_space.{name}.low", wrong, **_RANGES[name])
        high[column] = _number(bounds.get("high"), f"action_space.{name}.high", wrong, **_RANGES[name])
        if low[column] >= high[column]:
            wrong.append(
                f"action_space.{name}: got low {low[column]:g} and high {high[column]:g}; expected low < high."
            )
    return low, high


def _read_sensors(found: Mapping[str, Any], wrong: list[str]) -> tuple[str, ...]:
    given = found.get("sensor", ["observation"])
    names = [given] if isinstance(given, str) else given
    known = (*CAMERAS, *LIDARS)
    if not isinstance(names, list) or any(name not in known for name in names):
        wrong.append(f"sensor: got {given!r}; expected a list of names from {', '.join(known)}.")
        return ("observation",)
    cameras, lidars = ([name for name in names if name in kind] for kind in (CAMERAS, LIDARS))
    if len(cameras) != 1 or len(lidars) > 1:
        wrong.append(f"sensor: got {given!r}; expected exactly one camera, and one LIDAR at most.")
        return ("observation",)
    return (*cameras, *lidars)


def _one_of(found: Mapping[str, Any], name: str, known: tuple[str, ...], wrong: list[str]) -> str:
    value = found.get(name, known[0])
    if value not in known:
        wrong.append(f"{name}: got {value!r}; expected one of {', '.join(known)}.")
        return known[0]
    return str(value)


def _read_lidar(config: Any, wrong: list[str]) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        wrong.append(f"lidar_config: got {config!r}; expected an object.")
        return {}
    sectors = _number(config.get("num_sectors", 8), "lidar_config.num_sectors", wrong, least=1, most=LIDAR_RAYS)
    values = _number(config.get("num_values_per_sector", 8), "lidar_config.num_values_per_sector", wrong, least=1)
    clipping = _number(
        config.get("clipping_dist", 2.0), "lidar_config.clipping_dist", wrong, least=_NEAREST_M, most=_FARTHEST_M
    )
    if LIDAR_RAYS % sectors:
        wrong.append(f"lidar_config.num_sectors: got {sectors:g}; expected a divisor of {LIDAR_RAYS}.")
    return {"num_sectors": int(sectors), "values_per_sector": int(values), "clipping_m": clipping}
