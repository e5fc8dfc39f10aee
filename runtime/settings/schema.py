"""Every hyperparameter that all jobs take, typed: its type, range, default, and one line of what it does.

Those of an algorithm are in its own package: `runtime.ppo.settings`, `runtime.rllib.algorithm_settings` and
`runtime.offline.settings`. `renamed` maps the names of 2020 onto today's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from runtime.settings.types import Setting

ROOT = "rl.training."


class SettingsModel(BaseModel):
    """Settings as frozen attributes; each field's `Setting` says what text may become its value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """Returns the rule of every setting by name, in the order of the fields."""
        found = {}
        for name, field in cls.model_fields.items():
            rules = [rule for rule in field.metadata if isinstance(rule, Setting)]
            if rules:
                found[name] = rules[0]
        return found

    def given(self) -> dict[str, Any]:
        """Returns the settings that a source set; all others have their default."""
        return {name: getattr(self, name) for name in self.settings() if name in self.model_fields_set}


class TrainingSettings(SettingsModel):
    """Settings below `rl.training`."""

    env: Annotated[
        str | None,
        Setting("text", "Environment: a Gymnasium id, or module:Class; null for a log without one.", none_ok=True),
    ] = None
    run: Annotated[str, Setting("text", "Algorithm; those after APPO learn from logged data.")] = "PPO"
    data: Annotated[
        str | None,
        Setting("text", "Logged data: a file or folder; the channel training, train or data if not given."),
    ] = None
    restore: Annotated[str | None, Setting("text", "Checkpoint, results folder or model directory to resume from.")] = (
        None
    )
    warm_start: Annotated[
        str | None,
        Setting(
            "text",
            "Checkpoint, results folder or model directory whose network and observation filter a new training begins "
            "with; of an environment with the same spaces.",
        ),
    ] = None
    trust_checkpoint: Annotated[
        bool, Setting("bool", "Resume from a checkpoint whose pickles could run code of its author.")
    ] = False
    checkpoint_freq: Annotated[
        int, Setting("int", "Iterations between checkpoints; 0 for none but the last.", low=0)
    ] = 10
    checkpoint_at_end: Annotated[
        bool, Setting("bool", "Accepted; a job always ends with a checkpoint, the model's own.")
    ] = True
    video_freq: Annotated[int, Setting("int", "Iterations between videos; 0 for none.", low=0)] = 20
    video_interval_s: Annotated[
        float, Setting("float", "Seconds of training between videos, in place of video_freq; 0 for video_freq.", low=0)
    ] = 0.0
    fast: Annotated[
        bool,
        Setting("bool", "PPO: sample and learn by compiled code where it covers the job; false: by RLlib's own."),
    ] = True
    tracking: Annotated[
        str | None,
        Setting(
            "text",
            "Experiment tracker that the training is sent to as well; its package is to be installed.",
            choices=("wandb", "mlflow"),
            none_ok=True,
        ),
    ] = None
    cluster_timeout_s: Annotated[
        float,
        Setting("float", "Several hosts: how long they wait for each other before the job fails.", low=0, above=True),
    ] = 600.0
    policies: Annotated[
        list[str] | None, Setting("names", "Several agents: the policies to train, one or more.", none_ok=True)
    ] = None
    policy_mapping: Annotated[
        dict[str, Any] | None,
        Setting(
            "mapping",
            "Several agents: beginning of agents' names to policy; the longest that fits. By default a policy acts for "
            "the agents whose names begin with its own; the only one acts for all.",
            none_ok=True,
        ),
    ] = None
    export: Annotated[bool, Setting("bool", "At the end, export the policy as SavedModel, ONNX and Torch program.")] = (
        True
    )


class StopCriteria(SettingsModel):
    """Settings below `rl.training.stop`; the first criterion that is met stops the job."""

    episode_reward_mean: Annotated[float | None, Setting("float", "Mean return of the last 100 episodes.")] = None
    timesteps_total: Annotated[int | None, Setting("int", "Environment steps.", low=0, above=True)] = None
    training_iteration: Annotated[int | None, Setting("int", "Training iterations.", low=0, above=True)] = None
    time_total_s: Annotated[
        float | None, Setting("float", "Seconds of training, without start-up.", low=0, above=True)
    ] = None
    episodes_total: Annotated[int | None, Setting("int", "Finished episodes.", low=0, above=True)] = None
    evaluation_progress_mean: Annotated[
        float | None,
        Setting(
            "float",
            "DeepRacer: per cent of the lap, mean of an iteration's evaluations.",
            low=0,
            above=True,
            high=100,
        ),
    ] = None


class NetworkSettings(SettingsModel):
    """Settings below `rl.training.config.model`; each algorithm has its own."""


class AlgorithmSettings(SettingsModel):
    """Settings below `rl.training.config` that every algorithm has."""

    seed: Annotated[
        int | None,
        Setting("int", "Seed of environments, policy and shuffling.", low=0, high=2**32 - 1, none_ok=True),
    ] = None
    horizon: Annotated[
        int | None, Setting("int", "Truncate episodes after this many steps.", low=0, above=True, none_ok=True)
    ] = None
    env_config: Annotated[dict[str, Any], Setting("mapping", "Keyword arguments of the environment.")] = Field(
        default_factory=dict
    )
    model: SerializeAsAny[NetworkSettings] = NetworkSettings()

    @classmethod
    def of(cls, config: JobConfig) -> Self:
        """Returns the algorithm settings of a job, typed as this class."""
        assert isinstance(config.algorithm, cls)
        return config.algorithm

    @classmethod
    def network(cls) -> type[NetworkSettings]:
        """Returns the type of `model`."""
        return type(cls.model_fields["model"].default)

    def drawn_seed(self) -> int:
        """Returns the seed, which every job has: one is drawn where none is set."""
        assert self.seed is not None
        return self.seed


