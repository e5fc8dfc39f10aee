"""Builds DQN, SAC, IMPALA and APPO, which RLlib's own env runners and learners train: one row of a table for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import threadpoolctl
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPO, APPOConfig
from ray.rllib.algorithms.dqn import DQN, DQNConfig
from ray.rllib.algorithms.impala import IMPALA, IMPALAConfig
from ray.rllib.algorithms.sac import SAC, SACConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env

from runtime.cluster.machines import Machines
from runtime.environments.adapting import is_image
from runtime.environments.spec import EnvSpec
from runtime.errors import UserError
from runtime.interfaces.family import EnvFamily
from runtime.policies.ppo_module import APPOModule, PPOModule
from runtime.policies.q_module import QModule
from runtime.policies.rllib_filter import make_filter
from runtime.policies.sac_module import SACModule
from runtime.policies.spaces import Spaces
from runtime.rllib.algorithm_settings import ReplaySettings, SACSettings
from runtime.rllib.column_replay import ColumnReplay
from runtime.rllib.env_maker import EnvMaker
from runtime.rllib.env_runner import Runner
from runtime.rllib.episodes import EpisodeReports
from runtime.rllib.faults import PROBE_TIMEOUT_S, FaultTolerance
from runtime.rllib.images import fit_images
from runtime.rllib.resources import fit_processes, most_runners
from runtime.rllib.sac_learner import SquaredErrorSACLearner
from runtime.rllib.seeds import without_dynamo
from runtime.rllib.settings import RLlibSettings
from runtime.settings.schema import JobConfig

_ENV = "smrl"
_POLL_S = 0.05  # how long a learner without a batch waits; RLlib's 0 takes the CPU from the env runners
_ACTIVATIONS = {"silu": "swish"}
# Settings that are not attributes of RLlib's config, or need more than an assignment.
_NOT_RLLIB = (
    *("num_env_runners", "observation_filter", "horizon", "train_batch_size", "seed", "env_config", "target_entropy"),
    *("buffer_size", "prioritized_replay", "prioritized_replay_alpha", "prioritized_replay_beta"),
    *("num_steps_sampled_before_learning_starts", "evaluation_episodes", "output"),
)


class FaultTolerantDQN(ColumnReplay, FaultTolerance, DQN):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's DQN, which keeps training while Ray restarts env runners that died."""


class FaultTolerantSAC(ColumnReplay, FaultTolerance, SAC):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's SAC, which keeps training while Ray restarts env runners that died."""


class FaultTolerantIMPALA(FaultTolerance, IMPALA):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's IMPALA, which keeps training while Ray restarts env runners that died."""


class FaultTolerantAPPO(FaultTolerance, APPO):  # type: ignore[misc]  # ray is not typed for strict mode
    """RLlib's APPO, which keeps training while Ray restarts env runners that died."""


def _replay(rllib: AlgorithmConfig, config: JobConfig, steps: int) -> None:
    """Configures the replay buffer, which starts empty, also in a job that resumes: learning waits until it has filled.

    RLlib counts the steps of the whole job, and would learn from the first few transitions.
    """
    settings = ReplaySettings.of(config)
    kind = "PrioritizedEpisodeReplayBuffer" if settings.prioritized_replay else "EpisodeReplayBuffer"
    buffer: dict[str, Any] = {"type": kind, "capacity": settings.buffer_size}
    if settings.prioritized_replay:
        buffer |= {"alpha": settings.prioritized_replay_alpha, "beta": settings.prioritized_replay_beta}
    rllib.training(
        replay_buffer_config=buffer,
        num_steps_sampled_before_learning_starts=steps + settings.num_steps_sampled_before_learning_starts,
    )
    if isinstance(settings, SACSettings):
        rllib.training(learner_class=SquaredErrorSACLearner)
        if settings.target_entropy is not None:
            rllib.training(target_entropy=settings.target_entropy)


def _v_trace(rllib: AlgorithmConfig, config: JobConfig, steps: int) -> None:
    """Has the learner send the weights to the env runners, as the process from which they would pull takes a CPU."""
    rllib.use_env_runner_state_server = False
    rllib.training(timeout_s_sampler_manager=_POLL_S)


