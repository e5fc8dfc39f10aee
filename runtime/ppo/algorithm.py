"""PPO as a job runs it: its settings, its training from end to end, and its policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from runtime.artifacts.checkpoint import JobState
from runtime.cluster.hosts import ray_hosts
from runtime.container.imports import importing
from runtime.container.signals import Interrupted
from runtime.environments.recording import Episode
from runtime.interfaces.algorithm import Training
from runtime.interfaces.context import RunContext
from runtime.outputs.console import Summary
from runtime.outputs.learning_curve import FILE as CURVE
from runtime.outputs.learning_curve import plot_learning_curve
from runtime.policies.acting import ActingPolicy
from runtime.ppo import rules
from runtime.ppo.settings import PPOSettings
from runtime.settings.catalog import Draft
from runtime.settings.schema import JobConfig, StopCriteria

if TYPE_CHECKING:
    from runtime.ppo.loop import Outcome


class PPO:
    """The PPO algorithm of a job, on RLlib."""

    names = ("PPO",)
    settings = PPOSettings
    stop_criteria = tuple(StopCriteria.settings())
    inputs: tuple[str, ...] = ()
    general: Mapping[str, object] = {}
    chooses_preset = True
    uses_cluster = True
    acts_in_environment = True

    def complete(self, draft: Draft) -> None:
        """Sets PPO's own defaults, and checks the rules between its settings."""
        rules.complete(draft)

    def train(self, training: Training, context: RunContext) -> Summary:
        """Trains, over all hosts, until a stop criterion is met or a stop is requested."""
        from runtime.cluster.session import prepare_environment

        prepare_environment()
        with importing():  # torch and RLlib, after their environment variables are set
            from runtime.ppo.loop import TrainingJob
            from runtime.ppo.restart import train, write_from_newest
            from runtime.ppo.rllib_config import needs_ray

        config = training.prepared.config
        family = training.family
        env = family.describe_env(training.prepared, training.creator, context.layout)
        job = TrainingJob(config, env, family, context, family.callbacks(config, env, context))
        try:
            with ray_hosts(
                context.container,
                reporter=context.reporter,
                stop=context.stop,
                timeout_s=config.cluster_timeout_s,
                ray_options=context.ray_options,
                needs_ray=lambda machines: needs_ray(config, env, machines),
            ) as hosts:
                outcome = train(replace(job, hosts=hosts))
        except Interrupted:
            outcome = write_from_newest(job)
        _plot(config, outcome, context)
        return _summarize(config, outcome, context)

    def load_policy(
        self, checkpoint: Path, action_space: gymnasium.Space[Any], state: JobState, *, trust: bool
    ) -> ActingPolicy:
        """Loads the policy of a checkpoint; Ray need not run."""
        with importing():  # torch and RLlib
            from runtime.artifacts.policy_file import read_policy

        return read_policy(checkpoint, action_space, settings=state.policy, trust=trust)

    def describe_actions(self, action_space: gymnasium.Space[Any]) -> str:
        """Describes the space as text, bounds included."""
        return str(action_space)

    def episode_lines(self, number: int, episode: Episode) -> list[str]:
        """None."""
        return []


def _plot(config: JobConfig, outcome: Outcome, context: RunContext) -> None:
    title = f"{config.preset or config.env} ({config.env}, PPO)"
    try:
        path = context.layout.data / CURVE
        plot_learning_curve(path, outcome.state.rows, title=title, goal=config.stop.episode_reward_mean)
    except Exception as error:  # the model is written; a picture must not turn success into failure
        context.reporter.note(f"no learning curve: {type(error).__name__}: {error}")


def _summarize(config: JobConfig, outcome: Outcome, context: RunContext) -> Summary:
    state = outcome.state
    layout = context.layout
    mean = state.episode_reward_mean
    curve = layout.data / CURVE
    facts = {
        "mean return": "no episode has ended" if mean is None else f"{mean:.2f}",
        "ended because": outcome.why,
        "steps": f"{state.timesteps_total:,} in {state.training_iteration} iterations",
        "seconds": f"{state.time_total_s:.1f} of training",
        "metrics": str(layout.data / "metrics.jsonl"),
        "curve": str(curve) if curve.exists() else "none: no episode has ended",
        "TensorBoard": str(layout.data / "tensorboard"),
        "video": str(outcome.last_video) if outcome.last_video else "none",
        "checkpoints": str(layout.checkpoints),
        "model": str(layout.model),
    }
    return Summary(f"trained {config.env}", facts, f"smrl evaluate {layout.root}, or smrl serve {layout.root}")
