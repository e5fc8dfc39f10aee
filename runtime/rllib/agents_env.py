"""RLlib's side of an environment of several agents: the environment for its env runners, and what they report."""

from __future__ import annotations

import dataclasses
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from runtime.environments.agents import ALL
from runtime.environments.spec import EnvSpec, make_env
from runtime.rllib.episodes import LENGTHS, RETURNS


class AgentsEnv(MultiAgentEnv):  # type: ignore[misc]  # ray is not typed for strict mode
    """The job's environment as RLlib takes it, with the job's horizon, checks and faults.

    Attributes:
        episode: Return `r` and length `l` of the last episode that ended.
        returns: Return of each agent in it.

    Args:
        spec: Environment to make, of several agents.
        context: RLlib's EnvContext.
    """

    def __init__(self, spec: EnvSpec, context: dict[str, Any]) -> None:
        super().__init__()
        self._joint = make_env(spec, context=context)
        spaces: Any = self._joint.observation_space
        actions: Any = self._joint.action_space
        self.observation_spaces = dict(spaces.spaces)
        self.action_spaces = dict(actions.spaces)
        self.possible_agents = list(self.observation_spaces)
        self.agents = list(self.possible_agents)
        self.episode: dict[str, float] = {}
        self.returns: dict[str, float] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; called by RLlib."""
        observations, _ = self._joint.reset(seed=seed, options=options)
        self.agents = list(observations)
        return observations, {}

    def step(self, action_dict: dict[str, Any]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps the environment; called by RLlib."""
        observations, _, terminated, truncated, info = self._joint.step(action_dict)
        agents = info["agents"]
        if terminated or truncated:
            self.episode, self.returns = info["episode"], agents["returns"]
        ends = [{**agents[kind], ALL: has_ended} for kind, has_ended in _flags(terminated, truncated)]
        return observations, agents["rewards"], *ends, {}

    def close(self) -> None:
        """Frees the environment."""
        self._joint.close()


def _flags(terminated: bool, truncated: bool) -> tuple[tuple[str, bool], tuple[str, bool]]:
    return ("terminated", terminated), ("truncated", truncated)


@dataclasses.dataclass(frozen=True)
class AgentsEnvMaker:
    """Makes the job's environment; RLlib's registry of environments holds it.

    Attributes:
        spec: Environment to make.
    """

    spec: EnvSpec

    def __call__(self, context: dict[str, Any]) -> AgentsEnv:
        """Makes one environment; called by RLlib with its EnvContext."""
        return AgentsEnv(self.spec, context)


class AgentsReports(RLlibCallback):  # type: ignore[misc]  # ray is not typed for strict mode
    """Logs the return and length of each episode, and for each policy the mean return of its agents."""

    def on_episode_end(
        self, *, episode: Any, env: Any = None, env_index: int = 0, metrics_logger: Any = None, **kwargs: Any
    ) -> None:
        """Logs one episode; called by RLlib."""
        ended = env.envs[env_index].unwrapped
        metrics_logger.log_value(RETURNS, ended.episode["r"], reduce="item_series")
        metrics_logger.log_value(LENGTHS, ended.episode["l"], reduce="item_series")
        returns: dict[str, list[float]] = {}
        for agent in episode.agent_ids:
            returns.setdefault(episode.module_for(agent), []).append(ended.returns[agent])
        for policy, values in returns.items():
            metrics_logger.log_value(returns_of(policy), sum(values) / len(values), reduce="item_series")


def returns_of(policy: str) -> str:
    """Returns the name under which the returns of a policy's agents are logged."""
    return f"{RETURNS}_{policy}"