class JobConfig(TrainingSettings):
    """A job's resolved settings.

    Attributes:
        stop: Stop criteria.
        algorithm: The algorithm's settings, with those of the network and the environment's keyword arguments.
        preset: Name of the preset, or None where none is used.
        sources: Path below rl.training to the name of the source that set it; of env_config also of each setting in it.
        notes: Renamed and dropped settings, one line each, for the log.
        extras: Hyperparameters that are not `rl.…`, for the job or the user's script.
    """

    stop: StopCriteria = StopCriteria()
    algorithm: SerializeAsAny[AlgorithmSettings]
    preset: str | None = None
    sources: Mapping[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    extras: Mapping[str, Any] = Field(default_factory=dict)

    @classmethod
    def of_values(cls, values: Mapping[str, Any], algorithm: type[AlgorithmSettings], **others: Any) -> JobConfig:
        """Makes the config from checked values.

        Args:
            values: Path below rl.training to value, as `config.model.fcnet_hiddens`.
            algorithm: Type of the settings below `config`.
            others: preset, sources, notes and extras.
        """
        network = algorithm.network()(**_below("config.model.", values))
        below = {name: value for name, value in _below("config.", values).items() if not name.startswith("model.")}
        return cls(
            **{path: value for path, value in values.items() if "." not in path},
            stop=StopCriteria(**_below("stop.", values)),
            algorithm=algorithm(**below, model=network),
            **others,
        )

    @property
    def env_id(self) -> str:
        """Name of the environment; empty where a log without one is learned from."""
        return self.env or ""

    def values(self) -> dict[str, Any]:
        """Returns the values of all settings that a source set, by their path below rl.training, as in config.json."""
        return {
            **self.given(),
            **{f"stop.{name}": value for name, value in self.stop.given().items()},
            **{f"config.{name}": value for name, value in self.algorithm.given().items()},
            **{f"config.model.{name}": value for name, value in self.algorithm.model.given().items()},
        }

    def replace(
        self, changes: Mapping[str, Any], *, source: str | None = None, without: tuple[str, ...] = ()
    ) -> JobConfig:
        """Returns the config with other values.

        Args:
            changes: Path below rl.training to value.
            source: Source of the values; None leaves the sources unchanged.
            without: Paths that go back to their defaults.
        """
        values = {path: value for path, value in {**self.values(), **changes}.items() if path not in without}
        sources = self.sources if source is None else {**self.sources, **dict.fromkeys(changes, source)}
        others = {"preset": self.preset, "sources": sources, "notes": self.notes, "extras": self.extras}
        return JobConfig.of_values(values, type(self.algorithm), **others)

    def is_asked_for(self, path: str) -> bool:
        """Whether the user set a value; presets and defaults do not count."""
        return is_users(self.sources.get(path, "default"))

    def is_default(self, path: str) -> bool:
        """Whether neither the user nor a preset set a value."""
        return self.sources.get(path, "default").startswith("default")

    def describe_policies(self) -> list[str]:
        """Returns a line for each setting of several agents, for an environment that has one."""
        given = {name: value for name, value in self.given().items() if name in ("policies", "policy_mapping")}
        return [
            f"{ROOT}{name}: got {value!r} from {self.sources[name]}; expected none, as {self.env} has one agent. Leave "
            "it out, or name an environment of several agents."
            for name, value in given.items()
            if value is not None
        ]

    def describe_without_effect(self, names: tuple[str, ...], *, why: str) -> list[str]:
        """Returns a line for each setting of the algorithm that the user set and that would change nothing.

        Args:
            names: The settings.
            why: Why they change nothing.
        """
        values = self.values()
        return [
            f"{ROOT}{path}: got {values[path]!r} from {self.sources[path]}; expected none, as {why}. Leave it out."
            for path in (f"config.{name}" for name in names)
            if values.get(path) is not None and self.is_asked_for(path)
        ]

    def as_tree(self) -> dict[str, Any]:
        """Returns the nested form of a preset's `training`."""
        tree: dict[str, Any] = {}
        for path, value in self.values().items():
            node = tree
            *parents, leaf = path.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return tree


class EvaluationSettings(SettingsModel):
    """Settings of an evaluation."""

    evaluate_episodes: Annotated[int | None, Setting("int", "Number of episodes.", low=0, above=True)] = None
    evaluate_steps: Annotated[
        int | None, Setting("int", "Least number of steps, in whole episodes, instead of episodes.", low=0, above=True)
    ] = None
    env: Annotated[str | None, Setting("text", "Environment; the one that the model was trained on if not given.")] = (
        None
    )
    algorithm: Annotated[str | None, Setting("text", "Algorithm that trained the model.")] = None
    checkpoint: Annotated[
        str | None, Setting("text", "Checkpoint below the model directory, as best; its final one if not given.")
    ] = None
    seed: Annotated[
        int | None, Setting("int", "Seed of the first episode; each further one adds 1.", low=0, high=2**32 - 1)
    ] = None
    trust_checkpoint: Annotated[bool, Setting("bool", "Read the pickles of a model that an older version wrote.")] = (
        False
    )


def is_users(source: str) -> bool:
    """Whether a source is the user's own: neither a preset nor a default of ours."""
    return not source.startswith(("preset ", "default"))


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {path.removeprefix(prefix): value for path, value in values.items() if path.startswith(prefix)}
