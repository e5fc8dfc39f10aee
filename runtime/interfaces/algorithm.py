"""The interface of algorithms: PPO, the others of RLlib, and learning from logged data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runtime.environments.spec import EnvCreator
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import PolicyLoader
from runtime.interfaces.family import EnvFamily, PreparedEnv
from runtime.outputs.console import Summary
from runtime.settings.catalog import AlgorithmRules

FindCreator = Callable[[str], EnvCreator | None]


@dataclass(frozen=True)
class Training:
    """The inputs of a training.

    Attributes:
        prepared: The job's settings, and those of the environment on this machine.
        family: The environment's family.
        creator: A launcher's function that makes the environment, or None.
    """

    prepared: PreparedEnv
    family: EnvFamily
    creator: EnvCreator | None = None


class Algorithm(AlgorithmRules, PolicyLoader, Protocol):
    """An algorithm: its settings (AlgorithmRules), how it trains, and how its policies are loaded (PolicyLoader).

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
            UserError: The environment, the data or the checkpoint is invalid.
            PlatformError: A file could not be written, or the machine failed.
            Interrupted: A stop was requested before there was anything to save.
        """