@dataclasses.dataclass(frozen=True)
class _Row:
    """What differs between the algorithms.

    Attributes:
        algorithm: RLlib's algorithm, which survives the loss of env runners.
        config: Its config.
        module: Its network.
        action_spaces: Types of action space that it learns.
        configure: Sets what is neither a setting of the same name in RLlib nor a setting of every algorithm.
        is_asynchronous: Whether env runners sample while it learns; it takes Ray even where all is in one process.
        needs_bounds: Whether actions must be bounded.
        keeps_bytes: Whether its network takes images of bytes, as its replay buffer then stores them.
    """

    algorithm: type
    config: type[AlgorithmConfig]
    module: type
    action_spaces: tuple[type[gymnasium.Space[Any]], ...]
    configure: Callable[[AlgorithmConfig, JobConfig, int], None]
    is_asynchronous: bool = False
    needs_bounds: bool = False
    keeps_bytes: bool = False


_BOX, _DISCRETE = gymnasium.spaces.Box, gymnasium.spaces.Discrete
_ALGORITHMS = {
    "DQN": _Row(FaultTolerantDQN, DQNConfig, QModule, (_DISCRETE,), _replay),
    "SAC": _Row(FaultTolerantSAC, SACConfig, SACModule, (_BOX,), _replay, needs_bounds=True, keeps_bytes=True),
    "IMPALA": _Row(FaultTolerantIMPALA, IMPALAConfig, PPOModule, (_BOX, _DISCRETE), _v_trace, is_asynchronous=True),
    "APPO": _Row(FaultTolerantAPPO, APPOConfig, APPOModule, (_BOX, _DISCRETE), _v_trace, is_asynchronous=True),
}


class StockBuilder:
    """Builds an algorithm that samples and learns by RLlib's own code."""

    def needs_ray(self, config: JobConfig, env: EnvSpec, machines: Machines) -> bool:
        """Whether a job has env runners or learners in processes of their own, or an algorithm that takes Ray."""
        settings = RLlibSettings.of(config)
        has_processes = settings.num_learners > 0 or _count_env_runners(config, machines) > 0
        return machines.hosts > 1 or has_processes or _ALGORITHMS[config.run].is_asynchronous

    def env_bytes(self, env: EnvSpec) -> float:
        """Returns 0, as it is not known."""
        return 0.0

    def stored_bytes(self, config: JobConfig, spaces: Spaces) -> int:
        """Bytes of each number of an observation in the replay buffer: images as bytes, rows with each next row."""
        if is_image(spaces.observation):
            return 1 if _ALGORITHMS[config.run].keeps_bytes else 4
        replay = config.algorithm
        is_twice = isinstance(replay, ReplaySettings) and not replay.prioritized_replay and replay.n_step == 1
        return 8 if is_twice else 4

    def patience_s(self, config: JobConfig) -> float:
        """Returns the longest wait for an env runner where env runners sample while the learner learns."""
        return RLlibSettings.of(config).sample_timeout_s if _ALGORITHMS[config.run].is_asynchronous else 0.0

    def fit(
        self, config: JobConfig, family: EnvFamily, spaces: Spaces, machines: Machines
    ) -> tuple[JobConfig, list[str]]:
        """Checks the spaces, and fits the processes to the machine."""
        _check_spaces(config, spaces)
        config, about_images = fit_images(config, spaces.observation)
        changes, notes = fit_processes(config, machines)
        return config.replace(changes), [*about_images, *notes]

    def compiles(self, config: JobConfig, family: EnvFamily) -> bool:
        """Returns False, as RLlib's own code compiles nothing."""
        return False

    def build(self, config: JobConfig, env: EnvSpec, family: EnvFamily, machines: Machines, *, steps: int) -> Any:
        """Builds the algorithm."""
        if family.uses_all_cores and not _count_env_runners(config, machines):
            torch.set_num_threads(machines.own_cpus)
        else:  # networks are small, and a second thread waits for the first more than it helps
            torch.set_num_threads(1)
            threadpoolctl.threadpool_limits(1)
        with without_dynamo():
            return rllib_config(config, env, family, machines, steps=steps).build_algo()

    def describe_path(self, algorithm: Any, config: JobConfig, family: EnvFamily) -> str:
        """Describes in one line how a job samples and learns."""
        return f"{config.run}: sampling and learning by RLlib's own code"


