"""A training job with one of RLlib's algorithms, over all hosts, with its learning curve and summary."""

from __future__ import annotations

from dataclasses import replace

from runtime.cluster.hosts import ray_hosts
from runtime.container.signals import Interrupted
from runtime.errors import UserError
from runtime.interfaces.algorithm import Training
from runtime.interfaces.context import RunContext
from runtime.outputs.console import Summary
from runtime.outputs.learning_curve import FILE as CURVE
from runtime.outputs.learning_curve import plot_learning_curve
from runtime.rllib.builder import Builder
from runtime.rllib.loop import Outcome, TrainingJob
from runtime.rllib.restart import train as train_with_restarts
from runtime.rllib.restart import write_from_newest
from runtime.rllib.settings import RLlibSettings
from runtime.settings.schema import JobConfig


def train(training: Training, context: RunContext, builder: Builder) -> Summary:
    """Trains until a stop criterion is met or a stop is requested.

    Args:
        training: The job's settings, environment and family.
        context: Container, folders, reporter, and the checkpoint to resume from.
        builder: Builds RLlib's algorithm.

    Raises:
        UserError: The environment or the checkpoint is invalid.
        PlatformError: A file could not be written, or the machine failed.
        Interrupted: A stop was requested before there was anything to save.
    """
    config = training.prepared.config
    family = training.family
    env = family.describe_env(training.prepared, training.creator, context.layout)
    folder = RLlibSettings.of(config).output
    if folder is not None and family.fallback_reason is not None:
        raise UserError(
            f"rl.training.config.output: got {folder!r} from {config.sources['config.output']} for {config.env}; "
            "expected none, as its transitions are not logged. Leave it out."
        )
    job = TrainingJob(config, env, family, context, builder, family.callbacks(config, env, context))
    try:
        with ray_hosts(
            context.container,
            reporter=context.reporter,
            stop=context.stop,
            timeout_s=config.cluster_timeout_s,
            ray_options=context.ray_options,
            needs_ray=lambda machines: builder.needs_ray(config, env, machines),
        ) as hosts:
            outcome = train_with_restarts(replace(job, hosts=hosts))
    except Interrupted:
        outcome = write_from_newest(job)
    _plot(config, outcome, context)
    return _summarize(config, outcome, context)


def _plot(config: JobConfig, outcome: Outcome, context: RunContext) -> None:
    title = f"{config.preset or config.env} ({config.env}, {config.run})"
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
    values = {
        "env": config.env,
        "algorithm": config.run,
        "mean_return": mean,
        "timesteps_total": state.timesteps_total,
        "training_iteration": state.training_iteration,
        "time_total_s": state.time_total_s,
        "ended_because": outcome.why,
        "is_finished": not outcome.why.startswith("stopped by"),
        "results": str(layout.root),
    }
    served = [layout.model / policy for policy in config.policies or ()]  # several agents: one server a policy
    next_command = f"smrl evaluate {layout.root}, or smrl serve {served[0] if served else layout.root}"
    return Summary(f"trained {config.env}", facts, next_command, values)
