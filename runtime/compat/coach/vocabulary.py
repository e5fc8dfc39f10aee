"""The parameters of rl_coach as plain data, with Coach's own names and defaults; nothing here computes.

A preset makes these objects and changes their attributes; `translation` reads them once.

Source: IntelLabs/coach 1.0, `rl_coach/base_parameters.py` and the parameter classes of its agents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from runtime.errors import UserError, suggest


def describe_names(name: str, known: Iterable[str]) -> str:
    """Returns what to write in place of an unknown name: the closest known one, or all."""
    names = sorted(known)
    hint = suggest(name, names)
    return f"a name that is there.{hint}" if hint else f"one of {', '.join(names) or 'no names'}."


class UnknownNameError(UserError, AttributeError):
    """A preset uses an attribute that Coach's class does not have."""


class Parameters:
    """Attributes that a constructor sets; assigning any other name is refused, as in Coach.

    Args:
        values: The attributes and their first values.
    """

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in vars(self) and sys._getframe(1).f_code.co_name != "__init__":  # of a preset's own subclass
            raise self._unknown(name, f"the value {value!r}")
        vars(self)[name] = value

    def __getattr__(self, name: str) -> Any:  # only for names that are not set
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._unknown(name, "no such attribute")

    def _unknown(self, name: str, got: str) -> UnknownNameError:
        known = [known for known in vars(self) if not known.startswith("_")]
        where = f"{type(self).__name__}.{name}"
        return UnknownNameError(f"{where}: got {got} from the preset; expected {describe_names(name, known)}")


class StepMethod:
    """A number of steps of some kind.

    Attributes:
        num_steps: The number, from 0.
    """

    def __init__(self, num_steps: int) -> None:
        try:
            self.num_steps = int(num_steps)
        except (TypeError, ValueError):
            self.num_steps = -1
        if self.num_steps < 0:
            raise UserError(f"{type(self).__name__}: got {num_steps!r}; expected a whole number from 0.")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), self.num_steps))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_steps})"


class Frames(StepMethod):
    """Frames of a video game."""


class EnvironmentSteps(StepMethod):
    """Environment steps."""


class EnvironmentEpisodes(StepMethod):
    """Whole episodes."""


class TrainingSteps(StepMethod):
    """Rounds of Coach's loop; an agent takes one environment step in each, and a batch agent none."""


class Time(StepMethod):
    """Seconds."""


STEP_METHODS: dict[str, type[StepMethod]] = {
    kind.__name__: kind for kind in (Frames, EnvironmentSteps, EnvironmentEpisodes, TrainingSteps, Time)
}


class RunPhase(Enum):
    """What a graph is doing."""

    HEATUP = "Heatup"
    TRAIN = "Training"
    TEST = "Testing"
    UNDEFINED = "Undefined"


class GradientClippingMethod(Enum):
    """What `clip_gradients` bounds."""

    ClipByGlobalNorm = 0
    ClipByNorm = 1
    ClipByValue = 2


class _Record(Parameters):
    """A value whose constructor's arguments are its attributes; equal where these are."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, vars(self).values()))})"


class CsvDataset(_Record):
    """A log of episodes in Coach's CSV format."""

    def __init__(self, filepath: str, is_episodic: bool = True) -> None:
        super().__init__(filepath=filepath, is_episodic=is_episodic)


class SelectedPhaseOnlyDumpFilter(_Record):
    """Records episodes of one phase."""

    def __init__(self, run_phases: Any) -> None:
        super().__init__(run_phases=run_phases)


class MaxDumpFilter(_Record):
    """Records an episode that is the best so far."""


class Frameworks(Enum):
    """Coach's libraries of networks."""

    tensorflow = "TensorFlow"
    mxnet = "MXNet"


class EmbedderScheme(Enum):
    """Networks for an input."""

    Empty = "Empty"
    Shallow = "Shallow"
    Medium = "Medium"
    Deep = "Deep"


class MiddlewareScheme(Enum):
    """Networks between the inputs and the heads."""

    Empty = "Empty"
    Shallow = "Shallow"
    Medium = "Medium"
    Deep = "Deep"


