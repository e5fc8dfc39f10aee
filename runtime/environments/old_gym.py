"""Environments written for gym before 0.26: `reset() -> obs`, and `step` returning four values."""

from __future__ import annotations

import contextlib
import inspect
import io
from typing import Any

import gymnasium
import numpy as np

from runtime.errors import UserError


def as_gymnasium(env: Any) -> gymnasium.Env[Any, Any]:
    """Wraps an environment of any age as a Gymnasium one; a Gymnasium one is returned as it is.

    Source: shimmy 2.0.1 does the adapting.
    """
    if isinstance(env, gymnasium.Env):
        return env
    missing = [name for name in ("observation_space", "action_space", "reset", "step") if not hasattr(env, name)]
    if missing:
        raise UserError(
            f"environment: got a {type(env).__name__} without {', '.join(missing)}; expected an environment."
        )
    # Of this very object: gym.Wrapper hands on the attributes of what it wraps, and must not be unwrapped with it.
    inner = vars(env).get("gymnasium_env") if hasattr(env, "__dict__") else None
    if isinstance(inner, gymnasium.Env):  # ours, dressed as an old one for a script's sake
        return inner
    with contextlib.redirect_stderr(io.StringIO()):  # gym 0.26.2 says at import that it is no longer maintained
        from shimmy.openai_gym_compatibility import GymV21CompatibilityV0

    adapted: gymnasium.Env[Any, Any] = GymV21CompatibilityV0(env=_WithSpaces(env))
    return adapted


class _WithSpaces:
    """An old environment, seen through the few names that shimmy asks for.

    Spaces of any library become old gym's, `seed` may be missing, and `render` may take no mode.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self.observation_space = to_old_space(env.observation_space)
        self.action_space = to_old_space(env.action_space)
        self.metadata = getattr(env, "metadata", {}) or {}
        self.reward_range = getattr(env, "reward_range", (-float("inf"), float("inf")))
        self.spec = getattr(env, "spec", None)
        self.unwrapped = getattr(env, "unwrapped", env)

    def seed(self, seed: int | None = None) -> Any:
        seed_env = getattr(self._env, "seed", None)
        return seed_env(seed) if seed_env is not None else None

    def reset(self) -> Any:
        first = self._env.reset()
        # An environment may already return (observation, info), as gym 0.26 has it.
        return first[0] if isinstance(first, tuple) and len(first) == 2 and isinstance(first[1], dict) else first

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        result = self._env.step(as_old_action(action))
        if len(result) == 4:
            observation, reward, done, info = result
            return observation, _to_float(reward), bool(done), info
        observation, reward, terminated, truncated, info = result
        # gym's old marker of an end by time limit, which shimmy turns into `truncated`.
        info = {**info, "TimeLimit.truncated": True} if truncated and not terminated else info
        return observation, _to_float(reward), bool(terminated or truncated), info

    def render(self, mode: str | None = "human") -> Any:
        if _takes_mode(self.unwrapped.render):
            return self._env.render(mode=mode)
        self.unwrapped.render_mode = mode  # as gym 0.26 has it
        return self._env.render()

    def close(self) -> None:
        close = getattr(self._env, "close", None)
        if close is not None:
            close()


class _OldNumbers(np.ndarray[Any, np.dtype[Any]]):
    """An array that Python converts to a number if it has one element, as NumPy did until 2.4 for every array."""

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())


def as_old_action(action: Any) -> Any:
    """Returns an action as environments of 2020 take it, which call `float(action)` on an array of one number."""
    return action.view(_OldNumbers) if isinstance(action, np.ndarray) and action.ndim else action


def _to_float(reward: Any) -> float:
    return float(reward.item() if isinstance(reward, np.ndarray) and reward.size == 1 else reward)


def _takes_mode(render: Any) -> bool:
    parameters = inspect.signature(render).parameters.values()
    return any(one.name == "mode" or one.kind is one.VAR_KEYWORD for one in parameters)


def to_old_space(space: Any) -> Any:
    """Converts a Gymnasium space to old gym's, which shimmy converts back; returns others unchanged."""
    import gym

    if not isinstance(space, gymnasium.Space):
        return space
    if isinstance(space, gymnasium.spaces.Box):
        return gym.spaces.Box(space.low, space.high, space.shape, space.dtype)
    if isinstance(space, gymnasium.spaces.Discrete):
        return gym.spaces.Discrete(int(space.n), start=int(space.start))
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return gym.spaces.MultiDiscrete(space.nvec)
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return gym.spaces.MultiBinary(space.n)
    raise TypeError(f"{space}: expected a Box, Discrete, MultiDiscrete or MultiBinary space in an old environment.")
