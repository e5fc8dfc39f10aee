"""`gym_unity.envs.UnityToGymWrapper`: a one-agent `UnityEnvironment` behind the calls of gym before 0.26.

Source: the interface of gym-unity 0.20 to 0.28 (ML-Agents' docs/Python-Gym-API).
"""

from __future__ import annotations

import itertools
from typing import Any

import gym
import numpy as np
from gym import error, spaces

from envs.unity.protocol import ActionTuple, BaseEnv

_PICTURE_DIMENSIONS = 3
_SILENT_STEPS_AT_MOST = 10_000


class UnityGymException(error.Error):  # type: ignore[misc]  # gym ships no types
    """An environment or call that this wrapper does not support."""


class ActionFlattener:
    """Numbers the combinations of several discrete actions.

    Attributes:
        action_space: Discrete space of all combinations.

    Args:
        branched_action_space: Sizes of the branches.
    """

    def __init__(self, branched_action_space: Any) -> None:
        self.action_lookup = dict(enumerate(itertools.product(*(range(int(n)) for n in branched_action_space))))
        self.action_space = spaces.Discrete(len(self.action_lookup))

    def lookup_action(self, action: int) -> list[int]:
        """Returns the action of each branch for the number of a combination."""
        return list(self.action_lookup[int(action)])


class UnityToGymWrapper(gym.Env):  # type: ignore[misc]  # gym ships no types
    """A scene with one agent of one behavior as a gym environment.

    Args:
        unity_env: A running `UnityEnvironment`.
        uint8_visual: Whether pictures are 0..255 instead of 0..1.
        flatten_branched: Whether several discrete actions are numbered as one.
        allow_multiple_obs: Whether an observation is the list of pictures and, last, the row of all other numbers;
            else it is the first picture, or that row where there is none.
        action_space_seed: Seed of the action space.

    Raises:
        UnityGymException: The scene has several behaviors or agents, or hybrid actions.
    """

    def __init__(
        self,
        unity_env: BaseEnv,
        uint8_visual: bool = False,
        flatten_branched: bool = False,
        allow_multiple_obs: bool = False,
        action_space_seed: int | None = None,
    ) -> None:
        self._env = unity_env
        self.uint8_visual = uint8_visual
        self._allow_multiple_obs = allow_multiple_obs
        self.game_over = False
        if not unity_env.behavior_specs:
            unity_env.step()  # agents are known once they have asked
        if len(unity_env.behavior_specs) != 1:
            names = ", ".join(unity_env.behavior_specs) or "none"
            raise UnityGymException(f"behaviors: got {names}; expected one. Train Unity-v0 instead.")
        self.name = next(iter(unity_env.behavior_specs))
        self.group_spec = unity_env.behavior_specs[self.name]
        unity_env.reset()
        self._check_agents(len(unity_env.get_steps(self.name)[0]))
        self._flattener: ActionFlattener | None = None
        self._action_space = self._make_action_space(flatten_branched)
        if action_space_seed is not None:
            self._action_space.seed(action_space_seed)
        self._observation_space = self._make_observation_space()

    @property
    def action_space(self) -> Any:
        """Box in ±1, Discrete or MultiDiscrete."""
        return self._action_space

    @property
    def observation_space(self) -> Any:
        """Box, or a tuple of them."""
        return self._observation_space

    @property
    def metadata(self) -> dict[str, Any]:
        """Render modes, as gym has them."""
        return {"render.modes": ["rgb_array"]}

    def _make_action_space(self, flatten_branched: bool) -> Any:
        spec = self.group_spec.action_spec
        if spec.is_discrete():
            if spec.discrete_size == 1:
                return spaces.Discrete(int(spec.discrete_branches[0]))
            if flatten_branched:
                self._flattener = ActionFlattener(spec.discrete_branches)
                return self._flattener.action_space
            return spaces.MultiDiscrete(list(spec.discrete_branches))
        if spec.is_continuous():
            return spaces.Box(-1.0, 1.0, (spec.continuous_size,), np.float32)
        raise UnityGymException(
            "actions: got hybrid ones; expected continuous or discrete ones. Train Unity-v0 instead."
        )

    def _make_observation_space(self) -> Any:
        shapes = [sensor.shape for sensor in self.group_spec.observation_specs]
        top, kind = (255, np.uint8) if self.uint8_visual else (1, np.float32)
        boxes = [spaces.Box(0, top, shape, kind) for shape in shapes if len(shape) == _PICTURE_DIMENSIONS]
        size = sum(int(np.prod(shape)) for shape in shapes if len(shape) < _PICTURE_DIMENSIONS)
        if size:
            boxes.append(spaces.Box(-np.inf, np.inf, (size,), np.float32))
        return spaces.Tuple(boxes) if self._allow_multiple_obs else boxes[0]

    def reset(self) -> Any:
        """Begins an episode; returns the observation."""
        self._env.reset()
        self.game_over = False
        decisions, _ = self._env.get_steps(self.name)
        self._check_agents(len(decisions))
        return self._observe(decisions)

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """Steps the scene; returns observation, reward, done and info.

        Raises:
            UnityGymException: The episode has ended.
        """
        if self.game_over:
            raise UnityGymException("step: got an action after the episode's end; expected reset() first.")
        if self._flattener is not None:
            action = self._flattener.lookup_action(action)
        rows = np.array(action).reshape(1, -1)
        is_continuous = self.group_spec.action_spec.is_continuous()
        actions = ActionTuple(continuous=rows) if is_continuous else ActionTuple(discrete=rows.astype(np.int32))
        self._env.set_actions(self.name, actions)
        for _ in range(_SILENT_STEPS_AT_MOST):  # the agent may need several steps of the scene before it asks again
            self._env.step()
            decisions, ended = self._env.get_steps(self.name)
            self._check_agents(max(len(decisions), len(ended)))
            if len(decisions) or len(ended):
                break
        else:
            raise UnityGymException(f"the agent: asked for nothing in {_SILENT_STEPS_AT_MOST} steps of the scene.")
        self.game_over = len(ended) != 0
        steps = ended if self.game_over else decisions
        info = {"step": steps}
        if self.game_over and bool(ended.interrupted[0]):
            info["TimeLimit.truncated"] = True
        return self._observe(steps), float(steps.reward[0]), self.game_over, info

    def _observe(self, steps: Any) -> Any:
        pictures = [rows[0] for rows in steps.obs if rows.ndim == _PICTURE_DIMENSIONS + 1]
        if self.uint8_visual:
            pictures = [(255.0 * picture).astype(np.uint8) for picture in pictures]
        others = [rows[0].ravel() for rows in steps.obs if rows.ndim <= _PICTURE_DIMENSIONS]
        self.visual_obs = pictures[0] if pictures else None
        found = [*pictures, *([np.concatenate(others)] if others else [])]
        return found if self._allow_multiple_obs else found[0]

    def render(self, mode: str = "rgb_array") -> Any:
        """Returns the last picture that the agent saw, or None."""
        return getattr(self, "visual_obs", None)

    def close(self) -> None:
        """Ends the player."""
        self._env.close()

    def seed(self, seed: Any = None) -> None:
        """Ignores the seed, as a player takes its seed when it starts."""

    def _check_agents(self, count: int) -> None:
        if count > 1:
            raise UnityGymException(f"agents: got {count}; expected one. Train Unity-v0 instead.")
