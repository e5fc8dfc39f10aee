"""Environments of several agents, PettingZoo's parallel ones and RLlib's, as one of Gymnasium whose values are dicts.

A policy of several agents can then be played, recorded and evaluated like any other.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from runtime.environments.adapting import has_channels_first, is_image
from runtime.errors import UserError

ALL = "__all__"  # RLlib's key for the end of the whole episode
PARALLEL_ENV = "parallel_env"  # PettingZoo's function that makes an environment
_CONVERSIONS = "pettingzoo.utils.conversions"  # whose `parallel_wrapper_fn` makes that function of turn-based games
# Base classes of such environments, by the package that defines them; neither package need be installed.
_BASES = {"ParallelEnv": "pettingzoo", "MultiAgentEnv": "ray"}


def makes_agents(found: Any) -> bool:
    """Whether something is a class of environments of several agents, or PettingZoo's function that makes one."""
    if inspect.isfunction(found):  # a stored model names its environment: it must not name any function to call
        return found.__name__ == PARALLEL_ENV or found.__module__ == _CONVERSIONS
    return isinstance(found, type) and any(
        _BASES.get(base.__name__) == base.__module__.partition(".")[0] for base in found.__mro__
    )


def is_multi_agent(name: str) -> bool:
    """Whether `module:Class` names an environment of several agents, as far as imported modules say.

    A name may come from a stored model, so that it must not import anything.
    """
    module, _, attribute = name.partition(":")
    return module in sys.modules and makes_agents(getattr(sys.modules[module], attribute, None))


def make_agents(maker: Any, config: Mapping[str, Any], *, render: bool) -> JointEnv:
    """Makes an environment of several agents.

    Args:
        maker: Its class, or PettingZoo's function; RLlib's classes may take all keyword arguments as one dict.
        config: Keyword arguments.
        render: Whether `render()` must return frames.
    """
    parameters = inspect.signature(maker).parameters
    options = {"render_mode": "rgb_array"} if render and ("render_mode" in parameters or "kwargs" in parameters) else {}
    if isinstance(maker, type) and [*parameters] == ["config"]:
        return JointEnv(maker({**config}))
    return JointEnv(maker(**config, **options))


class EpisodeOfAgents:
    """Follows which agents of an episode have ended; to be made after each reset.

    Args:
        agents_env: PettingZoo's ParallelEnv, or RLlib's MultiAgentEnv.
    """

    def __init__(self, agents_env: Any) -> None:
        self._env = agents_env
        self._running = {str(agent) for agent in _list_agents(agents_env)}
        # PettingZoo's environments empty it at an episode's end; RLlib's have an empty one unless they fill it.
        self._lists_agents = bool(getattr(agents_env, "agents", None))

    def is_over(self, terminated: Mapping[Any, Any], truncated: Mapping[Any, Any]) -> bool:
        """Takes the flags of a step by agent; returns whether the whole episode has ended."""
        for flags in (terminated, truncated):
            self._running -= {str(agent) for agent, has_ended in flags.items() if has_ended}
        is_whole = bool(terminated.get(ALL) or truncated.get(ALL))
        return is_whole or not self._running or (self._lists_agents and not self._env.agents)


