"""PPO as a job runs it: its settings, its training from end to end, and its policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from runtime.artifacts.checkpoint import JobState
from runtime.container.imports import importing
from runtime.environments.recording import Episode
from runtime.interfaces.algorithm import Training
from runtime.interfaces.context import RunContext
from runtime.outputs.console import Summary
from runtime.policies.acting import ActingPolicy
from runtime.ppo import rules
from runtime.ppo.settings import PPOSettings
from runtime.settings.catalog import Draft
from runtime.settings.schema import StopCriteria

if TYPE_CHECKING:
    pass


class PPO:
    """The PPO algorithm of a job, on RLlib."""

    names = ("PPO",)
    settings = PPOSettings
    stop_criteria = tuple(StopCriteria.settings())
    inputs: tuple[str, ...] = ()
    general: Mapping[str, object] = {}
    chooses_preset = True
    takes_family_settings = True
    uses_cluster = True
    acts_in_environment = True

    def complete(self, draft: Draft) -> None:
        """Sets PPO's own defaults, and checks the rules between its settings."""
        rules.complete(draft)

    def train(self, training: Training, context: RunContext) -> Summary:
        """Trains, over all hosts, until a stop criterion is met or a stop is requested."""
        from runtime.cluster.session import prepare_environment

        prepare_environment()
        with importing():  # torch and RLlib, after their environment variables are set
            from runtime.ppo.rllib_config import PPOBuilder
            from runtime.rllib.job import train

        return train(training, context, PPOBuilder())

    def load_policy(
        self, checkpoint: Path, action_space: gymnasium.Space[Any], state: JobState, *, trust: bool
    ) -> ActingPolicy:
        """Loads the policy of a checkpoint; Ray need not run."""
        with importing():  # torch and RLlib
            from runtime.artifacts.policy_file import read_policy

        return read_policy(checkpoint, action_space, settings=state.policy, trust=trust)

    def describe_actions(self, action_space: gymnasium.Space[Any]) -> str:
        """Describes the space as text, bounds included."""
        return str(action_space)

    def episode_lines(self, number: int, episode: Episode) -> list[str]:
        """None."""
        return []