class DistributedCoachSynchronizationType(Enum):
    """When workers share their networks."""

    SYNC = "sync"
    ASYNC = "async"


class Dense(_Record):
    """A fully connected layer."""

    def __init__(self, units: int) -> None:
        super().__init__(units=units)


class Conv2d(_Record):
    """A convolution."""

    def __init__(self, num_filters: int, kernel_size: Any, strides: int) -> None:
        super().__init__(num_filters=num_filters, kernel_size=kernel_size, strides=strides)


class LinearSchedule(_Record):
    """A value that changes linearly with the steps."""

    def __init__(self, initial_value: float, final_value: float, decay_steps: int) -> None:
        super().__init__(initial_value=initial_value, final_value=final_value, decay_steps=decay_steps)


class ConstantSchedule(_Record):
    """A value that stays."""

    def __init__(self, initial_value: float) -> None:
        super().__init__(initial_value=initial_value)


class ObservationNormalizationFilter(_Record):
    """Observations less their running mean, over their running deviation."""

    def __init__(self, clip_min: float = -5.0, clip_max: float = 5.0, name: str = "observation_stats") -> None:
        super().__init__(clip_min=clip_min, clip_max=clip_max, name=name)


class RewardRescaleFilter(_Record):
    """Rewards times a factor."""

    def __init__(self, rescale_factor: float) -> None:
        super().__init__(rescale_factor=rescale_factor)


class InputFilter(Parameters):
    """Filters of observations and rewards, in order."""

    def __init__(
        self,
        observation_filters: dict[str, dict[str, Any]] | None = None,
        reward_filters: dict[str, Any] | None = None,
        is_a_reference_filter: bool = False,
    ) -> None:
        super().__init__(
            observation_filters=observation_filters or {},
            reward_filters=reward_filters or {},
            is_a_reference_filter=is_a_reference_filter,
        )

    def add_observation_filter(
        self, observation_name: str, filter_name: str, filter: Any, add_as_the_first_filter: bool = False
    ) -> None:
        """Adds a filter of one observation."""
        self.observation_filters.setdefault(observation_name, {})[filter_name] = filter

    def add_reward_filter(self, filter_name: str, filter: Any, add_as_the_first_filter: bool = False) -> None:
        """Adds a filter of rewards."""
        self.reward_filters[filter_name] = filter


class MemoryGranularity(Enum):
    """What a memory's size counts."""

    Transitions = 0
    Episodes = 1


class PolicyGradientRescaler(Enum):
    """What weighs the gradient of a policy."""

    TOTAL_RETURN = 0
    FUTURE_RETURN = 1
    FUTURE_RETURN_NORMALIZED_BY_EPISODE = 2
    FUTURE_RETURN_NORMALIZED_BY_TIMESTEP = 3
    Q_VALUE = 4
    A_VALUE = 5
    TD_RESIDUAL = 6
    DISCOUNTED_TD_RESIDUAL = 7
    GAE = 8


class ObservationSpaceType(Enum):
    """Kinds of observations."""

    Tensor = "Tensor"
    Image = "Image"
    Vector = "Vector"


class _Space(_Record):
    """A space of a log; the log's own columns say the same."""

    def __init__(self, *described: Any, **named: Any) -> None:
        super().__init__(described=described, named=named)


class DiscreteActionSpace(_Space):
    """Actions that are whole numbers."""


class RewardSpace(_Space):
    """Rewards."""


class StateSpace(_Space):
    """Observations by name."""


class VectorObservationSpace(_Space):
    """Observations that are rows of numbers."""


class SpacesDefinition(_Space):
    """The spaces of a log."""


class ScheduleParameters(Parameters):
    """How long to train and evaluate."""

    def __init__(self) -> None:
        super().__init__(
            heatup_steps=EnvironmentSteps(0),
            evaluation_steps=None,
            steps_between_evaluation_periods=None,
            improve_steps=None,
        )