def rllib_config(
    config: JobConfig, env: EnvSpec, family: EnvFamily, machines: Machines, *, steps: int = 0
) -> AlgorithmConfig:
    """Builds RLlib's config of a job.

    Args:
        config: The job's settings, fit to the machine.
        env: The job's environment.
        family: Its family.
        machines: CPUs and GPUs for sampling and learning.
        steps: Environment steps taken before this start.
    """
    row = _ALGORITHMS[config.run]
    settings = RLlibSettings.of(config)
    given = settings.given()
    register_env(_ENV, EnvMaker(env, keeps_bytes=row.keeps_bytes))
    rllib = row.config(algo_class=row.algorithm)
    rllib.environment(_ENV, env_config=dict(env.config), disable_env_checking=True)
    rllib.update_from_dict({name: value for name, value in given.items() if name not in _NOT_RLLIB})
    rllib.env_runners(env_runner_cls=Runner, num_env_runners=_count_env_runners(config, machines))
    rllib.learners(num_learners=settings.num_learners)
    if settings.observation_filter == "MeanStdFilter":
        rllib.env_runners(env_to_module_connector=make_filter)
    batch = getattr(settings, "train_batch_size")  # noqa: B009  # every algorithm has it, each with its own default
    rllib.training(train_batch_size_per_learner=max(1, batch // max(1, settings.num_learners)))
    rllib.callbacks(EpisodeReports)
    rllib.fault_tolerance(env_runner_health_probe_timeout_s=PROBE_TIMEOUT_S)
    rllib.debugging(seed=settings.seed, log_level="ERROR", log_sys_usage=False)
    row.configure(rllib, config, steps)
    family.configure_off_policy(rllib)
    model = {**rllib._model_config_auto_includes, **_describe_network(settings)}
    rllib.rl_module(rl_module_spec=RLModuleSpec(module_class=row.module, model_config=model))
    return rllib


def _describe_network(settings: RLlibSettings) -> dict[str, Any]:
    """RLlib's description of the network, from all settings of it, as their defaults may be the algorithm's own."""
    network = settings.model
    given = {name: getattr(network, name) for name in network.settings()}
    for name, value in given.items():
        if name.endswith("_activation"):
            given[name] = _ACTIVATIONS.get(value, value)
    return dataclasses.asdict(DefaultModelConfig(**given))


def _count_env_runners(config: JobConfig, machines: Machines) -> int:
    """Counts remote env runners: none on a single host where nothing else is asked for, else one a CPU."""
    settings = RLlibSettings.of(config)
    if settings.num_env_runners != "auto":
        return int(settings.num_env_runners)
    return most_runners(settings, machines) if machines.hosts > 1 else 0


def _check_spaces(config: JobConfig, spaces: Spaces) -> None:
    """Checks that the algorithm learns in the environment's spaces.

    Raises:
        UserError: It does not; the error lists the algorithms that do.
    """
    row, action = _ALGORITHMS[config.run], spaces.action
    where = f"rl.training.run: got {config.run!r} from {config.sources['run']} for the environment {config.env}"
    if not isinstance(action, row.action_spaces):
        kinds = " or ".join(kind.__name__ for kind in row.action_spaces)
        fitting = [name for name, other in _ALGORITHMS.items() if isinstance(action, other.action_spaces)]
        raise UserError(
            f"{where}, whose actions are {action}; expected {kinds} actions. "
            f"Set rl.training.run to one that learns these: {', '.join(['PPO', *fitting])}."
        )
    if np.any(getattr(action, "start", 0)):
        raise UserError(f"{where}, whose actions are {action}; expected ones that start at 0. Wrap the environment.")
    if row.needs_bounds and isinstance(action, _BOX) and not action.is_bounded():
        raise UserError(
            f"{where}, whose actions are {action}; expected bounded ones. Wrap the environment in "
            "gymnasium.wrappers.RescaleAction, or set rl.training.run=PPO."
        )
