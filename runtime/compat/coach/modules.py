"""The modules of rl_coach, each with the names of the vocabulary that presets import from it."""

from __future__ import annotations

import importlib
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from runtime.compat.coach import vocabulary
from runtime.errors import suggest

ROOT = "rl_coach"
_TYPES = ("EmbedderScheme", "MiddlewareScheme", "Frameworks", "DistributedCoachSynchronizationType")
_PARAMETERS = ("AgentParameters", "AlgorithmParameters", "NetworkParameters", "TaskParameters")
# Module below rl_coach -> names.
MODULES: dict[str, tuple[str, ...]] = {
    "": (),
    "agents": (),
    "agents.actor_critic_agent": ("ActorCriticAgentParameters",),
    "agents.clipped_ppo_agent": ("ClippedPPOAgentParameters",),
    "agents.ddqn_agent": ("DDQNAgentParameters",),
    "agents.ddqn_bcq_agent": ("DDQNBCQAgentParameters", "KNNParameters", "NNImitationModelParameters"),
    "agents.dqn_agent": ("DQNAgentParameters",),
    "agents.policy_optimization_agent": ("PolicyGradientRescaler",),
    "architectures": (),
    "architectures.embedder_parameters": ("InputEmbedderParameters",),
    "architectures.head_parameters": (
        *("DuelingQHeadParameters", "QHeadParameters", "VHeadParameters", "PPOHeadParameters", "PolicyHeadParameters"),
    ),
    "architectures.layers": ("Conv2d", "Dense"),
    "architectures.middleware_parameters": ("FCMiddlewareParameters",),
    "base_parameters": (*_TYPES, *_PARAMETERS, "PresetValidationParameters", "VisualizationParameters"),
    "core_types": (
        *("EnvironmentEpisodes", "EnvironmentSteps", "Frames", "Time", "TrainingSteps"),
        *("CsvDataset", "GradientClippingMethod", "MaxDumpFilter", "RunPhase", "SelectedPhaseOnlyDumpFilter"),
    ),
    "environments": (),
    "environments.gym_environment": (
        *("GymEnvironmentParameters", "GymVectorEnvironment", "ObservationSpaceType", "mujoco_v2"),
    ),
    "exploration_policies": (),
    "exploration_policies.additive_noise": ("AdditiveNoiseParameters",),
    "exploration_policies.e_greedy": ("EGreedyParameters",),
    "filters": (),
    "filters.filter": ("InputFilter",),
    "filters.observation": (),
    "filters.observation.observation_normalization_filter": ("ObservationNormalizationFilter",),
    "filters.reward": (),
    "filters.reward.reward_rescale_filter": ("RewardRescaleFilter",),
    "graph_managers": (),
    "graph_managers.basic_rl_graph_manager": ("BasicRLGraphManager",),
    "graph_managers.batch_rl_graph_manager": ("BatchRLGraphManager",),
    "graph_managers.graph_manager": ("GraphManager", "ScheduleParameters", "SimpleSchedule"),
    "logger": ("experiment_path", "get_experiment_name", "get_experiment_path", "screen"),
    "memories": (),
    "memories.episodic": ("EpisodicExperienceReplayParameters",),
    "memories.episodic.episodic_experience_replay": ("EpisodicExperienceReplayParameters",),
    "memories.memory": ("MemoryGranularity",),
    "memories.non_episodic": (),
    "memories.non_episodic.experience_replay": ("ExperienceReplayParameters",),
    "schedules": ("ConstantSchedule", "LinearSchedule"),
    "spaces": ("DiscreteActionSpace", "RewardSpace", "SpacesDefinition", "StateSpace", "VectorObservationSpace"),
}
# Agents of Coach that nothing here takes the place of -> what to use.
_GONE = {
    "ddpg_agent": "rl.training.run=SAC trains the same environments",
    "td3_agent": "rl.training.run=SAC trains the same environments",
    "soft_actor_critic_agent": "rl.training.run=SAC trains the same environments",
    "rainbow_dqn_agent": "agents.ddqn_agent trains the same environments",
    "ppo_agent": "agents.clipped_ppo_agent trains the same environments",
    "policy_gradients_agent": "agents.clipped_ppo_agent trains the same environments",
}


def find(name: str) -> ModuleSpec:
    """Returns the spec of a module of rl_coach.

    Raises:
        ModuleNotFoundError: It is not one of those that presets of SageMaker's examples import.
    """
    below = name.removeprefix(ROOT).lstrip(".")
    if below not in MODULES:
        reason = _GONE.get(below.rpartition(".")[2], "docs/scripts-of-2020.md lists what there is")
        hint = "" if reason in _GONE.values() else suggest(name, _full_names())
        raise ModuleNotFoundError(f"{name}: not among the modules of rl_coach here; {reason}.{hint}", name=name)
    return ModuleSpec(name, _Loader(below), is_package=True)


def _full_names() -> list[str]:
    return [f"{ROOT}.{module}" for module in MODULES if module]


class _Loader(Loader):
    """Fills a module with its names of the vocabulary."""

    def __init__(self, below: str) -> None:
        self._below = below

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Creates a package, as every module may have ones below."""
        module = ModuleType(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Sets the names; any other one is an error that suggests a name."""
        names = MODULES[self._below]
        vars(module).update({name: getattr(vocabulary, name) for name in names}, __all__=list(names))

        def find_name(name: str) -> Any:
            inner = f"{self._below}.{name}".lstrip(".")
            if inner in MODULES:
                return importlib.import_module(f"{ROOT}.{inner}")
            if name.startswith("__"):
                raise AttributeError(name)
            places = [place for place, known in MODULES.items() if name in known]
            hint = f" It is in {ROOT}.{places[0]}." if places else suggest(name, _all_names())
            raise ImportError(
                f"{module.__name__}.{name}: not among the names of rl_coach here{'.' if hint else '; expected one of '}"
                f"{hint or ', '.join(names) or 'its modules'}",
                name=module.__name__,
            )

        module.__getattr__ = find_name  # type: ignore[method-assign]


def _all_names() -> set[str]:
    return {name for names in MODULES.values() for name in names}
