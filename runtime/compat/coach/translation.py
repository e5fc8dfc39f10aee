"""Translates a preset's graph of Coach, once, into the settings of a job.

Source of Coach's defaults and schemes: IntelLabs/coach 1.0, `vector_embedder.py`, `fc_middleware.py`, and the agents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from runtime.compat.coach.vocabulary import (
    ActorCriticAgentParameters,
    AgentParameters,
    ClippedPPOAgentParameters,
    ConstantSchedule,
    Conv2d,
    DDQNAgentParameters,
    DDQNBCQAgentParameters,
    Dense,
    DQNAgentParameters,
    DuelingQHeadParameters,
    EGreedyParameters,
    EmbedderScheme,
    EnvironmentEpisodes,
    EnvironmentSteps,
    Frames,
    GradientClippingMethod,
    GraphManager,
    GymVectorEnvironment,
    LinearSchedule,
    MemoryGranularity,
    MiddlewareScheme,
    ObservationNormalizationFilter,
    Parameters,
    PolicyGradientRescaler,
    RewardRescaleFilter,
    ScheduleParameters,
    StepMethod,
    Time,
    TrainingSteps,
)
from runtime.errors import Problems

_EMBEDDER = {
    EmbedderScheme.Empty: [],
    EmbedderScheme.Shallow: [128],
    EmbedderScheme.Medium: [256],
    EmbedderScheme.Deep: [128, 128, 128],
}
_MIDDLEWARE = {
    MiddlewareScheme.Empty: [],
    MiddlewareScheme.Shallow: [64],
    MiddlewareScheme.Medium: [512],
    MiddlewareScheme.Deep: [128, 128, 128],
}
_WITHOUT_DENSE = [64, 64]  # the network of a preset whose layers are all convolutions
_DUELING_HEAD = [512]
_ACTIVATIONS = ("relu", "tanh", "swish", "linear")
_ENVS = 8  # environments that are stepped together, as in our own presets
_PPO_BATCH = 2048
_DQN_ITERATION = 1000
_CLIPPING = {
    GradientClippingMethod.ClipByGlobalNorm: "global_norm",
    GradientClippingMethod.ClipByNorm: "norm",
    GradientClippingMethod.ClipByValue: "value",
}
_MAIN = "agent_params.network_wrappers.main"
_ALGORITHM = "agent_params.algorithm"
# Paths that say where and how Coach itself runs, what it shows, or what PyTorch's Adam has alike: never mentioned.
_OF_COACH_ITSELF = (
    *("preset_validation_params", "visualization_parameters", "agent_params.visualization", "evaluation_steps", "name"),
    *("steps_between_evaluation_periods", "spaces_definition", "reward_model_num_epochs", "agent_params.name"),
    *(f"{_MAIN}.optimizer_epsilon", f"{_MAIN}.adam_optimizer_beta2", f"{_MAIN}.framework"),
    *(f"{_ALGORITHM}.distributed_coach_synchronization_type", f"{_ALGORITHM}.act_for_full_episodes"),
    f"{_ALGORITHM}.apply_gradients_every_x_episodes",
    "agent_params.exploration.evaluation_epsilon",
)


@dataclass(frozen=True)
class Translation:
    """A preset in our own words.

    Attributes:
        settings: Path below rl.training to value.
        notes: What differs from Coach, one line each.
        reward_scale: Factor on the rewards that are learned from.
    """

    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    reward_scale: float = 1.0

    def as_experiment(self) -> dict[str, Any]:
        """Returns the settings as the nested form of a launcher's experiment."""
        tree: dict[str, Any] = {}
        for path, value in self.settings.items():
            node = tree
            *parents, leaf = path.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return {"training": tree}


