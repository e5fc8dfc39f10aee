"""What every algorithm implements: PPO, and learning from logged data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium

from runtime.artifacts.checkpoint import JobState
from runtime.environments.spec import EnvCreator
from runtime.interfaces.context import RunContext
from runtime.interfaces.family import EnvFamily, PreparedEnv
from runtime.outputs.console import Summary
from runtime.outputs.video import Episode
from runtime.policies.acting import ActingPolicy
from runtime.settings.catalog import AlgorithmRules

FindCreator = Callable[[str], EnvCreator | None]


@dataclass(frozen=True)
class Training:
    """What an algorithm trains.

    Attributes:
        prepared: The job's settings, and those of the environment on this machine.
        family: The environment's family.
        creator: A launcher's function that makes the environment, or None.
    """

    prepared: PreparedEnv
    family: EnvFamily
    creator: EnvCreator | None = None


class Algorithm(AlgorithmRules, Protocol):
    """An algorithm: its settings (AlgorithmRules), how it trains, and how its policies are loaded.

    Attributes:
        uses_cluster: Whether it spreads over several hosts.
        acts_in_environment: Whether it learns by acting in an environment; else it learns from logged data, and an
            environment is only where its policies are evaluated.
    """

    @property
    def uses_cluster(self) -> bool: ...  # noqa: D102  # the class's docstring says it
    @property
    def acts_in_environment(self) -> bool: ...  # noqa: D102

    def train(self, training: Training, context: RunContext) -> Summary:
        """Trains until a stop criterion is met or a stop is requested, and writes everything about it.

        Raises:
            UserError: The environment, the data or the checkpoint is at fault.
            PlatformError: The machine is.
            Interrupted: A stop was requested before there was anything to save.
        """

    def load_policy(
        self, checkpoint: Path, action_space: gymnasium.Space[Any], state: JobState, *, trust: bool
    ) -> ActingPolicy:
        """The policy of a checkpoint, ready to act.

        Args:
            checkpoint: Its folder.
            action_space: The environment's.
            state: The job's state in that checkpoint.
            trust: Whether pickles in it may be read.

        Raises:
            UserError: The checkpoint holds no policy that can be read.
        """

    def describe_actions(self, action_space: gymnasium.Space[Any]) -> str:
        """An action space as the algorithm's checkpoints name it."""

    def episode_lines(self, number: int, episode: Episode) -> list[str]:
        """Lines of the log for an evaluation's episode, beside the one that all algorithms have."""
