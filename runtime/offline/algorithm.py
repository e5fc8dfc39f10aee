"""Learning from logged data as a job runs it: its settings, its training from end to end, and its policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

from runtime.artifacts.checkpoint import JobState
from runtime.container.imports import importing
from runtime.environments.recording import Episode
from runtime.interfaces.algorithm import Training
from runtime.interfaces.context import RunContext
from runtime.offline import rules
from runtime.offline.settings import ALGORITHMS, STOP_CRITERIA, TRAINING_ITERATIONS, OfflineSettings
from runtime.outputs.console import Summary
from runtime.policies.acting import ActingPolicy
from runtime.settings.catalog import Draft


class OfflineLearning:
    """The offline RL algorithm of a job: BCQ, DDQN, CQL, TD3+BC, IQL, BC or MARWIL, trained with d3rlpy."""

    names = ALGORITHMS
    settings = OfflineSettings
    stop_criteria = STOP_CRITERIA
    inputs = ("data",)
    general: Mapping[str, object] = {"stop.training_iteration": TRAINING_ITERATIONS}
    chooses_preset = False
    takes_family_settings = False
    uses_cluster = False
    acts_in_environment = False

    def complete(self, draft: Draft) -> None:
        """Sets the defaults for any log, and checks the rules between the settings."""
        rules.complete(draft)

    def train(self, training: Training, context: RunContext) -> Summary:
        """Learns from the log, evaluates every iteration on held-out episodes, and writes the chosen one."""
        context.reporter.show_phase("importing")
        with importing():  # torch and d3rlpy
            from runtime.offline.log_job import learn_from_log

        return learn_from_log(training.prepared.config, context, training.creator)

    def load_policy(
        self, checkpoint: Path, action_space: gymnasium.Space[Any], state: JobState, *, trust: bool
    ) -> ActingPolicy:
        """Loads the policy that was selected in a checkpoint."""
        from runtime.policies.network_policy import FILE, NetworkPolicy  # imports torch

        return NetworkPolicy.load(checkpoint / FILE)

    def describe_actions(self, action_space: gymnasium.Space[Any]) -> str:
        """Describes the space as text; a log does not know the bounds of continuous actions."""
        return f"Box{action_space.shape}" if isinstance(action_space, gymnasium.spaces.Box) else str(action_space)

    def episode_lines(self, number: int, episode: Episode) -> list[str]:
        """Formats an evaluation episode as Coach logged it, for SageMaker's metric definitions for Coach."""
        return [
            f"Testing> Name=main_level/agent, Worker=0, Episode={number}, "
            f"Total reward={episode.total_reward}, Exploration=0, Steps={episode.steps}"
        ]
