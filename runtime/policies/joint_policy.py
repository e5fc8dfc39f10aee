"""The policies of several agents together: each agent acts by its own policy, several of them perhaps by the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from runtime.policies.acting import ActingPolicy
from runtime.policies.policy import Policy


class JointPolicy:
    """Acts for all agents of an environment.

    Args:
        policies: By agent; agents of one policy share its network, and each has its own state of a recurrent one.
    """

    takes_masks = False

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self._policies = policies

    def reset(self) -> None:
        """Starts an episode."""
        for policy in self._policies.values():
            policy.reset()

    def act(self, observation: Mapping[str, Any], *, mask: Any = None) -> dict[str, Any]:
        """Returns the action of each agent that is observed, in the environment's units.

        Args:
            observation: One observation for each agent that acts now, as a row of numbers or an image.
            mask: Unused, as these policies take none.
        """
        return {agent: self._policies[agent].act(seen) for agent, seen in observation.items()}


def policy_of(algorithm: Any, action_space: gymnasium.Space[Any]) -> ActingPolicy:
    """Returns the policy of a running algorithm, or those of all its agents together, sharing its networks.

    Args:
        algorithm: RLlib's.
        action_space: The environment's; by agent where there are several.
    """
    if not algorithm.config.is_multi_agent:
        return Policy.of_algorithm(algorithm, action_space)
    assert isinstance(action_space, gymnasium.spaces.Dict)
    config = algorithm.config
    return JointPolicy(
        {
            agent: Policy(
                algorithm.get_module(config.policy_mapping_fn(agent, None)),
                space,
                observation_filter=None,
                normalize_actions=config.normalize_actions,
                clip_actions=config.clip_actions,
            )
            for agent, space in action_space.spaces.items()
        }
    )