class SimpleSchedule(ScheduleParameters):
    """A schedule with Coach's numbers."""

    def __init__(
        self,
        improve_steps: StepMethod | None = None,
        steps_between_evaluation_periods: StepMethod | None = None,
        evaluation_steps: StepMethod | None = None,
    ) -> None:
        super().__init__()
        self.improve_steps = improve_steps or TrainingSteps(10_000_000_000)
        self.steps_between_evaluation_periods = steps_between_evaluation_periods or EnvironmentEpisodes(50)
        self.evaluation_steps = evaluation_steps or EnvironmentEpisodes(5)


class VisualizationParameters(Parameters):
    """What to show and record."""

    def __init__(self, **given: Any) -> None:
        names = [
            *("print_networks_summary", "dump_gifs", "dump_mp4", "dump_in_episode_signals", "render"),
            *("native_rendering", "tensorboard", "add_rendered_image_to_env_response"),
        ]
        super().__init__(
            **dict.fromkeys(names, False),
            dump_csv=True,
            print_summary=True,
            dump_parameters_documentation=True,
            dump_signals_to_csv_every_x_episodes=5,
            max_fps_for_human_control=10,
            video_dump_methods=[],
            video_dump_filters=[],
        )
        for name, value in given.items():
            setattr(self, name, value)


class PresetValidationParameters(Parameters):
    """What Coach's own tests of a preset ask of it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(
            test=False,
            min_reward_threshold=0,
            max_episodes_to_achieve_reward=1,
            num_workers=1,
            reward_test_level=None,
            test_using_a_trace_test=True,
            trace_test_levels=None,
            trace_max_env_steps=5000,
        )
        for name, value in given.items():
            setattr(self, name, value)


class TaskParameters(Parameters):
    """Where a task runs."""

    def __init__(self, framework_type: Any = Frameworks.tensorflow, **given: Any) -> None:
        names = [
            *("task_index", "evaluate_only", "use_cpu", "experiment_path", "seed", "checkpoint_save_secs"),
            *("checkpoint_restore_dir", "checkpoint_restore_path", "checkpoint_save_dir", "export_onnx_graph"),
            *("apply_stop_condition", "num_gpu"),
        ]
        super().__init__(framework_type=framework_type, **dict.fromkeys(names))
        for name, value in given.items():
            setattr(self, name, value)


class InputEmbedderParameters(Parameters):
    """The network of one input."""

    def __init__(
        self, activation_function: str = "relu", scheme: Any = EmbedderScheme.Medium, batchnorm: bool = False
    ) -> None:
        names = ("dense_layer", "is_training", "input_rescaling", "input_offset", "input_clipping")
        super().__init__(
            activation_function=activation_function,
            scheme=scheme,
            batchnorm=batchnorm,
            dropout_rate=0.0,
            name="embedder",
            **dict.fromkeys(names),
        )


class FCMiddlewareParameters(Parameters):
    """The network between the inputs and the heads."""

    def __init__(self, activation_function: str = "relu", scheme: Any = MiddlewareScheme.Medium) -> None:
        super().__init__(
            activation_function=activation_function,
            scheme=scheme,
            batchnorm=False,
            dropout_rate=0.0,
            name="middleware_fc_embedder",
            dense_layer=None,
            is_training=False,
        )


class _HeadParameters(Parameters):
    def __init__(self, **given: Any) -> None:
        super().__init__(
            activation_function="relu",
            name="head",
            num_output_head_copies=1,
            rescale_gradient_from_head_by_factor=1.0,
            loss_weight=1.0,
            dense_layer=None,
        )
        for name, value in given.items():
            setattr(self, name, value)


class QHeadParameters(_HeadParameters):
    """The value of every action."""


class DuelingQHeadParameters(_HeadParameters):
    """The value of the state, and every action's advantage over it."""


class VHeadParameters(_HeadParameters):
    """The value of the state."""


class PolicyHeadParameters(_HeadParameters):
    """A policy's action distribution."""


class PPOHeadParameters(_HeadParameters):
    """PPO's action distribution."""


