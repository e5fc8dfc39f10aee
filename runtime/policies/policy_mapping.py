"""Which policy acts for which agent, by how the agent's name begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PolicyMapping:
    """Maps an agent to the policy of the longest prefix that its name begins with.

    Attributes:
        prefixes: Beginning of agents' names to policy; the empty one fits every agent.
    """

    prefixes: Mapping[str, str]

    def find(self, agent: str) -> str | None:
        """Returns the policy of an agent; None if no prefix fits."""
        fitting = [prefix for prefix in self.prefixes if agent.startswith(prefix)]
        return self.prefixes[max(fitting, key=len)] if fitting else None

    def __call__(self, agent: Any, *args: Any, **kwargs: Any) -> str:
        """Returns the policy of an agent; called by RLlib, for agents that were checked to have one."""
        policy = self.find(str(agent))
        assert policy is not None
        return policy

    def group(self, agents: Iterable[str]) -> dict[str, list[str]]:
        """Returns the agents of each policy that has any."""
        found: dict[str, list[str]] = {}
        for agent in agents:
            policy = self.find(agent)
            if policy is not None:
                found.setdefault(policy, []).append(agent)
        return found
