"""Gymnasium environments of a race: one car, or a vector environment of several worlds with one car each."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.deepracer import kernels
from envs.deepracer.racing import Racing, read_options
from envs.deepracer.simulation import STATUS_NAMES
from envs.deepracer.views import VIEWS, Views

_FPS = 15


class DeepRacerEnv(gymnasium.Env[Any, Any]):
    """One car. As in DeepRacer, the first step of an episode does not move the car and its reward is 0.

    Observations are the camera's picture (120, 160, 1) uint8, of two cameras (120, 160, 2), or a dict of picture and
    scan where the metadata asks for a LIDAR. Actions are indices into the metadata's list, or steering and speed in ±1.
    `info["reward_params"]` holds the reward function's parameters, `info["episode_status"]` the rule that applied.

    Args:
        render_mode: None or `rgb_array`.
        view: View that `render` draws: front, follow, top, or race, which is follow with top in a corner.
        options: Keyword arguments of `read_options`: track, tracks, model_metadata, reward_function, dynamics,
            is_training, and the attributes of `Race`, as race_type or number_of_obstacles.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": _FPS}  # noqa: RUF012 - declared so by Gymnasium

    def __init__(self, *, render_mode: str | None = None, view: str = "race", **options: Any) -> None:
        if view not in VIEWS:
            raise ValueError(f"view: got {view!r}; expected one of {', '.join(VIEWS)}.")
        self.render_mode = render_mode
        self._view = view
        self.racing = Racing(read_options(**options), keeps_params=True)
        self.observation_space = self.racing.observation_space
        self.action_space = self.racing.action_space
        self._views: Views | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins the next episode; with a seed, the first one of that seed."""
        super().reset(seed=seed)
        if seed is not None:
            self.racing.simulation.seed(seed)
        self.racing.restart(0)
        return self._observe(), {"episode_status": "prepare"}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one control step of 1/15 s."""
        racing = self.racing
        reward = float(racing.step(np.asarray(action)[None])[0])
        status = STATUS_NAMES[int(racing.measured[0, kernels.STATUS])]
        params = racing.last_params[0]
        info = {"episode_status": status, "progress": params["progress"], "reward_params": params}
        return self._observe(), reward, bool(racing.simulation.has_ended[0]), False, info

    def _observe(self) -> Any:
        found = self.racing.observe()
        return {name: array[0] for name, array in found.items()} if isinstance(found, dict) else found[0]

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]  # Gymnasium's type is for any renderer
        """Renders a (480, 640, 3) picture of the chosen view; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._views is None:
            self._views = Views(self.racing.simulation)
        return self._views.draw(0, self._view)


class DeepRacerVectorEnv(VectorEnv[Any, Any, Any]):
    """Several worlds at once, each with one car; a world whose episode ends begins the next in the same step.

    Args:
        num_envs: Number of worlds.
        options: As in DeepRacerEnv.
    """

    metadata = {  # noqa: RUF012 - declared so by Gymnasium
        "render_modes": [],
        "render_fps": _FPS,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, num_envs: int = 8, *, render_mode: str | None = None, **options: Any) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs: got {num_envs}; expected at least 1.")
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.racing = Racing(read_options(**options), worlds=num_envs)
        self.single_observation_space = self.racing.observation_space
        self.single_action_space = self.racing.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every world; with a seed, the first one of that seed."""
        first = seed[0] if isinstance(seed, list) else seed
        if first is not None:
            self.racing.simulation.seed(first)
        for world in range(self.num_envs):
            self.racing.restart(world)
        return self.racing.observe(), {}

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Takes one control step in every world; final observations of ended episodes are in `info["final_obs"]`."""
        racing = self.racing
        info: dict[str, Any] = {}
        rewards = racing.step(actions)
        ended = racing.simulation.has_ended.copy()
        observations = racing.observe()
        info["episode_status"] = racing.measured[:, kernels.STATUS].astype(np.int64)
        info["progress"] = racing.measured[:, kernels.PROGRESS]
        if ended.any():
            info["final_obs"] = observations
            info["_final_obs"] = ended
            for world in np.flatnonzero(ended).tolist():
                racing.restart(world)
            observations = racing.observe()
        return observations, rewards, ended, np.zeros_like(ended), info
