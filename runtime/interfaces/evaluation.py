"""The inputs and the result of an evaluation."""

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
    """Loads policies for an evaluation; every algorithm implements it."""

    def load_policy(
        self, checkpoint: Path, action_space: gymnasium.Space[Any], state: JobState, *, trust: bool
    ) -> ActingPolicy:
        """Loads the policy of a checkpoint, ready to act.

        Args:
            checkpoint: Folder of the checkpoint.
            action_space: Action space of the environment.
            state: State of the job in that checkpoint.
            trust: Whether pickles in the checkpoint may be read.

        Raises:
            UserError: The checkpoint holds no policy that can be read.
        """

    def describe_actions(self, action_space: gymnasium.Space[Any]) -> str:
        """Returns the text by which the algorithm's checkpoints name an action space."""

    def episode_lines(self, number: int, episode: Episode) -> list[str]:
        """Additional log lines for an episode of an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """A policy to evaluate.

    Attributes:
        checkpoint: Folder of the checkpoint.
        state: State of the training job in the checkpoint.
        algorithm: Algorithm that trained the policy.
        place: Path that the user named: results folder, model directory or archive.
        settings: Settings of the evaluation.
        family_settings: Settings that only one environment family takes, by name.
        env_config: Keyword arguments of the environment that the user set.
        training_settings: Other settings of a training that the user set, which an evaluation ignores.
        is_foreign: Whether the model is untrusted: an archive that is not in the job's own channels.
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
    """The result of an evaluation.

    Attributes:
        report: The content of evaluation.json.
        summary: Summary to print at the end.
    """

    report: Mapping[str, Any]
    summary: Summary
