"""Unity ML-Agents scenes: a player process for each env runner, agents that come and go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from envs import UNITY_ID
from runtime.container.layout import Container, Layout
from runtime.environments.spec import EnvCreator, EnvSpec
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation, EvaluationResult
from runtime.interfaces.family import AfterIteration, PreparedEnv, ProbedEnv
from runtime.policies.spaces import Spaces
from runtime.ppo.settings import GENERAL
from runtime.settings.schema import JobConfig
from runtime.settings.types import Setting

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.algorithms.ppo import PPOConfig

# One player for each env runner, and images and rewards as they are.
_GENERAL: dict[str, object] = {
    **GENERAL,
    "config.num_envs_per_env_runner": 1,
    "config.minibatch_size": 256,
    "config.lr": 0.0003,
    "config.observation_filter": "NoFilter",
    "config.normalize_rewards": False,
    "config.model.free_log_std": False,
    "config.entropy_coeff": 0.005,
}


class UnityFamily:
    """The environment family of Unity ML-Agents scenes."""

    name = "unity"
    kind = "scene"
    algorithms: tuple[str, ...] = ("PPO",)
    defaults: Mapping[str, object] = {}
    evaluation_settings: Mapping[str, Setting] = {}
    action_spaces: tuple[type[gymnasium.Space[Any]], ...] = (
        gymnasium.spaces.Box,
        gymnasium.spaces.Discrete,
        gymnasium.spaces.MultiDiscrete,
        gymnasium.spaces.Tuple,
    )
    fallback_reason = f"{UNITY_ID} has an env runner of its own"
    uses_all_cores = False

    def general(self, named: Mapping[str, object]) -> Mapping[str, object]:
        """Returns PPO's usual settings, changed for players."""
        return _GENERAL

    def owns(self, env: str) -> bool:
        """Whether the environment is a Unity scene."""
        return env == UNITY_ID

    def implied_env(self, env_config: Mapping[str, Any]) -> str | None:
        """Returns the Unity environment, if the keyword arguments name a scene or a player's file."""
        return UNITY_ID if env_config.get("env_name") or "file_name" in env_config else None

    def plays(self, name: str) -> bool:
        """Returns True, as any name may be that of a scene or of a player's file."""
        return True

    def prepare(self, config: JobConfig, container: Container) -> PreparedEnv:
        """Finds or downloads the player."""
        from runtime.families.unity.preparation import prepare_scene  # imports NumPy

        return prepare_scene(config, container)

    def describe_env(self, prepared: PreparedEnv, creator: EnvCreator | None, layout: Layout) -> EnvSpec:
        """Describes the scene without opening it, as the threads of its server do not survive Ray's forks."""
        config, settings = prepared.config, prepared.env_config
        defaults = {
            "log_folder": str((layout.intermediate / "unity").absolute()),
            "seed": config.algorithm.drawn_seed(),
        }
        horizon = config.algorithm.horizon
        return EnvSpec(config.env_id, {**defaults, **settings}, horizon, creator, "seed" not in settings)

    @contextmanager
    def open_spaces(self, config: JobConfig, env: EnvSpec) -> Iterator[ProbedEnv]:
        """Opens the scene; the env runner of this process continues with the same players."""
        from runtime.families.unity.ppo_settings import no_video_reason  # imports ray
        from runtime.families.unity.scene import close_probed_scene, count_players, probe_scene

        scene = probe_scene(env.config, players=count_players(config))
        try:
            spaces = Spaces(scene.single_observation_space, scene.single_action_space)
            yield ProbedEnv(spaces, no_video_reason(scene))
        finally:
            close_probed_scene()  # env runners in processes of their own have started other players

    def configure_ppo(self, rllib: PPOConfig, config: JobConfig, env: EnvSpec) -> dict[str, Any]:
        """Sets the scene's env runner, and a network that fits its sensors."""
        from runtime.families.unity.ppo_settings import configure_ppo  # imports ray

        return configure_ppo(rllib, config, env)

    def configure_off_policy(self, rllib: AlgorithmConfig) -> None:
        """Changes nothing, as PPO alone trains in scenes."""

    def callbacks(self, config: JobConfig, env: EnvSpec, context: RunContext) -> AfterIteration | None:
        """Counts players that were restarted."""
        from runtime.families.unity.callbacks import PlayerFaults

        return PlayerFaults(context.reporter).after_iteration

    def evaluate(self, evaluation: Evaluation, context: RunContext) -> EvaluationResult:
        """Plays episodes with all agents of the scene."""
        from runtime.families.unity.evaluation import evaluate  # imports torch

        return evaluate(evaluation, context)

    def write_own_formats(self, checkpoint: Path, folder: Path) -> None:
        """Writes nothing, as the family has no formats of its own."""
