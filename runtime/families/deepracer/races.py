"""Runs evaluations and races: one or more policies on one track, with lap times, videos and DeepRacer's files."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from envs.deepracer import kernels
from envs.deepracer.lap_bound import LapBound, bound_lap
from envs.deepracer.metadata import Metadata
from envs.deepracer.racing import Options, Racing, decode_actions
from envs.deepracer.sensors import Sensors
from envs.deepracer.tracks import Track
from envs.deepracer.views import Map
from runtime.container.signals import StopRequest
from runtime.families.deepracer.driving import Explorer, as_rows, describe_step
from runtime.families.deepracer.race_videos import FPS, RaceVideos
from runtime.families.deepracer.records import C, SimTrace, Trace, evaluation_rows, split_laps
from runtime.files import write_json

_PICTURE = (960, 720)


@dataclasses.dataclass(frozen=True)
class Racer:
    """A policy that races.

    Attributes:
        name: Name shown in results.
        logits: The network: images (B, H, W, C) or rows (B, N) to (B, L) logits.
        metadata: Metadata of its car.
        title: Name shown in videos; that of the results if empty.
    """

    name: str
    logits: Callable[[NDArray[Any]], NDArray[np.float32]]
    metadata: Metadata
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of a racer.

    Attributes:
        name: Name of the racer.
        traces: Its steps in each trial.
        laps: The rows of its evaluation_metrics.json.
        returns: Sum of rewards of each trial.
        bound: Lower bound of its laps, or None.
        frames: (F, ...) what the network saw in the first trial, one observation a second.
    """

    name: str
    traces: list[Trace]
    laps: list[dict[str, Any]]
    returns: list[float]
    bound: LapBound | None = None
    frames: NDArray[Any] | None = None

    @property
    def complete(self) -> list[dict[str, Any]]:
        """The laps that were completed."""
        return [lap for lap in self.laps if lap["episode_status"] == "Lap complete"]


def run_race(
    options: Options, racers: list[Racer], *, trials: int, videos: Path | None, stop: StopRequest, seed: int | None
) -> list[Result]:
    """Runs a race: `trials` episodes one after the other, or one episode of that many laps if it is continuous.

    Args:
        options: The track and the rules; the first racer's metadata.
        racers: Policies that drive at the same time.
        trials: Number of trials or laps.
        videos: Folder for the videos, or None.
        stop: The stop request, which cuts the current trial.
        seed: Seed of object positions and lighting.
    """
    race = dataclasses.replace(options.race, laps=trials, change_start_position=False)
    racing = Racing(dataclasses.replace(options, race=race, is_training=False), agents=len(racers), seed=seed, worlds=1)
    drivers = [_Driver(racer, racing, number) for number, racer in enumerate(racers)]
    traces: list[list[Trace]] = [[] for _ in racers]
    laps, episodes = (trials, 1) if race.is_continuous else (1, trials)
    names = [racer.title or racer.name for racer in racers]
    recorder = RaceVideos(racing, names, videos) if videos is not None else None
    for number in range(1, episodes + 1):
        driven = list(_run_trial(racing, drivers, laps=laps, recorder=recorder, stop=stop))
        for agent, trace in enumerate(driven):
            traces[agent].append(trace)
        if recorder is not None:
            recorder.end_trial(number, episodes, [_lap_rows([trace])[-1] for trace in driven])
        if stop.is_set:
            break
    results = []
    for racer, driver, found in zip(racers, drivers, traces, strict=True):
        returns = [float(trace[:, C["reward"]].sum()) for trace in found]
        bound = bound_lap(options.track, race, racer.metadata, agents=len(racers))
        results.append(Result(racer.name, found, _lap_rows(found), returns, bound, driver.frames))
    if recorder is not None:
        recorder.end("Race stopped" if stop.is_set else "Race complete", [result.laps for result in results])
    return results


def _lap_rows(traces: list[Trace]) -> list[dict[str, Any]]:
    """Returns the rows of evaluation_metrics.json of the laps in these trials."""
    return evaluation_rows([lap for trace in traces for lap in split_laps(trace, kernels.LAP_COMPLETE)])