class JointEnv(gymnasium.Env[Any, Any]):
    """An environment of several agents, whose observations and actions are dicts by agent and whose reward is the sum.

    Observations become rows of numbers; images stay. `step` returns, as `info["agents"]`, each agent's `rewards`,
    `terminated` and `truncated`, and their `returns` so far.

    Attributes:
        agents_env: The environment as its author wrote it.

    Args:
        agents_env: PettingZoo's ParallelEnv, or RLlib's MultiAgentEnv.

    Raises:
        UserError: It lacks its agents or a space of theirs, or a space is of a kind that no policy takes.
    """

    def __init__(self, agents_env: Any) -> None:
        self.agents_env = agents_env
        self.metadata = dict(getattr(agents_env, "metadata", None) or {})
        self.raw_spaces = {str(agent): _spaces_of(agents_env, agent) for agent in _list_agents(agents_env)}
        self._ids = {str(agent): agent for agent in _list_agents(agents_env)}
        observations: dict[str, gymnasium.Space[Any]] = {
            agent: _as_box(agent, space) for agent, (space, _) in self.raw_spaces.items()
        }
        self.observation_space = gymnasium.spaces.Dict(observations)
        self.action_space = gymnasium.spaces.Dict({agent: space for agent, (_, space) in self.raw_spaces.items()})
        self._returns: dict[str, float] = {}

    @property
    def render_mode(self) -> str | None:
        """The environment's own mode."""
        mode: str | None = getattr(self.agents_env, "render_mode", None)
        return mode

    @render_mode.setter
    def render_mode(self, mode: str | None) -> None:
        self.agents_env.render_mode = mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Returns the first observation of each agent that acts next."""
        self._returns = dict.fromkeys(self._ids, 0.0)
        observations, _ = self.agents_env.reset(seed=seed, options=options)
        self._episode = EpisodeOfAgents(self.agents_env)
        return self._convert(observations), {}

    def step(self, action: Mapping[str, Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment with the actions of the agents that were observed last."""
        given = {self._ids[agent]: chosen for agent, chosen in action.items()}
        observations, rewards, terminated, truncated, _ = self.agents_env.step(given)
        rewards = {str(agent): float(reward) for agent, reward in rewards.items()}
        for agent, reward in rewards.items():
            self._returns[agent] += reward
        ends = [{str(agent): bool(end) for agent, end in flags.items()} for flags in (terminated, truncated)]
        whole = [flags.pop(ALL, False) for flags in ends]
        is_over = self._episode.is_over(terminated, truncated)
        is_cut = whole[1] or (not whole[0] and any(ends[1].values()))
        agents = {"rewards": rewards, "terminated": ends[0], "truncated": ends[1], "returns": dict(self._returns)}
        total = sum(rewards.values())
        return self._convert(observations), total, is_over and not is_cut, is_over and is_cut, {"agents": agents}

    def render(self) -> Any:
        """Returns a frame of the environment."""
        return self.agents_env.render()

    def close(self) -> None:
        """Frees the environment."""
        self.agents_env.close()

    def _convert(self, observations: Mapping[Any, Any]) -> dict[str, Any]:
        return {str(agent): self._flatten(str(agent), value) for agent, value in observations.items()}

    def _flatten(self, agent: str, observation: Any) -> Any:
        spaces: Any = self.observation_space
        space, own = spaces[agent], self.raw_spaces[agent][0]
        if has_channels_first(own):
            return np.moveaxis(np.asarray(observation, np.float32), 0, -1)
        if own.shape == space.shape and isinstance(own, Box):
            return np.asarray(observation, np.float32)
        return np.asarray(gymnasium.spaces.flatten(own, observation), np.float32)


def _list_agents(env: Any) -> list[Any]:
    """Lists every agent that the environment may have.

    Raises:
        UserError: It names none.
    """
    agents = list(getattr(env, "possible_agents", None) or ())
    for name in () if agents else ("observation_spaces", "observation_space"):  # of RLlib's classes
        spaces = getattr(env, name, None)
        agents = agents or list(spaces if isinstance(spaces, Mapping) else ())
    if not agents:
        raise UserError(
            f"environment {type(env).__name__}: got no possible_agents; expected the names of all agents, as policies "
            "are made before the first episode. Set self.possible_agents in its constructor."
        )
    return agents


def _spaces_of(env: Any, agent: Any) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
    """Returns the observation and action space of an agent.

    Raises:
        UserError: One is missing, or no policy learns such actions.
    """
    found = []
    for kind in ("observation_space", "action_space"):
        get = getattr(env, f"get_{kind}", None) or getattr(env, kind, None)  # RLlib's method, or PettingZoo's
        try:
            space = get(agent) if callable(get) else None
        except (KeyError, AttributeError):
            space = None
        if not isinstance(space, gymnasium.Space):
            raise UserError(
                f"environment {type(env).__name__}: got {space!r} as {kind} of the agent {agent!r}; expected a space "
                f"of gymnasium.spaces. Set self.{kind}s[{agent!r}]."
            )
        found.append(space)
    observation, action = found
    is_known = isinstance(action, gymnasium.spaces.Box | gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete)
    if not is_known or np.any(getattr(action, "start", 0)):
        raise UserError(
            f"environment {type(env).__name__}: got the actions {action} of the agent {agent!r}; expected a Box, or "
            "Discrete or MultiDiscrete ones that start at 0. Wrap the environment."
        )
    return observation, action


def _as_box(agent: str, space: gymnasium.Space[Any]) -> Box:
    """Returns the space of an agent's observations as a policy sees them: a row of numbers, or an image.

    Raises:
        UserError: The observations are neither, nor numbers that can be put in a row.
    """
    if isinstance(space, Box) and (len(space.shape) == 1 or is_image(space)):
        low, high = (
            np.moveaxis(side, 0, -1) if has_channels_first(space) else side for side in (space.low, space.high)
        )
        return Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    flat = gymnasium.spaces.flatten_space(space) if space.is_np_flattenable else None
    if not isinstance(flat, Box):
        raise UserError(
            f"environment: got the observation space {space} of the agent {agent!r}; expected a Box, Discrete, "
            "MultiDiscrete or MultiBinary one, or a Dict or Tuple of them. Wrap it."
        )
    return Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
