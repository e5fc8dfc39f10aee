"""The family of environments with several agents, whose policies PPO trains on RLlib's own multi-agent path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium

from runtime.container.layout import Container
from runtime.environments.adapting import is_image
from runtime.environments.agents import is_multi_agent
from runtime.environments.spec import EnvSpec, make_env
from runtime.errors import UserError
from runtime.families.plain.family import PlainFamily
from runtime.interfaces.context import RunContext
from runtime.interfaces.family import AfterIteration, PreparedEnv
from runtime.policies.policy_mapping import PolicyMapping
from runtime.settings.schema import JobConfig

if TYPE_CHECKING:
    from ray.rllib.algorithms.ppo import PPOConfig


class AgentsFamily(PlainFamily):
    """The environment family of several agents; it is played, recorded and evaluated as plain ones are."""

    name = "agents"
    kind = "environment of several agents"
    action_spaces: tuple[type[gymnasium.Space[Any]], ...] = (gymnasium.spaces.Dict,)
    fallback_reason = "several agents act"

    def general(self, named: Mapping[str, object]) -> Mapping[str, object]:
        """Returns those of one agent, without an observation filter."""
        return {**super().general(named), "config.observation_filter": "NoFilter"}

    def owns(self, env: str) -> bool:
        """Whether an environment has several agents; one whose module is not imported yet counts as plain."""
        return is_multi_agent(env)

    def prepare(self, config: JobConfig, container: Container) -> PreparedEnv:
        """Opens the environment, checks that each agent has a policy, and completes the mapping."""
        from runtime.families.agents.preparation import prepare_policies  # imports NumPy

        return PreparedEnv(prepare_policies(config), config.algorithm.env_config)

    def configure_ppo(self, rllib: PPOConfig, config: JobConfig, env: EnvSpec) -> dict[str, Any]:
        """Sets RLlib's multi-agent path: its env runner, the policies with their spaces, and who acts by which."""
        from ray.rllib.policy.policy import PolicySpec
        from ray.tune.registry import register_env

        from runtime.rllib.agents_env import AgentsEnvMaker, AgentsReports
        from runtime.rllib.env_runner import AgentsRunner
        from runtime.rllib.images import find_pixel_scale, fit_images

        register_env(_ENV, AgentsEnvMaker(env))
        rllib.environment(_ENV, env_config=dict(env.config), disable_env_checking=True)
        mapping = PolicyMapping(config.policy_mapping or {})
        joint = make_env(env)
        observations: Any = joint.observation_space
        actions: Any = joint.action_space
        joint.close()
        groups = mapping.group(observations.spaces)
        images = [space for agents in groups.values() if is_image(space := observations[agents[0]])]
        for space in images:  # settings of convolutions, which a policy without images leaves aside
            config, _ = fit_images(config, space)
        scales = {find_pixel_scale(space) for space in images}
        if len(scales) > 1:
            raise UserError(
                f"environment {env.name}: got images of the ranges {', '.join(map(_describe_range, images))}; expected "
                "one range for all policies, as they share the network's settings. Scale the images."
            )
        policies = {
            policy: PolicySpec(None, observations[agents[0]], actions[agents[0]], {})
            for policy, agents in groups.items()
        }
        rllib.multi_agent(policies=policies, policy_mapping_fn=mapping)
        rllib.env_runners(env_runner_cls=AgentsRunner)
        rllib.callbacks(AgentsReports)
        return {**config.algorithm.model.given(), **({"pixel_scale": scales.pop()} if scales else {})}

    def callbacks(self, config: JobConfig, env: EnvSpec, context: RunContext) -> AfterIteration | None:
        """Reports the mean return of each policy's agents."""
        from runtime.families.agents.callbacks import PolicyReturns

        return PolicyReturns(config).after_iteration


def _describe_range(images: Any) -> str:
    return f"{images.low.min():g} to {images.high.max():g}"


_ENV = "smrl-agents"