class _Driver:
    """Drives one racer's car with its policy."""

    def __init__(self, racer: Racer, racing: Racing, agent: int) -> None:
        self._racer = racer
        self._rows = slice(agent, None, racing.simulation.agents)
        self._sensors = Sensors(racing.simulation, racer.metadata)
        self._explorer = Explorer(racer.metadata, seed=None)
        dynamics = dataclasses.replace(racing.options.race.dynamics, version=racer.metadata.version)
        racing.simulation.dynamics[agent] = dynamics.as_array()
        self._trials = 0
        self._decisions = 0
        self._frames: list[NDArray[Any]] = []

    @property
    def frames(self) -> NDArray[Any]:
        """(F, ...) the first car's observations in the first trial, one a second."""
        return np.stack(self._frames)

    def begin(self) -> None:
        """Starts a trial, which draws its own light and camera."""
        self._trials += 1
        self._sensors.randomize(0)

    def decide(self) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Chooses actions for its cars; returns (W, 2) commands and the actions."""
        seen = as_rows(self._sensors.observe(self._rows))
        if self._trials == 1 and self._decisions % FPS == 0:
            self._frames.append(seen[0].copy())
        self._decisions += 1
        logits = self._racer.logits(seen)
        actions = self._explorer.likeliest(logits)
        return decode_actions(self._racer.metadata, actions), actions


def _run_trial(
    racing: Racing, drivers: list[_Driver], *, laps: int, recorder: RaceVideos | None, stop: StopRequest
) -> Iterator[Trace]:
    """Runs one trial until every agent has ended or timed out, or a stop is requested; returns each agent's steps."""
    simulation = racing.simulation
    racing.restart(0)
    for driver in drivers:
        driver.begin()
    most_steps = int(laps * simulation.track.length / kernels.MIN_SPEED / kernels.CONTROL_S)
    driven = 0
    parts: list[NDArray[np.float64]] = []
    driving: list[NDArray[np.bool_]] = []
    crashes = np.zeros(len(drivers))
    while not simulation.has_ended.all() and driven < most_steps and not (stop.is_set and parts):
        if recorder is not None:
            recorder.add()
        decided = [driver.decide() for driver in drivers]
        driving.append(~simulation.has_ended)
        racing.command(np.concatenate([commands for commands, _ in decided]))
        racing.actions = np.array([actions[0] if actions.ndim == 1 else -1 for _, actions in decided], np.float64)
        crashes += racing.measured[:, kernels.STATUS] == kernels.CRASHED
        parts.append(describe_step(racing, crashes))
        driven += int((racing.measured[:, kernels.STATUS] != kernels.PAUSED).any())
    steps, was_driving = np.stack(parts), np.stack(driving)
    for agent in range(len(drivers)):
        yield steps[was_driving[:, agent], agent]


def write_results(folder: Path, traces: Path, options: Options, results: list[Result]) -> list[Path]:
    """Writes evaluation_metrics.json, the steps, and a picture of the driven lines of each racer.

    Args:
        folder: Folder of the metrics and pictures.
        traces: Folder of the step traces.
        options: Options of the race.
        results: Results of each racer.

    Returns:
        The folder of each racer: `folder` itself if there is only one.
    """
    stamp = time.strftime("%Y%m%d%H%M%S")
    written = []
    for number, result in enumerate(results):
        agent = "" if len(results) == 1 else f"agent_{number}"
        own = folder / agent
        own.mkdir(parents=True, exist_ok=True)
        write_json(own / "evaluation_metrics.json", {"metrics": result.laps})
        trials = (lap for trace in result.traces for lap in split_laps(trace, kernels.LAP_COMPLETE))
        episodes = list(enumerate(trials))
        SimTrace(traces / agent / f"evaluation-{stamp}" / "evaluation-simtrace").write(0, episodes)
        draw_lines(options.track, result.traces, result.bound).save(own / "driven_lines.png")
        written.append(own)
    return written


def draw_lines(track: Track, traces: list[Trace], bound: LapBound | None = None) -> Image.Image:
    """Draws the track from above with every driven line, colored from blue (slow) to red (fast).

    The line of the lap's lower bound is drawn below them in cyan.
    """
    canvas = Map(track, _PICTURE)
    image = canvas.image.copy()
    draw = ImageDraw.Draw(image)
    legend = ""
    if bound is not None:
        draw.line(canvas.at(bound.line), fill=(90, 230, 255), width=3)
        legend = f"; the minimum-time line of a point car (cyan): {floor_tenth(bound.seconds)} s"
    speeds = np.concatenate([_speeds(trace) for trace in traces])
    low, high = float(speeds.min()), float(speeds.max())
    for trace in traces:
        places = canvas.at(trace[:, [C["x"], C["y"]]])
        for before, after, speed in zip(places, places[1:], _speeds(trace)[1:], strict=False):
            share = (speed - low) / (high - low) if high > low else 1.0
            draw.line([before, after], fill=(int(40 + 215 * share), 70, int(255 - 215 * share)), width=3)
    draw.text((12, 12), f"{low:.2f} m/s (blue) to {high:.2f} m/s (red){legend}", fill=(255, 255, 255))
    return image


def floor_tenth(seconds: float) -> str:
    """Returns seconds with one digit, rounded down as a lower bound is."""
    return f"{math.floor(10 * seconds) / 10:.1f}"


def _speeds(trace: Trace) -> NDArray[np.float64]:
    """Computes (T,) speeds in m/s between steps, without the jumps of cars that are put back on the track."""
    if len(trace) < 3:
        return np.zeros(len(trace))
    moved = np.linalg.norm(np.diff(trace[:, [C["x"], C["y"]]], axis=0), axis=1)
    moved = np.concatenate([np.full(2, moved[-1]), moved[1:]])  # it stands while the first step prepares
    return np.asarray(np.minimum(moved / kernels.CONTROL_S, 1.1 * kernels.MAX_SPEED))