class NetworkParameters(Parameters):
    """A network and its optimizer."""

    def __init__(self, activation: str, middleware: Any, heads: list[Any], **given: Any) -> None:
        values: dict[str, Any] = {
            "framework": Frameworks.tensorflow,
            "force_cpu": False,
            "num_threads": 1,
            "async_training": False,
            "shared_optimizer": True,
            "scale_down_gradients_by_number_of_workers_for_sync_training": True,
            "clip_gradients": None,
            "gradients_clipping_method": GradientClippingMethod.ClipByGlobalNorm,
            "kl_divergence_constraint": None,
            "l2_regularization": 0,
            "learning_rate": 0.00025,
            "learning_rate_decay_rate": 0,
            "learning_rate_decay_steps": 0,
            "input_embedders_parameters": {"observation": InputEmbedderParameters(activation)},
            "embedding_merger_type": None,
            "middleware_parameters": FCMiddlewareParameters(activation, middleware),
            "heads_parameters": heads,
            "use_separate_networks_per_head": False,
            "optimizer_type": "Adam",
            "optimizer_epsilon": 0.0001,
            "adam_optimizer_beta1": 0.9,
            "adam_optimizer_beta2": 0.99,
            "rms_prop_optimizer_decay": 0.9,
            "batch_size": 32,
            "replace_mse_with_huber_loss": False,
            "create_target_network": False,
            "should_get_softmax_probabilities": True,
            "softmax_temperature": 1,
        }
        super().__init__(**{**values, **given})


class AlgorithmParameters(Parameters):
    """An algorithm's numbers."""

    def __init__(self, **given: Any) -> None:
        values: dict[str, Any] = {
            "num_consecutive_playing_steps": EnvironmentSteps(1),
            "num_consecutive_training_steps": 1,
            "heatup_using_network_decisions": False,
            "discount": 0.99,
            "apply_gradients_every_x_episodes": 5,
            "num_steps_between_copying_online_weights_to_target": TrainingSteps(0),
            "rate_for_copying_weights_to_target": 1.0,
            "load_memory_from_file_path": None,
            "store_transitions_only_when_episodes_are_terminated": False,
            "distributed_coach_synchronization_type": None,
            "act_for_full_episodes": False,
            "share_statistics_between_workers": True,
            "update_pre_network_filters_state_on_train": False,
            "update_pre_network_filters_state_on_inference": True,
        }
        super().__init__(**{**values, **given})


class MemoryParameters(Parameters):
    """A memory of transitions."""

    def __init__(self, size: int, granularity: MemoryGranularity = MemoryGranularity.Transitions) -> None:
        super().__init__(max_size=(granularity, size), load_memory_from_file_path=None, shared_memory=False, n_step=-1)


class ExperienceReplayParameters(MemoryParameters):
    """Transitions, replayed in any order."""

    def __init__(self) -> None:
        super().__init__(1_000_000)


class EpisodicExperienceReplayParameters(MemoryParameters):
    """Transitions in their episodes."""

    def __init__(self) -> None:
        super().__init__(1_000_000)


class EGreedyParameters(Parameters):
    """A share of uniform actions."""

    def __init__(self) -> None:
        super().__init__(
            epsilon_schedule=LinearSchedule(0.5, 0.01, 50000),
            evaluation_epsilon=0.05,
            continuous_exploration_policy_parameters=None,
        )


class AdditiveNoiseParameters(Parameters):
    """Noise added to actions."""

    def __init__(self) -> None:
        super().__init__(
            noise_schedule=LinearSchedule(0.1, 0.1, 50000),
            evaluation_noise=0.05,
            noise_as_percentage_from_action_space=True,
        )


class _OfThePolicy(Parameters):
    """Actions sampled from the policy itself."""


class AgentParameters(Parameters):
    """An agent: its algorithm, exploration, memory and networks."""

    def __init__(
        self,
        algorithm: AlgorithmParameters,
        exploration: Parameters,
        memory: MemoryParameters,
        network: NetworkParameters,
    ) -> None:
        super().__init__(
            algorithm=algorithm,
            exploration=exploration,
            memory=memory,
            network_wrappers={"main": network},
            visualization=VisualizationParameters(),
            input_filter=InputFilter(),
            output_filter=None,
            pre_network_filter=InputFilter(),
            full_name_id=None,
            name="agent",
            is_batch_rl_training=False,
            task_parameters=None,
        )


