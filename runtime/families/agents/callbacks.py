"""Metrics of the policies of several agents, beside those of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.artifacts.checkpoint import JobState
from runtime.rllib.agents_env import returns_of
from runtime.rllib.results import flatten_series
from runtime.rllib.settings import RLlibSettings
from runtime.settings.schema import JobConfig

_STATE = "agents"  # in the job's extra state: the last returns of each policy


class PolicyReturns:
    """Averages the returns of each policy's agents over the last episodes.

    Args:
        config: The job's settings, which say over how many.
    """

    def __init__(self, config: JobConfig) -> None:
        self._policies = sorted(set((config.policy_mapping or {}).values()))
        self._averaged = RLlibSettings.of(config).metrics_num_episodes_for_smoothing

    def after_iteration(self, algorithm: Any, result: Mapping[str, Any], state: JobState) -> dict[str, float]:
        """Returns `episode_reward_mean_<policy>`: the mean return of an agent of the policy, where there is one."""
        runners = result.get("env_runners", {})
        recent: dict[str, list[float]] = state.extra.setdefault(_STATE, {})
        for policy in self._policies:
            ended = flatten_series(runners.get(returns_of(policy), ()))
            recent[policy] = [*recent.get(policy, []), *ended][-self._averaged :]
        return {
            f"episode_reward_mean_{policy}": sum(returns) / len(returns)
            for policy, returns in recent.items()
            if returns
        }
