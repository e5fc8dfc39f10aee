"""Batch RL within a training job: finds the log, checks it against the environment, learns, and sums up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium
import numpy as np

from runtime.artifacts.checkpoint import read_state
from runtime.artifacts.resume import Start
from runtime.container.layout import Container, Layout
from runtime.environments.spec import EnvCreator, EnvSpec, make_env
from runtime.errors import PlatformError, UserError
from runtime.interfaces.context import RunContext
from runtime.offline.data.reading import is_log, read_transitions
from runtime.offline.data.transitions import Transitions
from runtime.offline.settings import OfflineSettings
from runtime.outputs.console import Summary
from runtime.policies.spaces import ACTION_MASK, MaskedBox, Spaces, mask_size
from runtime.settings.resolve import DRAWN_SEED
from runtime.settings.schema import JobConfig

if TYPE_CHECKING:
    from runtime.offline.learning import OfflineJob, OfflineOutcome

CHANNELS = ("training", "train", "data")
FEW_EPISODES = 10


def learn_from_log(config: JobConfig, context: RunContext, creator: EnvCreator | None = None) -> Summary:
    """Learns a policy from a log.

    Args:
        config: The job's settings.
        context: Container, folders, reporter, and the checkpoint to resume from.
        creator: A launcher's function that makes the environment, or None.

    Returns:
        What the job prints at its end.

    Raises:
        UserError: The log, the environment or the checkpoint is invalid.
        PlatformError: A file could not be written.
    """
    config = _keep_seed(config, context.start)
    settings = OfflineSettings.of(config)
    place = find_data(config, context.container)
    with context.stop:
        data = read_transitions(place, num_actions=settings.num_actions)
        _check(data, place, config, creator)
    for note in data.notes:
        context.reporter.note(note)
    from runtime.offline.bcq import check_algorithm  # imports torch
    from runtime.offline.learning import OfflineJob, learn

    check_algorithm(config.run, is_discrete=data.num_actions is not None)
    job = OfflineJob(config.replace({"data": str(place)}), data, make_spaces(data), context)
    outcome = learn(job)
    if context.container.base is not None:
        _copy_for_the_notebook(outcome.checkpoint, context.layout)
    return _summarize(job, outcome)


def _keep_seed(config: JobConfig, start: Start) -> JobConfig:
    """Takes the seed of the checkpoint, so that a resumed job evaluates on the same held-out episodes.

    Raises:
        UserError: The settings ask for another seed.
    """
    if start.checkpoint is None or not start.is_same_job:
        return config
    kept = read_state(start.checkpoint).policy.get("seed")
    seed = config.algorithm.seed
    source = config.sources["config.seed"]
    if kept is None or seed == kept:
        return config
    if source != DRAWN_SEED:
        raise UserError(
            f"rl.training.config.seed: got {seed} from {source}; expected {kept}, with which {start.checkpoint} drew "
            "the held-out episodes. Leave it out, or start a new job with another --out."
        )
    return config.replace({"config.seed": kept})


def _copy_for_the_notebook(checkpoint: Path, layout: Layout) -> None:
    """Copies the checkpoint into output.tar.gz, where Coach wrote it and the notebook expects it for evaluation."""
    target = layout.data / "checkpoint"
    try:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(checkpoint, target)
    except OSError as error:
        raise PlatformError(f"{target}: could not be written: {error.strerror or error}. The model is whole.") from None


def find_data(config: JobConfig, container: Container) -> Path:
    """Finds the log: the one that `rl.training.data` names, else a channel's, else the one beside the user's code.

    Raises:
        UserError: No log was found, or several.
    """
    code = None if container.base is None else container.base / "code"
    if (named := config.data) is not None:
        given = Path(named)
        beside = None if code is None else code / given
        return beside if beside is not None and not given.exists() and beside.exists() else given
    for name in CHANNELS:
        if name in container.channels:
            return container.channels[name]
    found = sorted(path for path in code.iterdir() if is_log(path)) if code is not None and code.is_dir() else []
    if len(found) == 1:
        return found[0]
    listed = f"{len(found)} logs beside the code ({', '.join(path.name for path in found)})" if found else "no data"
    raise UserError(
        f"data: got {listed}; expected logged episodes. Name them with --data (rl.training.data), or add a channel "
        f"named {' or '.join(CHANNELS)}. `smrl collect --help` shows how a log is made."
    )


def make_spaces(data: Transitions) -> Spaces:
    """Makes the spaces of a policy for a log's observations and actions."""
    numbers = gymnasium.spaces.Box(-np.inf, np.inf, (data.shape[0] - data.mask_size, *data.shape[1:]), np.float32)
    observations = MaskedBox(numbers, data.mask_size) if data.mask_size else numbers
    if data.num_actions is not None:
        return Spaces(observations, gymnasium.spaces.Discrete(data.num_actions))
    actions = gymnasium.spaces.Box(data.actions.min(axis=0), data.actions.max(axis=0), dtype=np.float32)
    return Spaces(observations, actions)