class ClippedPPOAgentParameters(AgentParameters):
    """PPO with a clipped ratio."""

    def __init__(self) -> None:
        algorithm = AlgorithmParameters(
            num_episodes_in_experience_replay=1_000_000,
            policy_gradient_rescaler=PolicyGradientRescaler.GAE,
            gae_lambda=0.95,
            use_kl_regularization=False,
            clip_likelihood_ratio_using_epsilon=0.2,
            estimate_state_value_using_gae=True,
            beta_entropy=0.01,
            num_consecutive_playing_steps=EnvironmentSteps(2048),
            optimization_epochs=10,
            normalization_stats=None,
            clipping_decay_schedule=ConstantSchedule(1),
            act_for_full_episodes=True,
            update_pre_network_filters_state_on_train=True,
            update_pre_network_filters_state_on_inference=False,
        )
        network = NetworkParameters(
            "tanh",
            MiddlewareScheme.Medium,
            [VHeadParameters(), PPOHeadParameters()],
            batch_size=64,
            use_separate_networks_per_head=True,
            create_target_network=True,
        )
        super().__init__(algorithm, _OfThePolicy(), EpisodicExperienceReplayParameters(), network)


class ActorCriticAgentParameters(AgentParameters):
    """A3C: an actor and a critic, and asynchronous workers."""

    def __init__(self) -> None:
        algorithm = AlgorithmParameters(
            policy_gradient_rescaler=PolicyGradientRescaler.A_VALUE,
            beta_entropy=0,
            num_steps_between_gradient_updates=5000,
            gae_lambda=0.96,
            estimate_state_value_using_gae=False,
        )
        network = NetworkParameters(
            "relu",
            MiddlewareScheme.Medium,
            [VHeadParameters(loss_weight=0.5), PolicyHeadParameters()],
            clip_gradients=40.0,
            async_training=True,
        )
        super().__init__(algorithm, _OfThePolicy(), EpisodicExperienceReplayParameters(), network)


class DQNAgentParameters(AgentParameters):
    """DQN."""

    def __init__(self) -> None:
        algorithm = AlgorithmParameters(
            num_steps_between_copying_online_weights_to_target=EnvironmentSteps(10000),
            num_consecutive_playing_steps=EnvironmentSteps(4),
            supports_parameter_noise=True,
        )
        network = NetworkParameters(
            "relu",
            MiddlewareScheme.Medium,
            [QHeadParameters()],
            replace_mse_with_huber_loss=True,
            create_target_network=True,
        )
        exploration = EGreedyParameters()
        exploration.epsilon_schedule = LinearSchedule(1, 0.1, 1000000)
        super().__init__(algorithm, exploration, ExperienceReplayParameters(), network)


class DDQNAgentParameters(DQNAgentParameters):
    """Double DQN."""

    def __init__(self) -> None:
        super().__init__()
        self.exploration.epsilon_schedule = LinearSchedule(1, 0.01, 1000000)
        self.exploration.evaluation_epsilon = 0.001


class KNNParameters(_Record):
    """Actions of nearby states of a log."""

    def __init__(self, average_dist_coefficient: float = 1, knn_size: int = 50000, use_state_embedding: bool = True):
        super().__init__(
            average_dist_coefficient=average_dist_coefficient,
            knn_size=knn_size,
            use_state_embedding_instead_of_state=use_state_embedding,
        )


class NNImitationModelParameters(_Record):
    """Actions that a network which imitates a log takes."""

    def __init__(self, mask_out_actions_threshold: float = 0.35) -> None:
        super().__init__(mask_out_actions_threshold=mask_out_actions_threshold)


class DDQNBCQAgentParameters(DQNAgentParameters):
    """Double DQN on a log, over the actions that the log takes."""

    def __init__(self) -> None:
        super().__init__()
        ours = {"action_drop_method_parameters": KNNParameters()}
        self.algorithm: AlgorithmParameters = AlgorithmParameters(**{**vars(self.algorithm), **ours})


