"""DQN, SAC, IMPALA and APPO as a job runs them: RLlib's own code, from its settings to its policies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from runtime.artifacts.checkpoint import JobState
from runtime.container.imports import importing
from runtime.environments.recording import Episode
from runtime.interfaces.algorithm import Training
from runtime.interfaces.context import RunContext
from runtime.outputs.console import Summary
from runtime.policies.acting import ActingPolicy
from runtime.rllib.algorithm_settings import APPOSettings, DQNSettings, IMPALASettings, SACSettings
from runtime.rllib.settings import RLlibSettings
from runtime.settings.catalog import Draft, narrow
from runtime.settings.schema import ROOT, StopCriteria

if TYPE_CHECKING:
    from runtime.rllib.builder import Builder

# Criteria of races alone.
_OF_RACES = ("evaluation_progress_mean",)


class TrainedByRLlib(ABC):
    """What PPO and RLlib's other algorithms do alike; they differ in what builds RLlib's algorithm."""

    @abstractmethod
    def _builder(self) -> Builder:
        """Imports and makes the builder."""

    def train(self, training: Training, context: RunContext) -> Summary:
        """Trains, over all hosts, until a stop criterion is met or a stop is requested."""
        from runtime.cluster.session import prepare_environment

        prepare_environment()
        context.reporter.show_phase("importing")
        with importing():  # torch and RLlib, after their environment variables are set
            from runtime.rllib.job import train

            builder = self._builder()
        return train(training, context, builder)

    def load_policy(
        self, checkpoint: Path, action_space: gymnasium.Space[Any], state: JobState, *, trust: bool
    ) -> ActingPolicy:
        """Loads the policy of a checkpoint; Ray need not run."""
        with importing():  # torch and RLlib
            from runtime.artifacts.policy_file import read_joint_policy, read_policy

        if "policy_mapping" in state.policy:
            return read_joint_policy(checkpoint, action_space, settings=state.policy)
        return read_policy(checkpoint, action_space, settings=state.policy, trust=trust)

    def describe_actions(self, action_space: gymnasium.Space[Any]) -> str:
        """Describes the space as text, bounds included."""
        return str(action_space)

    def episode_lines(self, number: int, episode: Episode) -> list[str]:
        """None."""
        return []


@dataclass(frozen=True)
class RLlibAlgorithm(TrainedByRLlib):
    """An algorithm that RLlib's own env runners and learners train; see Algorithm for the attributes."""

    name: str
    settings: type[RLlibSettings]
    general: Mapping[str, object] = field(default_factory=dict)
    stop_criteria: tuple[str, ...] = tuple(name for name in StopCriteria.settings() if name not in _OF_RACES)
    inputs: tuple[str, ...] = ()
    chooses_preset: bool = True
    takes_family_settings: bool = False
    uses_cluster: bool = True
    acts_in_environment: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The value of `rl.training.run` that chooses it."""
        return (self.name,)

    def complete(self, draft: Draft) -> None:
        """Sets our own defaults, and checks the rules between its settings."""
        ours = {f"config.{name}": self.settings.model_fields[name].default for name in self.settings.OURS}
        draft.set_missing(ours, "default")
        narrow(draft, self.settings, self.name)
        if draft.values.get("env") is None:
            draft.problems.add_line(f"{ROOT}env: missing; expected the name of an environment.")
        check_warm_start(draft)
        _check_buffer(draft, self.settings)
        _check_fragment(draft, self.settings)
        _check_atoms(draft)

    def _builder(self) -> Builder:
        from runtime.rllib.stock_builder import StockBuilder

        return StockBuilder()


def check_warm_start(draft: Draft) -> None:
    """A job begins with one checkpoint."""
    both = [draft.values.get(name) for name in ("warm_start", "restore")]
    if None not in both:
        draft.problems.add(
            f"{ROOT}warm_start",
            both[0],
            draft.sources["warm_start"],
            expected=f"no rl.training.restore beside it ({both[1]})",
            remedy="restore resumes a training; warm_start begins a new one with a trained network.",
        )


def _check_buffer(draft: Draft, settings: type[RLlibSettings]) -> None:
    """A replay buffer must hold what learning starts with, and a batch."""
    fields = settings.model_fields
    if "buffer_size" not in fields:
        return
    size = draft.values.get("config.buffer_size", fields["buffer_size"].default)
    for name in ("train_batch_size", "num_steps_sampled_before_learning_starts"):
        value = draft.values.get(f"config.{name}", fields[name].default)
        if value > size:
            path = f"config.{name}" if f"config.{name}" in draft.values else "config.buffer_size"
            draft.problems.add(
                ROOT + path,
                draft.values[path],
                draft.sources[path],
                expected=f"{name} ({value}) of at most buffer_size ({size})",
            )


def _check_fragment(draft: Draft, settings: type[RLlibSettings]) -> None:
    """A fragment must hold the steps of an n-step return, and a minibatch whole fragments of the batch."""
    fields = settings.model_fields

    def value_of(name: str) -> Any:
        return draft.values.get(f"config.{name}", fields[name].default) if name in fields else None

    def refuse(name: str, expected: str) -> None:
        path = f"config.{name}"
        draft.problems.add(ROOT + path, value_of(name), draft.sources.get(path, "RLlib's default"), expected=expected)

    fragment, steps, minibatch = (value_of(name) for name in ("rollout_fragment_length", "n_step", "minibatch_size"))
    if steps is not None and fragment != "auto" and fragment < steps:
        refuse("rollout_fragment_length", f"at least n_step, which is {steps}")
    batch = value_of("train_batch_size")
    if minibatch is not None and (minibatch % fragment or minibatch > batch):
        refuse(
            "minibatch_size", f"a multiple of rollout_fragment_length ({fragment}), at most train_batch_size ({batch})"
        )


def _check_atoms(draft: Draft) -> None:
    """The atoms of a return's distribution need a range."""
    low, high = (draft.values.get(f"config.{name}", default) for name, default in (("v_min", -10.0), ("v_max", 10.0)))
    if low >= high:
        path = next(path for path in ("config.v_min", "config.v_max") if path in draft.values)
        draft.problems.add(
            ROOT + path,
            draft.values[path],
            draft.sources[path],
            expected=f"v_min ({low:g}) below v_max ({high:g})",
        )


# Where no preset is for the environment: what presets of small tasks have, where RLlib's defaults learn slowly.
_OFF_POLICY: dict[str, object] = {"config.prioritized_replay": False, "config.model.fcnet_activation": "relu"}
_DQN_GENERAL = {**_OFF_POLICY, "config.model.fcnet_hiddens": [256, 256]}
_SAC_GENERAL = {
    **_OFF_POLICY,
    "config.actor_lr": 0.0003,
    "config.min_sample_timesteps_per_iteration": 1000,
}
_V_TRACE_GENERAL: dict[str, object] = {
    "config.num_envs_per_env_runner": 4,
    "config.observation_filter": "MeanStdFilter",
    "config.model.fcnet_hiddens": [64, 64],
    "config.model.vf_share_layers": False,
}
ALGORITHMS = (
    RLlibAlgorithm("DQN", DQNSettings, _DQN_GENERAL),
    RLlibAlgorithm("SAC", SACSettings, _SAC_GENERAL),
    RLlibAlgorithm("IMPALA", IMPALASettings, _V_TRACE_GENERAL),
    RLlibAlgorithm("APPO", APPOSettings, _V_TRACE_GENERAL),
)
