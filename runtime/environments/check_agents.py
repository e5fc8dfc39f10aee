"""Finds what an environment of several agents does that training cannot use, with random actions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from runtime.environments.agents import ALL, JointEnv
from runtime.environments.faults import describe_fault, find_method, own_class
from runtime.environments.returned import describe_kind, is_finite_number, observation_problem
from runtime.errors import Problems


def check_agents(env: JointEnv, problems: Problems, *, steps: int, seed: int) -> dict[str, str]:
    """Takes random steps, and adds the first problem of each kind, with file and line.

    Args:
        env: The environment.
        problems: Receives the problems.
        steps: How many steps to take.
        seed: Seed of the actions.

    Returns:
        What was seen, by name, to be printed.
    """
    check = _Check(env, problems)
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

    def __init__(self, env: JointEnv, problems: Problems) -> None:
        self._env = env.agents_env
        self._spaces = env.raw_spaces
        self._actions: Any = env.action_space
        self._owner = own_class(env)
        self._problems = problems
        self._found: set[str] = set()

    def take(self, steps: int) -> int:
        """Takes random steps until one is impossible; returns how many episodes ended."""
        episodes = 0
        observed: Mapping[Any, Any] | None = None
        for step in range(1, steps + 1):
            if observed is None and (observed := self._reset()) is None:
                break
            actions = {agent: self._actions[str(agent)].sample() for agent in observed}
            try:
                result = self._env.step(actions)
            except Exception as error:
                self._raised(error, f"at step {step}, actions {actions!r}")
                break
            if not self._is_step(result):
                break
            observed = result[0]
            if self._has_ended(result):
                episodes += 1
                observed = None
        return episodes

    def _note(self, kind: str, method: str, problem: str) -> None:
        if kind not in self._found:
            self._found.add(kind)
            self._problems.add_line(f"{find_method(self._owner, method)} {problem}")

    def _raised(self, error: Exception, when: str) -> None:
        self._problems.add_line(f"{describe_fault(error, self._owner)} {when}")

    def _reset(self) -> Mapping[Any, Any] | None:
        try:
            result: Any = self._env.reset()
        except Exception as error:
            self._raised(error, "at reset() without a seed")
            return None
        if not (isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, Mapping) for part in result)):
            self._note("reset", "reset", f"returned {describe_kind(result)}; expected (observations, infos), two dicts")
            return None
        observations: Mapping[Any, Any] = result[0]
        return observations if self._are_observations("reset", observations) else None

    def _is_step(self, result: Any) -> bool:
        if not (isinstance(result, tuple) and len(result) == 5 and all(isinstance(part, Mapping) for part in result)):
            rule = "expected five dicts by agent: observations, rewards, terminated, truncated, infos"
            self._note("step", "step", f"returned {describe_kind(result)}; {rule}")
            return False
        for agent, reward in result[1].items():
            if not is_finite_number(reward):
                self._note("reward", "step", f"returned the reward {reward!r} of {agent}; expected a finite number")
        return self._are_observations("step", result[0])

    def _are_observations(self, method: str, observations: Mapping[Any, Any]) -> bool:
        """Whether all are of known agents; notes those that break their spaces."""
        for agent, value in observations.items():
            if str(agent) not in self._spaces:
                rule = f"expected agents of possible_agents: {', '.join(self._spaces)}"
                self._note("agent", method, f"returned an observation of {agent!r}; {rule}")
                return False
            problem = observation_problem(self._spaces[str(agent)][0], value)
            if problem:
                self._note(f"observation of {agent}", method, f"returned, for {agent}, {problem}")
        return True

    def _has_ended(self, result: Any) -> bool:
        _, _, terminated, truncated, _ = result
        if terminated.get(ALL) or truncated.get(ALL):
            return True
        return not getattr(self._env, "agents", True) or not result[0]