class GymVectorEnvironment(Parameters):
    """An environment of gym, or `module:Class`."""

    def __init__(self, level: Any = None) -> None:
        super().__init__(
            level=level,
            frame_skip=1,
            random_initialization_steps=0,
            max_over_num_frames=1,
            additional_simulator_parameters={},
            observation_space_type=None,
            default_input_filter=None,
            default_output_filter=None,
            seed=None,
            human_control=False,
            custom_reward_threshold=None,
        )


GymEnvironmentParameters = GymVectorEnvironment
_MUJOCO = ("inverted_pendulum", "inverted_double_pendulum", "reacher", "hopper", "walker2d", "half_cheetah", "ant")
mujoco_v2 = {name: f"{name.title().replace('_', '')}-v2" for name in (*_MUJOCO, "swimmer", "humanoid", "pusher")}


class GraphManager(Parameters):
    """What a preset leaves as `graph_manager`: an agent, its environment, and how long to train.

    Its methods run the job that a launcher has given it.
    """

    graph_name = "simple_rl_graph"

    def __init__(
        self,
        agent_params: AgentParameters,
        env_params: GymVectorEnvironment | None,
        schedule_params: ScheduleParameters,
        vis_params: VisualizationParameters | None = None,
        preset_validation_params: PresetValidationParameters | None = None,
        name: str | None = None,
        **others: Any,
    ) -> None:
        agent_params.visualization = vis_params or agent_params.visualization
        super().__init__(
            agent_params=agent_params,
            env_params=env_params,
            visualization_parameters=agent_params.visualization,
            preset_validation_params=preset_validation_params or PresetValidationParameters(),
            name=name or self.graph_name,
            **vars(schedule_params),
            **others,
        )
        self._job: dict[str, Callable[..., None]] = {}

    def attach(self, **steps: Callable[..., None]) -> None:
        """Gives the graph the job that its methods run: `improve` and `evaluate`."""
        self._job.update(steps)

    def create_graph(self, task_parameters: Any = None) -> GraphManager:
        """Does nothing: the job makes its environment and its network."""
        return self

    def improve(self) -> None:
        """Trains."""
        self._run("improve")

    def evaluate(self, steps: StepMethod) -> bool:
        """Plays whole episodes until they have so many steps, or so many episodes."""
        self._run("evaluate", steps)
        return False

    def close(self) -> None:
        """Does nothing: the job has ended what it started."""

    def _run(self, name: str, *arguments: Any) -> None:
        if name not in self._job:
            raise UserError(
                f"graph_manager.{name}: got a graph outside of a launcher; expected "
                "sagemaker_rl.coach_launcher.SageMakerCoachPresetLauncher to run the preset."
            )
        self._job[name](*arguments)


class BasicRLGraphManager(GraphManager):
    """One agent in one environment."""


class BatchRLGraphManager(GraphManager):
    """One agent that learns from a log."""

    graph_name = "batch_rl_graph"

    def __init__(
        self,
        agent_params: AgentParameters,
        env_params: GymVectorEnvironment | None,
        schedule_params: ScheduleParameters,
        vis_params: VisualizationParameters | None = None,
        preset_validation_params: PresetValidationParameters | None = None,
        name: str | None = None,
        spaces_definition: Any = None,
        reward_model_num_epochs: int = 100,
        train_to_eval_ratio: float = 0.8,
        **others: Any,
    ) -> None:
        super().__init__(
            agent_params,
            env_params,
            schedule_params,
            vis_params,
            preset_validation_params,
            name,
            spaces_definition=spaces_definition,
            reward_model_num_epochs=reward_model_num_epochs,
            train_to_eval_ratio=train_to_eval_ratio,
            **others,
        )


class Screen:
    """Coach's log, as lines on stdout."""

    def set_use_colors(self, use_colors: bool) -> None:
        """Does nothing: lines have no colors."""

    def log(self, text: Any) -> None:
        """Prints a line."""
        print(text)

    log_title = success = warning = log


screen = Screen()
experiment_path = ""


def get_experiment_name(initial_experiment_name: str | None = None) -> str:
    """Returns the name as it was given."""
    return initial_experiment_name or ""


def get_experiment_path(experiment_name: str, *args: Any, **kwargs: Any) -> str:
    """Returns an empty path: results have fixed places."""
    return ""
