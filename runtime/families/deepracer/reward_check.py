"""`smrl reward-check`: what a reward function pays along a lap, on the center line and in both lanes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.deepracer import kernels
from envs.deepracer.kernels import MAX_SPEED, MIN_SPEED
from envs.deepracer.racing import Options, Racing, read_options
from envs.deepracer.rewards import RewardError
from envs.deepracer.tracks import Line, Track
from runtime.errors import PlatformError, UserError

_AHEAD_M = 0.5
_MOST_STEPS = 20_000
_LINES = ("center line", "inner lane", "outer lane")

Lap = NDArray[np.float64]


def check_reward(path: Path, settings: Mapping[str, Any], out: Path, *, seed: int = 0) -> str:
    """Drives three laps with a reward function, and draws what it paid.

    Args:
        path: File with `reward_function(params)`.
        settings: Settings of the environment, as track and race_type, and `speed` in m/s, 1 if not given.
        out: Picture to write.
        seed: Seed of objects that are placed at random.

    Returns:
        A text report.

    Raises:
        UserError: The function or a setting is invalid.
    """
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UserError(f"--out: got {str(out)!r}; expected the name of a .png file.")
    for name in ("reward_function", "is_training"):
        if name in settings:
            raise UserError(f"{name}: got {settings[name]!r} from the command line; leave it out, the file is named.")
    race = dict(settings)
    speed = race.pop("speed", 1.0)
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not MIN_SPEED <= speed <= MAX_SPEED:
        raise UserError(f"speed: got {speed!r}; expected {MIN_SPEED} to {MAX_SPEED:g} m/s.")
    try:
        options = read_options(**{**race, "reward_function": path, "is_training": False})
        started = time.perf_counter()
        laps = drive_lines(options, speed, seed=seed)
    except RewardError as error:
        raise UserError(str(error)) from error.__cause__
    except ValueError as error:
        raise UserError(f"reward-check: {error}") from None
    took = time.perf_counter() - started
    steps = sum(len(lap) for lap in laps.values())
    lines = [f"{path} on {options.track.name}, {speed:g} m/s, {steps} calls in {took:.2f} s"]
    for name, lap in laps.items():
        rewards = lap[:, 2]
        if lap[-1, 3] < 99:
            lines.append(f"  {name:<12} ends at {lap[-1, 3]:.0f} %: the car left the road, or met an object")
        lines.append(
            f"  {name:<12} {rewards.sum():>10.2f} a lap; a step: least {rewards.min():.4g}, mean {rewards.mean():.4g}, "
            f"most {rewards.max():.4g}"
        )
    best = max(laps, key=lambda name: float(laps[name][:, 2].sum()))
    lines.append(f"  the {best} pays most")
    try:
        _draw(options.track, laps, out, title=f"{path.name} on {options.track.name}")
    except OSError as error:
        raise PlatformError(f"{out}: the picture could not be written: {error.strerror or error}.") from None
    return "\n".join([*lines, f"  picture: {out}"])


def drive_lines(options: Options, speed: float, *, seed: int = 0) -> dict[str, Lap]:
    """Laps on the center line and in the lanes at a speed in m/s: x, y, reward and progress of each paid step."""
    racing = Racing(options, worlds=len(_LINES), seed=seed)
    for world in range(len(_LINES)):
        racing.restart(world)
    track = racing.simulation.track_of(0)
    lines = (track.center, track.lane(is_inner=True), track.lane(is_inner=False))
    rows: list[list[list[float]]] = [[] for _ in lines]
    for _ in range(_MOST_STEPS):
        driving = np.flatnonzero(~racing.simulation.has_ended)
        if not len(driving):
            break
        steering = np.array([_steer(racing, row, line) for row, line in enumerate(lines)])
        rewards = racing.command(np.stack([steering, np.full(len(lines), speed)], axis=1))
        for row in driving.tolist():
            if racing.measured[row, kernels.STATUS] != kernels.PREPARING:
                x, y, progress = racing.measured[row, [kernels.FRONT_X, kernels.FRONT_Y, kernels.PROGRESS]]
                rows[row].append([x, y, rewards[row], progress])
    return {name: np.array(found) for name, found in zip(_LINES, rows, strict=True)}


def _steer(racing: Racing, row: int, line: Line) -> float:
    """Degrees towards a point of the line a little ahead."""
    simulation = racing.simulation
    track = simulation.track_of(row)
    x, y, yaw = simulation.cars[row, : kernels.YAW + 1]
    blocks = simulation.blocks[int(simulation.cars[row, kernels.DIRECTION]), 0]
    here = kernels.project(track.center, blocks, track.distances, x, y)
    aim_x, aim_y, _ = track.place(here + _AHEAD_M, line)
    angle = (np.arctan2(aim_y - y, aim_x - x) - yaw + np.pi) % (2 * np.pi) - np.pi
    curvature = 2 * np.sin(angle) / _AHEAD_M / simulation.dynamics[row % simulation.agents, kernels.STEERING_GAIN]
    return float(np.degrees(np.arctan(kernels.WHEELBASE_M * curvature)))


def _draw(track: Track, laps: Mapping[str, Lap], out: Path, *, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    above, along = figure.subplots(1, 2)
    for border in (track.inner, track.outer):
        above.plot(*border.T, color="0.3", linewidth=1)
    paid = np.concatenate([lap[:, 2] for lap in laps.values()])
    for lap in laps.values():
        dots = above.scatter(lap[:, 0], lap[:, 1], c=lap[:, 2], s=9, vmin=paid.min(), vmax=paid.max(), cmap="viridis")
    figure.colorbar(dots, ax=above, label="reward of a step")
    above.set_aspect("equal")
    above.set(xlabel="x (m)", ylabel="y (m)", title=title)
    for name, lap in laps.items():
        along.plot(lap[:, 3], lap[:, 2], label=name)
    along.set(xlabel="progress (%)", ylabel="reward of a step", title="along the lap")
    along.legend()
    along.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