def translate(graph: object, source: str, *, given: Collection[str] = ()) -> Translation:
    """Translates a graph.

    Args:
        graph: What the preset left as `graph_manager`.
        source: The preset's file name, for messages.
        given: Paths that hyperparameters have set in the graph.

    Raises:
        UserError: It is no graph, or has values that cannot be translated; all problems are listed.
    """
    problems = Problems(f"the preset {source}")
    if not isinstance(graph, GraphManager):
        kind = f"{type(graph).__module__}.{type(graph).__name__}"
        expected = "a BasicRLGraphManager or BatchRLGraphManager of rl_coach"
        problems.add("graph_manager", kind, source, expected=expected)
        problems.raise_if_any()
    assert isinstance(graph, GraphManager)
    translator = _Translator(graph, source, problems, given)
    translator.run()
    problems.raise_if_any()
    return Translation(translator.settings, tuple(translator.notes), translator.reward_scale)


@dataclass
class _Translator:
    """Reads a graph's attributes by their paths, and remembers which."""

    graph: GraphManager
    source: str
    problems: Problems
    given: Collection[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reward_scale: float = 1.0
    _read: set[str] = field(default_factory=set)

    def run(self) -> None:
        agent = self.graph.agent_params
        steps: dict[type, Callable[[], None]] = {
            DDQNBCQAgentParameters: self._bcq,
            DDQNAgentParameters: self._dqn,
            DQNAgentParameters: self._dqn,
            ActorCriticAgentParameters: self._actor_critic,
            ClippedPPOAgentParameters: self._ppo,
        }
        step = next((step for kind, step in steps.items() if isinstance(agent, kind)), None)
        if step is None:
            names = ", ".join(kind.__name__ for kind in steps)
            self.problems.add(
                "graph_manager.agent_params", type(agent).__name__, self.source, expected=f"one of {names}"
            )
            return
        self._environment()
        step()
        if self.settings["run"] != "BCQ":  # which standardizes with the log's mean and deviation
            self._filters()
        self._mention_the_rest()

    def get(self, path: str) -> Any:
        """Reads the value at a dotted path of the graph."""
        self._read.add(path)
        value: Any = self.graph
        for name in path.split("."):
            value = value[name] if isinstance(value, dict) else getattr(value, name)
        return value

    def number(self, path: str, *, low: float = 0.0, none_ok: bool = False) -> Any:
        """Reads a number; anything else is a problem."""
        value = self.get(path)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= low
        if not is_number and not (none_ok and value is None):
            self._refuse(path, value, f"a number from {low:g}{' or None' if none_ok else ''}")
        return value

    def _refuse(self, path: str, value: Any, expected: str) -> None:
        self.problems.add(f"rl.{path}", value, self._source_of(path), expected=expected)

    def _source_of(self, path: str) -> str:
        return "the hyperparameters" if path in self.given else self.source

    # The parts that all agents have

    def _environment(self) -> None:
        if self.graph.env_params is None:
            return
        level = self.get("env_params.level")
        if not isinstance(level, str) or not level:
            self._refuse("env_params.level", level, "a gym id or module:Class")
        self.settings["env"] = level
        options = self.get("env_params.additional_simulator_parameters")
        if options:
            self.settings["config.env_config"] = dict(options)
        if self.get("env_params.frame_skip") != 1:
            self.notes.append("rl.env_params.frame_skip changes nothing: Coach skipped frames of Atari's games alone")

    def _steps(self, path: str) -> StepMethod | None:
        value = self.get(path)
        if value is not None and not isinstance(value, StepMethod):
            expected = "a number of steps with its type, as TrainingSteps(10000)"
            remedy = f"A hyperparameter has the type after its name: rl.{path}:TrainingSteps."
            self.problems.add(f"rl.{path}", value, self._source_of(path), expected=expected, remedy=remedy)
            return None
        return value

    def _stop(self, *, heatup: int = 0) -> int | None:
        """Sets the stop criterion; returns the number of environment steps, where it is one."""
        steps = self._steps("improve_steps")
        if steps is None:
            return None
        if isinstance(steps, EnvironmentEpisodes):
            self.settings["stop.episodes_total"] = steps.num_steps
        elif isinstance(steps, Time):
            self.settings["stop.time_total_s"] = steps.num_steps
        elif isinstance(steps, TrainingSteps | EnvironmentSteps | Frames):
            self.settings["stop.timesteps_total"] = steps.num_steps + heatup
            return steps.num_steps
        return None

    def _network(self) -> None:
        """Sets the layers: those of the observation's embedder, then those of the middleware."""
        embedder, middleware = f"{_MAIN}.input_embedders_parameters.observation", f"{_MAIN}.middleware_parameters"
        scheme = self.get(f"{embedder}.scheme")
        layers = [
            *self._layers(f"{embedder}.scheme", scheme, _EMBEDDER),
            *self._layers(f"{middleware}.scheme", self.get(f"{middleware}.scheme"), _MIDDLEWARE),
        ]
        if isinstance(scheme, list) and any(isinstance(layer, Conv2d) for layer in scheme):
            self.notes.append(
                f"{[layer for layer in scheme if isinstance(layer, Conv2d)]}: convolutions are for images here, and "
                "have RLlib's sizes; other observations go to fully connected layers "
                f"({', '.join(map(str, layers or _WITHOUT_DENSE))})"
            )
        self.settings["config.model.fcnet_hiddens"] = layers or _WITHOUT_DENSE
        functions = [self.get(f"{part}.activation_function") for part in (embedder, middleware)]
        for part, function in zip((embedder, middleware), functions, strict=True):
            if function not in _ACTIVATIONS:
                self._refuse(f"{part}.activation_function", function, f"one of {', '.join(_ACTIVATIONS)}")
        if functions[0] != functions[1]:
            self.notes.append(f"the network has one activation here: {functions[1]}, which is the middleware's")
        self.settings["config.model.fcnet_activation"] = functions[1]

    def _layers(self, path: str, scheme: Any, schemes: Mapping[Any, list[int]]) -> list[int]:
        if isinstance(scheme, Enum) and scheme in schemes:
            return schemes[scheme]
        layers = scheme if isinstance(scheme, list) else [scheme]
        units = [
            layer.units if isinstance(layer, Dense) else layer for layer in layers if not isinstance(layer, Conv2d)
        ]
        if not all(isinstance(count, int) and count > 0 for count in units):
            self._refuse(path, scheme, "a scheme as Medium, or a list of Dense and Conv2d layers")
            return []
        return units

    def _optimizer(self) -> None:
        self.settings["config.lr"] = self.number(f"{_MAIN}.learning_rate")
        self.settings["config.grad_clip"] = self.number(f"{_MAIN}.clip_gradients", none_ok=True)
        method = self.get(f"{_MAIN}.gradients_clipping_method")
        if self.settings["config.grad_clip"] is not None and method in _CLIPPING:
            self.settings["config.grad_clip_by"] = _CLIPPING[method]
        self.settings["config.gamma"] = self.number(f"{_ALGORITHM}.discount")

    def _filters(self) -> None:
        """Sets the observation filter, and the factor on rewards; other filters are problems."""
        self.settings.setdefault("config.observation_filter", "NoFilter")
        for which in ("input_filter", "pre_network_filter"):
            filters = self.get(f"agent_params.{which}")
            for name, filter_ in _filters_of(filters, "observation"):
                if isinstance(filter_, ObservationNormalizationFilter):
                    self.settings["config.observation_filter"] = "MeanStdFilter"
                else:
                    self._refuse(f"agent_params.{which}.{name}", filter_, "an ObservationNormalizationFilter")
            for name, filter_ in _filters_of(filters, "reward"):
                if isinstance(filter_, RewardRescaleFilter):
                    self.reward_scale *= float(filter_.rescale_factor)
                else:
                    self._refuse(f"agent_params.{which}.{name}", filter_, "a RewardRescaleFilter")
        if self.reward_scale <= 0:
            self._refuse("agent_params.input_filter", self.reward_scale, "a RewardRescaleFilter with a factor above 0")
        elif self.reward_scale != 1.0:
            self.notes.append(
                f"rewards are learned from times {self.reward_scale:g} (RewardRescaleFilter); returns are reported "
                "without it"
            )

    def _mention_the_rest(self) -> None:
        """Adds a line with every setting that the preset changed and that means nothing here."""
        ours, theirs = dict(_flatten(self.graph)), dict(_flatten(_defaults_of(self.graph)))
        changed = [path for path, value in ours.items() if path not in theirs or theirs[path] != value]
        ignored = (*self._read, *_OF_COACH_ITSELF)
        left = [path for path in changed if not any(path == one or path.startswith(f"{one}.") for one in ignored)]
        if left:
            self.notes.append(
                f"without a meaning here, and left out: {', '.join(f'rl.{path}' for path in sorted(left))}"
            )

    # The agents

    def _ppo(self) -> None:
        self._on_policy()
        self._stop()
        playing = self._steps(f"{_ALGORITHM}.num_consecutive_playing_steps")
        batch = _PPO_BATCH
        if isinstance(playing, EnvironmentEpisodes):
            self.settings["config.batch_mode"] = "complete_episodes"
            self.notes.append(
                f"rl.{_ALGORITHM}.num_consecutive_playing_steps={playing}: an iteration has whole episodes here too, "
                f"of at least {batch} steps together (rl.training.config.train_batch_size)"
            )
        elif playing is not None:
            batch = playing.num_steps
        self.settings["config.train_batch_size"] = batch
        self.settings["config.minibatch_size"] = self.number(f"{_MAIN}.batch_size", low=1)
        self.settings["config.num_epochs"] = self.number(f"{_ALGORITHM}.optimization_epochs", low=1)
        self.settings["config.lambda_"] = self.number(f"{_ALGORITHM}.gae_lambda")
        self.settings["config.clip_param"] = self._clip()
        if self.get(f"{_ALGORITHM}.policy_gradient_rescaler") is not PolicyGradientRescaler.GAE:
            self.settings["config.use_gae"] = False
        self._read |= {
            f"{_ALGORITHM}.{name}"
            for name in (
                *("num_steps_between_copying_online_weights_to_target", "estimate_state_value_using_gae"),
                *("num_episodes_in_experience_replay", "update_pre_network_filters_state_on_train"),
            )
        }

    def _clip(self) -> Any:
        """Returns the clip of the ratio at the start."""
        clip = self.number(f"{_ALGORITHM}.clip_likelihood_ratio_using_epsilon")
        path = f"{_ALGORITHM}.clipping_decay_schedule"
        decay = self.get(path)
        if isinstance(decay, LinearSchedule):
            self.notes.append(f"rl.{path}: PPO's clip stays at the schedule's initial value here")
        elif not isinstance(decay, ConstantSchedule):
            self._refuse(path, decay, "a LinearSchedule or ConstantSchedule")
            return clip
        return clip * decay.initial_value if isinstance(clip, int | float) else clip

    def _actor_critic(self) -> None:
        self.notes.append(
            "ActorCriticAgentParameters is PPO here, which is the same on-policy gradient, clipped, and learns more "
            f"from each batch: {_PPO_BATCH} steps, rl.training.config.num_epochs passes"
        )
        self._on_policy()
        self._stop()
        self.settings |= {
            "config.train_batch_size": _PPO_BATCH,
            "config.minibatch_size": 64,
            "config.num_epochs": 10,
            "config.clip_param": 0.2,
        }
        if self.get(f"{_ALGORITHM}.policy_gradient_rescaler") is PolicyGradientRescaler.GAE:
            self.settings["config.lambda_"] = self.number(f"{_ALGORITHM}.gae_lambda")
        else:
            self.settings |= {"config.use_gae": False, "config.lambda_": 1.0}
        self._read |= {
            *(f"{_ALGORITHM}.num_steps_between_gradient_updates", f"{_ALGORITHM}.estimate_state_value_using_gae"),
            *(f"{_ALGORITHM}.num_steps_between_copying_online_weights_to_target", f"{_MAIN}.batch_size"),
            *(f"{_ALGORITHM}.num_consecutive_playing_steps", f"{_ALGORITHM}.gae_lambda"),
        }

    def _on_policy(self) -> None:
        """Sets what PPO and the actor-critic have alike."""
        self.settings["run"] = "PPO"
        self.settings |= {
            "config.num_envs_per_env_runner": _ENVS,
            "config.use_kl_loss": False,
            "config.vf_clip_param": 10000.0,
            "config.vf_loss_coeff": 0.5,
            "config.model.vf_share_layers": False,
        }
        self._optimizer()
        self._network()
        self.settings["config.entropy_coeff"] = self.number(f"{_ALGORITHM}.beta_entropy")
        if isinstance(self.get("agent_params.exploration"), EGreedyParameters):
            self.notes.append("rl.agent_params.exploration: actions are sampled from the policy, without an epsilon")
        # Heatup is of random actions, which are not learned from; the heads are of an actor and a critic.
        self._read |= {"heatup_steps", f"{_MAIN}.heads_parameters"}

    def _dqn(self) -> None:
        agent = self.graph.agent_params
        self.settings["run"] = "DQN"
        self._optimizer()
        self._network()
        heatup = self._heatup()
        total = self._stop(heatup=heatup)
        playing = self._steps(f"{_ALGORITHM}.num_consecutive_playing_steps")
        every = playing.num_steps if isinstance(playing, EnvironmentSteps) and playing.num_steps else 1
        batch = self.number(f"{_MAIN}.batch_size", low=1)
        is_dueling = any(isinstance(head, DuelingQHeadParameters) for head in self.get(f"{_MAIN}.heads_parameters"))
        self.settings |= {
            "config.num_envs_per_env_runner": _ENVS,
            "config.rollout_fragment_length": 1,
            "config.double_q": isinstance(agent, DDQNAgentParameters),
            "config.dueling": is_dueling,
            "config.model.head_fcnet_hiddens": _DUELING_HEAD if is_dueling else [],
            "config.n_step": 1,
            "config.prioritized_replay": False,
            "config.train_batch_size": batch,
            "config.training_intensity": batch / every if isinstance(batch, int | float) else batch,
            "config.td_error_loss_fn": "huber" if self.get(f"{_MAIN}.replace_mse_with_huber_loss") else "mse",
            "config.tau": self.number(f"{_ALGORITHM}.rate_for_copying_weights_to_target"),
            "config.target_network_update_freq": self._target_freq(every),
            "config.buffer_size": self._buffer(),
            "config.num_steps_sampled_before_learning_starts": heatup,
            "config.epsilon": self._epsilon(heatup),
            "config.min_sample_timesteps_per_iteration": min((total or _DQN_ITERATION) + heatup, _DQN_ITERATION),
        }

    def _heatup(self) -> int:
        """Returns the environment steps before learning starts."""
        steps = self._steps("heatup_steps")
        if isinstance(steps, EnvironmentEpisodes):
            self._refuse("heatup_steps", steps, "a number of EnvironmentSteps, as a replay buffer counts these")
        return steps.num_steps if isinstance(steps, StepMethod) else 0

    def _target_freq(self, every: int) -> int:
        """Returns the environment steps between updates of the target network."""
        path = f"{_ALGORITHM}.num_steps_between_copying_online_weights_to_target"
        steps = self._steps(path)
        if isinstance(steps, EnvironmentEpisodes):
            self._refuse(path, steps, "a number of EnvironmentSteps or TrainingSteps")
        if steps is None:
            return 0
        return steps.num_steps * (every if isinstance(steps, TrainingSteps) else 1)

    def _buffer(self) -> Any:
        size = self.get("agent_params.memory.max_size")
        is_size = isinstance(size, tuple) and len(size) == 2 and isinstance(size[1], int)
        if not is_size or size[0] is not MemoryGranularity.Transitions:
            self._refuse("agent_params.memory.max_size", size, "(MemoryGranularity.Transitions, a number)")
            return 1
        return size[1]

    def _epsilon(self, heatup: int) -> Any:
        """Returns the share of uniform actions by environment steps, which are counted from the heatup on."""
        path = "agent_params.exploration.epsilon_schedule"
        schedule = self.get(path)
        if isinstance(schedule, ConstantSchedule):
            return schedule.initial_value
        if not isinstance(schedule, LinearSchedule):
            self._refuse(path, schedule, "a LinearSchedule or ConstantSchedule")
            return 0.0
        first = [[0, 1.0]] if heatup else []
        end = heatup + max(1, int(schedule.decay_steps))
        return [*first, [heatup, float(schedule.initial_value)], [end, float(schedule.final_value)]]

    def _bcq(self) -> None:
        """Sets what our BCQ takes of the preset; the rest is our own preset's, which is measured."""
        self.settings["run"] = "BCQ"
        self.settings["config.lr"] = self.number(f"{_MAIN}.learning_rate")
        self.settings["config.gamma"] = self.number(f"{_ALGORITHM}.discount")
        self.settings["config.train_batch_size"] = self.number(f"{_MAIN}.batch_size", low=1)
        self._network()
        huber = self.get(f"{_MAIN}.replace_mse_with_huber_loss")
        self.settings["config.loss"] = "huber" if huber else "mse"
        self.settings["config.target_network_update_freq"] = max(1, self._target_freq(1))
        ratio = "train_to_eval_ratio"
        if ratio in vars(self.graph):
            self.settings["config.train_fraction"] = self.number(ratio)
        epochs = self._steps("improve_steps")
        if epochs is not None:
            self.settings["stop.training_iteration"] = epochs.num_steps
        log = self.get("agent_params.memory.load_memory_from_file_path")
        if log is not None:
            self.settings["data"] = getattr(log, "filepath", log)
        self._read |= {
            *("agent_params.exploration", "agent_params.memory", f"{_MAIN}.heads_parameters"),
            f"{_ALGORITHM}.action_drop_method_parameters",
        }


def _filters_of(filters: Any, kind: str) -> Iterator[tuple[str, Any]]:
    """Yields the name and the filter of each filter of observations or of rewards."""
    if not isinstance(filters, Parameters):
        return
    if kind == "reward":
        yield from ((f"reward_filters.{name}", one) for name, one in filters.reward_filters.items())
        return
    for observation, found in filters.observation_filters.items():
        yield from ((f"observation_filters.{observation}.{name}", one) for name, one in found.items())


def _defaults_of(graph: GraphManager) -> GraphManager:
    """Returns a graph of the same agent, and with the same environment, as a preset that changes nothing leaves it."""
    env = None if graph.env_params is None else GymVectorEnvironment(graph.env_params.level)
    kinds = type(graph.agent_params).__mro__  # of which the first may be the preset's own
    agent = next(kind for kind in kinds if kind.__module__ == AgentParameters.__module__)
    return type(graph)(agent(), env, ScheduleParameters())


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields path and value of each leaf of a tree of parameters."""
    is_tree = isinstance(value, Parameters) and type(value).__eq__ is object.__eq__
    children = vars(value) if is_tree else value if isinstance(value, dict) else None
    if children is None:
        yield path, value
        return
    for name, child in children.items():
        if not name.startswith("_"):
            yield from _flatten(child, f"{path}.{name}".lstrip("."))