def _check(data: Transitions, place: Path, config: JobConfig, creator: EnvCreator | None) -> None:
    """Checks that the log has enough episodes, and that its spaces are those of the job's environment.

    Raises:
        UserError: There are too few episodes, or the spaces differ.
    """
    if len(data.starts) < FEW_EPISODES:
        raise UserError(
            f"{place}: got {len(data.starts)} episodes; expected at least {FEW_EPISODES}, as some are held out "
            "for evaluation. Check that episode_id tells them apart."
        )
    if not config.env:
        return
    env = make_env(EnvSpec(config.env, config.algorithm.env_config, creator=creator))
    space, actions = env.observation_space, env.action_space
    env.close()
    if bool(mask_size(space)) != bool(data.mask_size):
        has, lacks = (config.env, place) if mask_size(space) else (place, config.env)
        raise UserError(
            f"{place}: got {'an' if data.mask_size else 'no'} {ACTION_MASK}; expected what {config.env} has: {has} "
            f"has masks and {lacks} has none. Log the environment with `smrl collect`, which writes its masks."
        )
    found = (*data.shape, data.num_actions or data.actions.shape[1])
    size = int(actions.n) if isinstance(actions, gymnasium.spaces.Discrete) else int(np.prod(actions.shape or (0,)))
    expected = (*(space.shape or ()), size)
    is_discrete = isinstance(actions, gymnasium.spaces.Discrete)
    if found != expected or is_discrete != (data.num_actions is not None):
        kinds = ["discrete" if flag else "continuous" for flag in (data.num_actions is not None, is_discrete)]
        raise UserError(
            f"{place}: got {found[0] - data.mask_size} state features and {found[1]} {kinds[0]} actions; expected "
            f"{expected[0] - mask_size(space)} and {expected[1]} {kinds[1]}, as {config.env} has. Set rl.training.env "
            "to the environment that was logged, or to null if there is none to evaluate in."
        )


def _summarize(job: OfflineJob, outcome: OfflineOutcome) -> Summary:
    from runtime.offline.results import COACH_CSV, PLOT, SUMMARY, summary_facts, warning_facts

    report = outcome.report
    layout = job.context.layout
    gamma = OfflineSettings.of(job.config).gamma
    facts = {"chosen policy": f"iteration {outcome.chosen} of {outcome.state.training_iteration}"}
    facts |= summary_facts(report, gamma) | warning_facts(report)
    facts |= {
        "ended because": outcome.why,
        "seconds": f"{outcome.state.time_total_s:.1f} of learning and evaluation",
        "estimates": f"{layout.data / SUMMARY}, {layout.intermediate / COACH_CSV}",
        "plot": str(layout.data / PLOT),
        "metrics": str(layout.data / "metrics.jsonl"),
        "checkpoints": str(layout.checkpoints),
        "model": str(layout.model),
    }
    where = "" if job.config.env else " env=NAME"
    values = {
        "algorithm": job.config.run,
        "chosen_iteration": outcome.chosen,
        "estimated_return": report.value.value,
        "logged_return": report.behaviour.value,
        "training_iteration": outcome.state.training_iteration,
        "time_total_s": outcome.state.time_total_s,
        "ended_because": outcome.why,
        "is_finished": not outcome.why.startswith("stopped by"),
        "results": str(layout.root),
    }
    next_command = f"smrl evaluate {layout.root}{where}, or smrl serve {layout.root}"
    return Summary("learned from logged data", facts, next_command, values)
