"""DeepRacer: cars that drive by camera, in rollouts of whole episodes, with the records that its tools read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from envs import DEEPRACER_ID
from runtime.container.layout import Container, Layout
from runtime.environments.spec import EnvCreator, EnvSpec
from runtime.families.deepracer.race_settings import RACE_EVALUATION
from runtime.families.plain.family import PlainFamily
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation, EvaluationResult
from runtime.interfaces.family import AfterIteration, PreparedEnv, ProbedEnv
from runtime.ppo.settings import GENERAL
from runtime.settings.schema import JobConfig
from runtime.settings.types import Setting

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.algorithms.ppo import PPOConfig

    from runtime.families.deepracer.callbacks import RecordSettings


class DeepRacerFamily:
    """The DeepRacer environment family.

    Args:
        records: Settings of a training's records; the defaults if None.
    """

    name = "deepracer"
    kind = "environment"
    algorithms: tuple[str, ...] = ("PPO", "SAC")
    # The original's; PPO's own minibatch is 128 steps.
    defaults: Mapping[str, object] = {"config.minibatch_size": 64}
    evaluation_settings: Mapping[str, Setting] = RACE_EVALUATION
    action_spaces: tuple[type[gymnasium.Space[Any]], ...] = PlainFamily.action_spaces
    fallback_reason = f"{DEEPRACER_ID} has an env runner and a learner of its own"
    uses_all_cores = True  # a camera's convolutions are large enough

    def __init__(self, records: RecordSettings | None = None) -> None:
        self._records = records

    def general(self, named: Mapping[str, object]) -> Mapping[str, object]:
        """Returns PPO's usual settings."""
        return GENERAL

    def owns(self, env: str) -> bool:
        """Whether the environment is DeepRacer's."""
        return env == DEEPRACER_ID

    def implied_env(self, env_config: Mapping[str, Any]) -> str | None:
        """Returns None: keyword arguments do not imply a DeepRacer environment."""
        return None

    def plays(self, name: str) -> bool:
        """Whether the environment is DeepRacer's."""
        return self.owns(name)

    def prepare(self, config: JobConfig, container: Container) -> PreparedEnv:
        """Finds the track, the reward function and the car's metadata, and checks them."""
        from runtime.families.deepracer.preparation import prepare_cars

        prepared = prepare_cars(config, container)
        return PreparedEnv(prepared, prepared.algorithm.env_config)

    def describe_env(self, prepared: PreparedEnv, creator: EnvCreator | None, layout: Layout) -> EnvSpec:
        """Describes the cars and their track."""
        return PlainFamily().describe_env(prepared, creator, layout)

    @contextmanager
    def open_spaces(self, config: JobConfig, env: EnvSpec) -> Iterator[ProbedEnv]:
        """Makes one car and closes it again."""
        with PlainFamily().open_spaces(config, env) as probed:
            yield probed

    def configure_ppo(self, rllib: PPOConfig, config: JobConfig, env: EnvSpec) -> dict[str, Any]:
        """Sets DeepRacer's env runner and learner, and rollouts counted in episodes."""
        from runtime.families.deepracer.ppo_settings import configure_ppo  # imports ray

        return configure_ppo(rllib, config, env)

    def configure_off_policy(self, rllib: AlgorithmConfig) -> None:
        """Sets the env runner that keeps the cars' traces."""
        from runtime.families.deepracer.tracing_runner import TracingRunner  # imports ray

        rllib.env_runners(env_runner_cls=TracingRunner)

    def callbacks(self, config: JobConfig, env: EnvSpec, context: RunContext) -> AfterIteration | None:
        """Writes DeepRacer's records, and evaluates the car."""
        from runtime.families.deepracer.callbacks import RecordSettings, TrainingRecords  # imports torch
        from runtime.families.deepracer.hyperparameters import describe_hyperparameters

        records = self._records or RecordSettings(context.layout.deepracer)
        records = replace(records, hyperparameters=describe_hyperparameters(config))
        seed = config.algorithm.drawn_seed()
        return TrainingRecords(records, env, context.reporter, seed=seed).after_iteration

    def evaluate(self, evaluation: Evaluation, context: RunContext) -> EvaluationResult:
        """Laps against the clock, alone or against another model."""
        from runtime.families.deepracer.evaluation import evaluate  # imports torch

        return evaluate(evaluation, context)

    def write_own_formats(self, checkpoint: Path, folder: Path) -> None:
        """Writes `agent/model.pb`, which physical cars run."""
        from runtime.families.deepracer.car_archive import write_agent_model  # imports torch

        write_agent_model(checkpoint, folder)
