"""The interface of environment families: plain environments, DeepRacer, Unity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium

from runtime.artifacts.checkpoint import JobState
from runtime.container.layout import Container, Layout
from runtime.environments.spec import EnvCreator, EnvSpec
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation, EvaluationResult
from runtime.policies.spaces import Spaces
from runtime.settings.catalog import FamilyRules
from runtime.settings.schema import JobConfig

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.algorithms.ppo import PPOConfig

# Called after each iteration with RLlib's algorithm, its result and the job's counters; returns more metrics.
AfterIteration = Callable[[Any, Mapping[str, Any], JobState], Mapping[str, float]]


@dataclass(frozen=True)
class PreparedEnv:
    """A job's settings after its environment's files were found and checked.

    Attributes:
        config: Settings of the job, without paths of this machine.
        env_config: Keyword arguments of the environment on this machine.
    """

    config: JobConfig
    env_config: Mapping[str, Any]


@dataclass(frozen=True)
class ProbedEnv:
    """Properties of an environment that opening it once has shown.

    Attributes:
        spaces: Observation and action space of its policy.
        no_video_reason: Reason why no video can be recorded, if that is known in advance.
    """

    spaces: Spaces
    no_video_reason: str | None = None


class EnvFamily(FamilyRules, Protocol):
    """A family of environments: its settings (FamilyRules), and what training and evaluating in it take.

    Attributes:
        name: Name of the family, and of its state in a checkpoint.
        action_spaces: Types of action space that PPO learns in it.
        fallback_reason: Why PPO samples in it without the compiled path; None where that covers it.
        uses_all_cores: Whether its networks are large enough for all cores of the main process.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  # the class's docstring says it
    @property
    def action_spaces(self) -> tuple[type[gymnasium.Space[Any]], ...]: ...  # noqa: D102
    @property
    def fallback_reason(self) -> str | None: ...  # noqa: D102
    @property
    def uses_all_cores(self) -> bool: ...  # noqa: D102

    def plays(self, name: str) -> bool:
        """Whether an evaluation may name it for a policy of this family: as an environment, or as one of its scenes."""

    def prepare(self, config: JobConfig, container: Container) -> PreparedEnv:
        """Finds and checks the environment's files before anything heavy starts.

        Raises:
            UserError: They do not fit, or a setting has no effect here; all problems are listed.
        """

    def describe_env(self, prepared: PreparedEnv, creator: EnvCreator | None, layout: Layout) -> EnvSpec:
        """Describes how to make the job's environment, without opening it."""

    def open_spaces(self, config: JobConfig, env: EnvSpec) -> AbstractContextManager[ProbedEnv]:
        """Opens the environment to read its spaces; one that is slow to start stays open for the block.

        Raises:
            UserError: The environment cannot be made.
        """

    def configure_ppo(self, rllib: PPOConfig, config: JobConfig, env: EnvSpec) -> dict[str, Any]:
        """Changes RLlib's config for the family, and returns the settings of the network."""

    def configure_off_policy(self, rllib: AlgorithmConfig) -> None:
        """Changes RLlib's config of DQN, SAC, IMPALA or APPO for the family."""

    def callbacks(self, config: JobConfig, env: EnvSpec, context: RunContext) -> AfterIteration | None:
        """Returns the function to call after each iteration, if the family has one."""

    def evaluate(self, evaluation: Evaluation, context: RunContext) -> EvaluationResult:
        """Runs episodes with a policy, prints a line for each, and records a video.

        Raises:
            UserError: A setting, the model or the environment is invalid.
            PlatformError: A file could not be written, or the machine failed.
            Interrupted: A stop was requested before an episode ended.
        """

    def write_own_formats(self, checkpoint: Path, folder: Path) -> None:
        """Exports a policy in the formats that only this family's users read.

        Args:
            checkpoint: The policy's checkpoint.
            folder: The model directory.

        Raises:
            UserError: The policy cannot be written so.
        """
