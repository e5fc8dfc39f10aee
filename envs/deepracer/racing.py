"""Steps a race: actions in, observations and rewards out, for the cars of several worlds at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.deepracer import kernels
from envs.deepracer.metadata import DEFAULT, Metadata, parse_metadata, read_metadata
from envs.deepracer.params import make_params
from envs.deepracer.race import DEFAULT_DYNAMICS, KNOWN_DYNAMICS, Dynamics, Race
from envs.deepracer.randomization import KNOWN_RANDOMIZATIONS, Randomization, read_randomization
from envs.deepracer.rewards import RewardFunction, check_calls, default_rewards, load_reward_function
from envs.deepracer.sensors import Sensors
from envs.deepracer.simulation import Simulation
from envs.deepracer.tracks import DEFAULT as DEFAULT_TRACK
from envs.deepracer.tracks import Track, load_tracks


@dataclasses.dataclass(frozen=True)
class Options:
    """Checked settings of a race.

    Attributes:
        track: Track to drive on, the first one where there are several.
        race: Rules of the race.
        metadata: Actions and sensors of the cars.
        make_reward_function: Makes the user's reward function for one car; None for the default.
        is_training: Whether each episode starts farther along the track.
        others: Further tracks of a training.
    """

    track: Track
    race: Race
    metadata: Metadata
    make_reward_function: Callable[[], RewardFunction] | None = None
    is_training: bool = True
    others: tuple[Track, ...] = ()

    def on_each_track(self) -> list[Options]:
        """Returns the options of each track alone."""
        return [dataclasses.replace(self, track=track, others=()) for track in (self.track, *self.others)]


def read_options(
    *,
    track: str | Track | Sequence[str] = DEFAULT_TRACK,
    tracks: str | Path | Sequence[str | Path] = (),
    model_metadata: str | Path | Mapping[str, Any] | Metadata | None = None,
    reward_function: str | Path | RewardFunction | None = None,
    dynamics: str | Mapping[str, float] = DEFAULT_DYNAMICS,
    randomize: str | Mapping[str, float] | Randomization = "none",
    is_training: bool = True,
    **race: Any,
) -> Options:
    """Reads a user's settings into Options.

    Args:
        track: Name of a built-in track or of a file in `tracks`, or the path of a `.npy` file; several as a list or
            with commas, or `all` for every closed one: a training drives on all of them, all else on the first.
        tracks: Folder or folders of `.npy` files.
        model_metadata: Path of model_metadata.json, or its JSON object; five steering angles at 1 m/s if None.
        reward_function: File with `reward_function(params)`, which is run once for each car, as what it remembers of
            the last step is that car's; or the function, which all cars call; the default reward if None.
        dynamics: A name of KNOWN_DYNAMICS, or settings of Dynamics by name, the others as in the default.
        randomize: A name of KNOWN_RANDOMIZATIONS, or ranges of Randomization by name, the others 0.
        is_training: As in Options.
        race: Attributes of Race.

    Raises:
        ValueError: A setting is wrong; the message lists every problem found.
    """
    wrong: list[str] = []
    folders = _attempt(lambda: _read_folders(tracks), wrong) or []
    found_tracks = _attempt(lambda: [track] if isinstance(track, Track) else load_tracks(track, folders), wrong) or []
    metadata = _attempt(lambda: _read_metadata(model_metadata), wrong)
    function = _attempt(lambda: _read_reward(reward_function), wrong)
    known = {field.name for field in dataclasses.fields(Race)} - {"dynamics", "randomize"}
    for name in sorted(set(race) - known):
        wrong.append(f"{name}: got a setting that no race has; expected one of {', '.join(sorted(known))}.")
    version = 5.0 if metadata is None else metadata.version
    answer = _attempt(lambda: _read_dynamics(dynamics, version), wrong)
    settings = {name: value for name, value in race.items() if name in known}
    ranges = _attempt(lambda: read_randomization(randomize), wrong)
    asked: dict[str, Any] = {
        "dynamics": answer or KNOWN_DYNAMICS[DEFAULT_DYNAMICS],
        "randomize": ranges or KNOWN_RANDOMIZATIONS["none"],
    }
    rules = _attempt(lambda: Race(**settings, **asked), wrong)
    if rules is not None and found_tracks:
        wrong += rules.find_misfits(min(found.length for found in found_tracks))
    if wrong or metadata is None or rules is None:
        raise ValueError("\n".join(wrong))
    return Options(found_tracks[0], rules, metadata, function, is_training, tuple(found_tracks[1:]))


def _attempt(read: Any, wrong: list[str]) -> Any:
    try:
        return read()
    except ValueError as error:
        wrong.append(str(error))
    return None


def _read_folders(given: Any) -> list[Path]:
    folders = [given] if isinstance(given, str | Path) else given
    if not isinstance(folders, list | tuple) or not all(isinstance(folder, str | Path) for folder in folders):
        raise ValueError(f"tracks: got {given!r}; expected a folder of .npy files, or a list of them.")
    return [Path(folder) for folder in folders]


def _read_metadata(given: Any) -> Metadata:
    if isinstance(given, Metadata):
        return given
    if given is None:
        return parse_metadata(DEFAULT)
    if not isinstance(given, str | Path):
        return parse_metadata(given)
    return read_metadata(Path(given))


def _read_reward(given: Any) -> Callable[[], RewardFunction] | None:
    if given is None:
        return None
    if callable(given):
        function = check_calls(given)
        return lambda: function
    if not isinstance(given, str | Path):
        raise ValueError(f"reward_function: got {given!r}; expected a Python file, or a function.")
    load_reward_function(Path(given))  # raises here, before anything heavy starts, where it cannot be loaded
    return lambda: load_reward_function(Path(given))


def _read_dynamics(given: Any, version: float) -> Dynamics:
    if isinstance(given, str) and given in KNOWN_DYNAMICS:
        return dataclasses.replace(KNOWN_DYNAMICS[given], version=version)
    if isinstance(given, Mapping):
        known = {field.name for field in dataclasses.fields(Dynamics)} - {"version"}
        if unknown := sorted(set(given) - known):
            raise ValueError(
                f"dynamics: got {', '.join(map(str, unknown))}; expected some of {', '.join(sorted(known))}."
            )
        return dataclasses.replace(KNOWN_DYNAMICS[DEFAULT_DYNAMICS], version=version, **given)
    raise ValueError(f"dynamics: got {given!r}; expected {', '.join(KNOWN_DYNAMICS)}, or settings by name.")


class Racing:
    """Races in several worlds that are stepped together.

    Attributes:
        options: Settings of the race.
        simulation: Cars and objects.
        measured: (C, COLUMNS) state of the cars at the start of the last step, before they moved.
        actions: (C,) or (C, 2) actions of the last step.
        commands: (C, 2) steering in degrees and speed in m/s of the last step.
        rewards: (C,) rewards of the last step.
        last_params: Reward function parameters of each car in the last step, with `keeps_params`.

    Args:
        options: Settings of the race.
        worlds: Number of worlds.
        agents: Number of cars in each world.
        seed: Seed of objects, lights and noise.
        keeps_params: Whether to fill `last_params`.
    """

    def __init__(
        self,
        options: Options,
        *,
        worlds: int = 1,
        agents: int = 1,
        seed: int | None = None,
        keeps_params: bool = False,
    ) -> None:
        self._keeps_params = keeps_params
        self.last_params: list[dict[str, Any]] = []
        self.options = options
        self.simulation = Simulation(
            options.track, options.race, worlds=worlds, agents=agents, is_training=options.is_training, seed=seed
        )
        self._sensors = Sensors(self.simulation, options.metadata)
        self.measured = self.simulation.cars.copy()
        self.commands = np.zeros((len(self.measured), 2))
        self.rewards = np.zeros(len(self.measured))
        self.actions = np.zeros(len(self.measured))
        self._is_stereo = options.metadata.camera == "STEREO_CAMERAS"
        make = options.make_reward_function
        self._reward_functions = None if make is None else [make() for _ in self.measured]

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """Observation space of one car."""
        return self._sensors.space

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Action space of one car."""
        return action_space(self.options.metadata)

    def restart(self, world: int) -> None:
        """Begins a world's next episode."""
        self.simulation.restart(world)
        self._sensors.randomize(world)

    def observe(self, rows: NDArray[np.int64] | slice = slice(None)) -> Any:
        """Returns (B, ...) current observations of the cars of these rows; of all cars by default."""
        return self._sensors.observe(rows)

    def step(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Takes one control step of every car; those whose episode has ended stand still.

        Args:
            actions: (C,) or (C, 2) of the action space.

        Returns:
            (C,) rewards of the state at the start of the step and of these actions; `simulation.has_ended` tells which
            episodes are over.

        Raises:
            RewardError: The user's reward function failed.
            ValueError: An action is not in the action space.
        """
        self.actions = np.asarray(actions)
        self._check_actions()
        return self.command(decode_actions(self.options.metadata, self.actions))

    def _check_actions(self) -> None:
        actions = self.actions
        listed = self.options.metadata.actions
        shape = (len(self.measured),) if listed is not None else (len(self.measured), 2)
        if listed is not None:
            is_right = actions.shape == shape and actions.dtype.kind in "iu"
            is_right = is_right and bool(actions.min() >= 0) and bool(actions.max() < len(listed))
        else:
            is_right = actions.shape == shape and bool(np.isfinite(actions).all())
        if not is_right:
            rule = "finite numbers" if listed is None else f"whole numbers from 0 to {len(listed) - 1}"
            raise ValueError(f"action: got {actions!r} of shape {actions.shape}; expected {rule} of shape {shape}.")

    def command(self, commands: NDArray[np.float64]) -> NDArray[np.float64]:
        """Takes one control step by commands (degrees, m/s), for cars with different action spaces.

        Args:
            commands: (C, 2) steering in degrees and speed in m/s.

        Returns:
            (C,) rewards.
        """
        simulation = self.simulation
        self.commands = commands
        simulation.measure()
        self.measured = simulation.cars.copy()
        if self._keeps_params:
            self.last_params = [self.params(row) for row in range(len(self.measured))]
        self.rewards = self._call_reward_functions()
        simulation.drive(self.commands[:, 1], self.commands[:, 0])
        return self.rewards

    def _call_reward_functions(self) -> NDArray[np.float64]:
        """Returns (C,) reward of each car; 0 while it prepares, or is parked."""
        status = self.measured[:, kernels.STATUS]
        gets_reward = (status < kernels.PREPARING) & (self.measured[:, kernels.PHASE] != kernels.PARK)
        functions = self._reward_functions
        if functions is None:
            return np.where(gets_reward, default_rewards(self.measured), 0.0)
        rewards = np.zeros(len(status))
        for row in np.flatnonzero(gets_reward).tolist():
            rewards[row] = functions[row](self.params(row))
        return rewards

    def params(self, row: int) -> dict[str, Any]:
        """Parameters of a car's reward function, valid right after `simulation.measure`."""
        steering, speed = self.commands[row].tolist()
        return make_params(self.simulation, row, speed=speed, steering=steering, is_stereo=self._is_stereo)


def action_space(metadata: Metadata) -> gymnasium.Space[Any]:
    """Returns the action space of a car: an index into the metadata's list, or steering and speed scaled to ±1."""
    if metadata.actions is not None:
        return gymnasium.spaces.Discrete(len(metadata.actions))
    return gymnasium.spaces.Box(-1, 1, (2,), np.float32)


def decode_actions(metadata: Metadata, actions: NDArray[Any]) -> NDArray[np.float64]:
    """Decodes actions (B,), or (B, 2) clipped to ±1, to (B, 2) steering in degrees and speed in m/s."""
    if metadata.actions is not None:
        return metadata.actions[actions.astype(np.int64)]
    assert metadata.low is not None
    assert metadata.high is not None
    return np.asarray(
        metadata.low + (np.clip(actions.astype(np.float64), -1, 1) + 1) / 2 * (metadata.high - metadata.low)
    )
