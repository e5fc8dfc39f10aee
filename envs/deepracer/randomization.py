"""What differs between a car's episodes on purpose, so that its policy drives on a car that is none of them exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def find_out_of_range(settings: object, ranges: Mapping[str, tuple[float, float]], *, prefix: str = "") -> list[str]:
    """Describes the attributes that are no numbers within their ranges, which include both ends."""
    wrong = []
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if not is_number(value) or not least <= value <= most:
            wrong.append(f"{prefix}{name}: got {value!r}; expected a number from {least:g} to {most:g}.")
    return wrong


@dataclasses.dataclass(frozen=True)
class Randomization:
    """Ranges of what is drawn at random, uniformly in each episode; 0 for what stays as it is.

    Attributes:
        light: Share by which the pictures' brightness differs in either direction.
        color: Share by which red, green and blue differ on their own; objects have any gray value then.
        pixel_noise: Standard deviation of the noise of each pixel of each picture, in gray levels.
        camera_height_m: Meters by which the camera is mounted higher or lower.
        camera_pitch_deg: Degrees by which it looks farther up or down.
        latency_s: Seconds of latency beyond that of the dynamics, at most.
        speed_gain: Share by which the car is faster or slower than commanded.
        steering_offset_deg: Degrees that the wheels are off, as after a bad calibration.
        speed_noise: Standard deviation of the factor by which each step's speed differs.
        steering_noise_deg: Standard deviation of the degrees by which each step's steering angle differs.
    """

    light: float = 0.0
    color: float = 0.0
    pixel_noise: float = 0.0
    camera_height_m: float = 0.0
    camera_pitch_deg: float = 0.0
    latency_s: float = 0.0
    speed_gain: float = 0.0
    steering_offset_deg: float = 0.0
    speed_noise: float = 0.0
    steering_noise_deg: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: Ranges are wrong; the message lists all of them.
        """
        if wrong := find_out_of_range(self, {name: (0.0, most) for name, most in _MOST.items()}, prefix="randomize."):
            raise ValueError("\n".join(wrong))

    @property
    def changes_pictures(self) -> bool:
        """Whether pictures have another light, or noise."""
        return self.light > 0 or self.color > 0 or self.pixel_noise > 0

    @property
    def moves_camera(self) -> bool:
        """Whether each episode has another camera."""
        return self.camera_height_m > 0 or self.camera_pitch_deg > 0

    @property
    def changes_commands(self) -> bool:
        """Whether the car drives otherwise than commanded."""
        return max(self.speed_gain, self.steering_offset_deg, self.speed_noise, self.steering_noise_deg) > 0

    @property
    def settings(self) -> dict[str, float]:
        """The ranges that are not 0, by their names."""
        return {name: float(value) for name, value in dataclasses.asdict(self).items() if value}


_MOST = {
    "light": 0.9,
    "color": 0.9,
    "pixel_noise": 64.0,
    "camera_height_m": 0.1,
    "camera_pitch_deg": 10.0,
    "latency_s": 0.2,
    "speed_gain": 0.5,
    "steering_offset_deg": 10.0,
    "speed_noise": 0.5,
    "steering_noise_deg": 10.0,
}

# `sim2real` has the latency of a car that infers ten times a second, as AWS's developer guide says of it. No source
# gives the other ranges: they are chosen, wide enough for a camera that was mounted by hand, a car that is calibrated
# by eye, and a battery that runs down.
KNOWN_RANDOMIZATIONS = {
    "none": Randomization(),
    "sim2real": Randomization(
        light=0.4,
        color=0.2,
        pixel_noise=4.0,
        camera_height_m=0.01,
        camera_pitch_deg=2.0,
        latency_s=0.1,
        speed_gain=0.15,
        steering_offset_deg=2.0,
        speed_noise=0.05,
        steering_noise_deg=1.0,
    ),
}


def read_randomization(given: Any) -> Randomization:
    """Reads a name of KNOWN_RANDOMIZATIONS, or ranges by name; those that are not named are 0.

    Raises:
        ValueError: It is neither; the message lists every problem.
    """
    if isinstance(given, Randomization):
        return given
    if isinstance(given, str) and given in KNOWN_RANDOMIZATIONS:
        return KNOWN_RANDOMIZATIONS[given]
    if isinstance(given, Mapping):
        if unknown := sorted(set(map(str, given)) - set(_MOST)):
            raise ValueError(f"randomize: got {', '.join(unknown)}; expected some of {', '.join(_MOST)}.")
        return Randomization(**given)
    raise ValueError(f"randomize: got {given!r}; expected {', '.join(KNOWN_RANDOMIZATIONS)}, or ranges by name.")
