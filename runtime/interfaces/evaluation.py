"""What an evaluation is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import gymnasium

from runtime.artifacts.checkpoint import JobState
from runtime.environments.recording import Episode
from runtime.outputs.console import Summary
from runtime.policies.acting import ActingPolicy
from runtime.settings.schema import EvaluationSettings


class PolicyLoader(Protocol):
    """What an evaluation needs of the algorithm that trained a policy."""

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


@dataclass(frozen=True)
class Evaluation:
    """A policy to evaluate.

    Attributes:
        checkpoint: Its folder.
        state: The job's state in it.
        algorithm: That trained it.
        place: What the user named: results folder, model directory or archive.
        settings: Of the evaluation.
        family_settings: Those that only one family takes, by name.
        env_config: Keyword arguments of the environment that the user set.
        training_settings: Other settings of a training that the user set, which an evaluation ignores.
        is_foreign: Whether the model may be a stranger's: an archive that the job's own channels do not hold.
    """

    checkpoint: Path
    state: JobState
    algorithm: PolicyLoader
    place: Path
    settings: EvaluationSettings
    family_settings: Mapping[str, Any] = field(default_factory=dict)
    env_config: Mapping[str, Any] = field(default_factory=dict)
    training_settings: tuple[str, ...] = ()
    is_foreign: bool = False

    @property
    def env(self) -> str:
        """The environment to play; empty where neither the user nor the model names one."""
        return self.settings.env or self.state.env


@dataclass(frozen=True)
class EvaluationResult:
    """How a policy played.

    Attributes:
        report: The content of evaluation.json.
        summary: The last screen.
    """

    report: Mapping[str, Any]
    summary: Summary
