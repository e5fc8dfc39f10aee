"""The family of environments without special training code: Gymnasium's, Roboschool's, and the user's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.error import DependencyNotInstalled

from runtime.container.layout import Container, Layout
from runtime.environments.spec import EnvCreator, EnvSpec, make_env
from runtime.errors import JobError, UserError
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation, EvaluationResult
from runtime.interfaces.family import AfterIteration, PreparedEnv, ProbedEnv
from runtime.policies.spaces import Spaces
from runtime.ppo.settings import general_settings
from runtime.settings.schema import JobConfig
from runtime.settings.types import Setting

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.algorithms.ppo import PPOConfig

# The value of config.output that is the results' own folder, as RLlib had it, and the name of that.
IN_RESULTS = "logdir"
TRANSITIONS = "transitions"


class PlainFamily:
    """The environment family for everything that no other family owns."""

    name = "plain"
    kind = "environment"
    algorithms: tuple[str, ...] = ()
    defaults: Mapping[str, object] = {}
    evaluation_settings: Mapping[str, Setting] = {}
    action_spaces: tuple[type[gymnasium.Space[Any]], ...] = (
        gymnasium.spaces.Box,
        gymnasium.spaces.Discrete,
        gymnasium.spaces.MultiDiscrete,
    )
    fallback_reason: str | None = None
    uses_all_cores = False

    def general(self, named: Mapping[str, object]) -> Mapping[str, object]:
        """Returns PPO's usual settings, by the steps of the training and of the longest episode."""
        limits = [
            named.get("config.horizon"),
            getattr(gymnasium.registry.get(str(named["env"])), "max_episode_steps", None),
        ]
        known = [limit for limit in limits if isinstance(limit, int)]
        return general_settings(named.get("stop.timesteps_total"), min(known, default=None))

    def owns(self, env: str) -> bool:
        """Returns True for every environment; the other families of the catalog are tried first."""
        return True

    def implied_env(self, env_config: Mapping[str, Any]) -> str | None:
        """Returns None, as keyword arguments alone do not imply an environment."""
        return None

    def plays(self, name: str) -> bool:
        """Returns True for every environment."""
        return True

    def prepare(self, config: JobConfig, container: Container) -> PreparedEnv:
        """Returns the config unchanged, as there are no files to find.

        Raises:
            UserError: Settings of several agents are set.
        """
        if wrong := config.describe_policies():
            raise UserError("\n".join(wrong))
        return PreparedEnv(config, config.algorithm.env_config)

    def describe_env(self, prepared: PreparedEnv, creator: EnvCreator | None, layout: Layout) -> EnvSpec:
        """Describes the environment, truncated at the job's horizon, and where its transitions are logged."""
        config = prepared.config
        env = EnvSpec(config.env_id, prepared.env_config, config.algorithm.horizon, creator)
        folder = config.values().get("config.output")
        return replace(env, transitions_folder=str(layout.data / TRANSITIONS) if folder == IN_RESULTS else folder)

    @contextmanager
    def open_spaces(self, config: JobConfig, env: EnvSpec) -> Iterator[ProbedEnv]:
        """Opens the environment and closes it, as remote env runners make their own."""
        yield ProbedEnv(_read_spaces(env))

    def configure_ppo(self, rllib: PPOConfig, config: JobConfig, env: EnvSpec) -> dict[str, Any]:
        """Returns the network's settings, with a scale for the pixels of images that no filter standardizes."""
        from runtime.ppo.settings import PPOSettings
        from runtime.rllib.images import find_pixel_scale

        model = config.algorithm.model.given()
        if not model.get("conv_filters") or PPOSettings.of(config).observation_filter == "MeanStdFilter":
            return model
        return {**model, "pixel_scale": find_pixel_scale(_read_spaces(env).observation)}

    def configure_off_policy(self, rllib: AlgorithmConfig) -> None:
        """Changes nothing, as RLlib's own env runners step any environment."""

    def callbacks(self, config: JobConfig, env: EnvSpec, context: RunContext) -> AfterIteration | None:
        """Returns None, as the family needs no callbacks."""
        return None

    def evaluate(self, evaluation: Evaluation, context: RunContext) -> EvaluationResult:
        """Plays whole episodes one after the other; the first is recorded."""
        from runtime.families.plain.evaluation import evaluate  # imports torch

        return evaluate(evaluation, context)

    def write_own_formats(self, checkpoint: Path, folder: Path) -> None:
        """Writes nothing, as the family has no formats of its own."""


def _read_spaces(spec: EnvSpec) -> Spaces:
    try:
        env = make_env(spec)
        spaces = Spaces(env.observation_space, env.action_space)
        env.close()
    except JobError:
        raise
    except DependencyNotInstalled as error:
        raise UserError(f"environment {spec.name}: {error}.") from None
    except Exception as error:
        raise UserError(
            f"environment {spec.name}: could not be made with {dict(spec.config)}: {type(error).__name__}: {error}. "
            "Fix it, or rl.training.config.env_config."
        ) from error
    return spaces
