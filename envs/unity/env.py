"""Gymnasium environment of a Unity scene with one agent."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.unity.vector_env import UnityVectorEnv

_FPS = 15
_SHORTEST_SIDE = 240


class UnityEnv(gymnasium.Env[Any, Any]):
    """The only agent of a Unity scene. `info["action_mask"]` is true where a discrete action is allowed.

    `render` returns the agent's first camera picture; Unity's own screen is not available. An episode whose player
    failed is truncated, with `info["lost"]`.

    Args:
        render_mode: None or `rgb_array`.
        settings: Keyword arguments of `read_options`: env_name or file_name, and others.

    Raises:
        ValueError: The settings are wrong, or the scene has more agents.
        PlayerError: The player does not start.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": _FPS}  # noqa: RUF012 - declared so by Gymnasium

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        self.render_mode = render_mode
        self._rows = UnityVectorEnv(1, **settings)
        if self._rows.num_envs > 1:
            agents = self._rows.num_envs
            self._rows.close()
            raise ValueError(
                f"UnityEnv: got a scene with {agents} agents; expected one. Make it with gymnasium.make_vec, which "
                "gives each of them a row."
            )
        self.observation_space = self._rows.single_observation_space
        self.action_space = self._rows.single_action_space
        self._seen: Any = None
        self._next: tuple[Any, dict[str, Any]] | None = None

    @property
    def restarts(self) -> int:
        """Number of restarts of the player."""
        return self._rows.restarts

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; after an episode's end it is the one that Unity has begun by itself."""
        super().reset(seed=seed)
        if self._next is None:
            observations, info = self._rows.reset()
            self._next = _row(observations), _masks(info)
        self._seen, info = self._next
        self._next = None
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one action and returns at the agent's next request, or at the episode's end."""
        is_hybrid = isinstance(self.action_space, gymnasium.spaces.Tuple)
        actions: Any = tuple(np.asarray(part)[None] for part in action) if is_hybrid else np.asarray(action)[None]
        observations, rewards, terminated, truncated, info = self._rows.step(actions)
        if info["lost"][0]:
            self._next = _row(observations), _masks(info)
            return self._seen, 0.0, False, True, {"lost": True}
        has_ended = bool(terminated[0] or truncated[0])
        if has_ended:
            self._next = _row(observations), _masks(info)
        self._seen = _row(info["final_obs"] if has_ended else observations)
        return self._seen, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _masks(info)

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]  # Gymnasium's type is for any renderer
        """Returns the agent's first picture (H, W, 3), enlarged; None without a camera or a render mode."""
        behavior = self._rows.behavior
        if self.render_mode is None or not behavior.pictures:
            return None
        picture = behavior.picture_of(self._seen)
        colors = picture if picture.shape[2] == 3 else np.repeat(picture[:, :, :1], 3, axis=2)
        times = max(1, _SHORTEST_SIDE // min(colors.shape[:2]))
        return np.kron(colors * 255, np.ones((times, times, 1))).astype(np.uint8)

    def close(self) -> None:
        """Stops the player."""
        self._rows.close()


def _row(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {name: rows[0] for name, rows in observations.items()}
    return observations[0]


def _masks(info: dict[str, Any]) -> dict[str, Any]:
    return {"action_mask": info["action_mask"][0]} if "action_mask" in info else {}
