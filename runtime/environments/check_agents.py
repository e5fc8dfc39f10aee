"""Finds what an environment of several agents does that training cannot use, with random actions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from runtime.environments.agents import EpisodeOfAgents, JointEnv
from runtime.environments.faults import Findings
from runtime.environments.returned import describe_kind, is_finite_number, observation_problem


def check_agents(env: JointEnv, findings: Findings, *, steps: int, seed: int) -> dict[str, str]:
    """Takes random steps, and adds the first problem of each kind, with file and line.

    Args:
        env: The environment.
        findings: Receives the problems.
        steps: How many steps to take.
        seed: Seed of the actions.

    Returns:
        What was seen, by name, to be printed.
    """
    check = _Check(env, findings)
    env.action_space.seed(seed)
    begun = time.perf_counter()
    episodes = check.take(steps)
    rate = steps / (time.perf_counter() - begun)
    facts = {"agents": ", ".join(env.raw_spaces)}
    for agent, (observations, actions) in env.raw_spaces.items():
        facts[agent] = f"observes {observations}, acts in {actions}"
    return facts | {"steps": f"{steps} random ones, {episodes} episodes ended, {rate:,.0f} steps per second"}


class _Check:
    """Checks one environment by its own methods; notes the first problem of each kind."""

    def __init__(self, env: JointEnv, findings: Findings) -> None:
        self._env = env.agents_env
        self._spaces = env.raw_spaces
        self._actions: Any = env.action_space
        self._findings = findings

    def take(self, steps: int) -> int:
        """Takes random steps until one is impossible; returns how many episodes ended."""
        episodes = 0
        observed: Mapping[Any, Any] | None = None
        for step in range(1, steps + 1):
            if observed is None:
                if (observed := self._reset()) is None:
                    break
                episode = EpisodeOfAgents(self._env)
            actions = {agent: self._actions[str(agent)].sample() for agent in observed}
            try:
                result = self._env.step(actions)
            except Exception as error:
                self._findings.raised(error, f"at step {step}, actions {actions!r}")
                break
            if not self._is_step(result):
                break
            observed = result[0]
            if episode.is_over(result[2], result[3]) or not observed:
                episodes += 1
                observed = None
        return episodes

    def _reset(self) -> Mapping[Any, Any] | None:
        try:
            result: Any = self._env.reset()
        except Exception as error:
            self._findings.raised(error, "at reset() without a seed")
            return None
        if not (isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, Mapping) for part in result)):
            self._findings.note(
                "reset", "reset", f"returned {describe_kind(result)}; expected (observations, infos), two dicts"
            )
            return None
        observations: Mapping[Any, Any] = result[0]
        return observations if self._are_observations("reset", observations) else None

    def _is_step(self, result: Any) -> bool:
        if not (isinstance(result, tuple) and len(result) == 5 and all(isinstance(part, Mapping) for part in result)):
            rule = "expected five dicts by agent: observations, rewards, terminated, truncated, infos"
            self._findings.note("step", "step", f"returned {describe_kind(result)}; {rule}")
            return False
        for agent, reward in result[1].items():
            if not is_finite_number(reward):
                self._findings.note(
                    "reward", "step", f"returned the reward {reward!r} of {agent}; expected a finite number"
                )
        return self._are_observations("step", result[0])

    def _are_observations(self, method: str, observations: Mapping[Any, Any]) -> bool:
        """Whether all are of known agents; notes those that break their spaces."""
        for agent, value in observations.items():
            if str(agent) not in self._spaces:
                rule = f"expected agents of possible_agents: {', '.join(self._spaces)}"
                self._findings.note("agent", method, f"returned an observation of {agent!r}; {rule}")
                return False
            problem = observation_problem(self._spaces[str(agent)][0], value)
            if problem:
                self._findings.note(f"observation of {agent}", method, f"returned, for {agent}, {problem}")
        return True
