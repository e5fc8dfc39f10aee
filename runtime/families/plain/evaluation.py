"""`smrl evaluate` of plain environments: whole episodes one after the other, the first with a video."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from envs import PROGRAM_IDS
from runtime.container.signals import Interrupted
from runtime.environments.recording import Episode, Recorder, play
from runtime.environments.spec import EnvSpec, check_env_name, make_env
from runtime.errors import Problems, UserError
from runtime.families.episodes import (
    check_spaces,
    most_episodes,
    most_steps,
    refuse_family_settings,
    report_episodes,
    video_path,
)
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation, EvaluationResult
from runtime.policies.acting import ActingPolicy
from runtime.policies.spaces import Spaces


def evaluate(evaluation: Evaluation, context: RunContext) -> EvaluationResult:
    """Plays episodes, prints a line for each, and records the first.

    Raises:
        UserError: A setting, the model or the environment is invalid.
        Interrupted: A stop was requested before an episode ended.
    """
    refuse_family_settings(evaluation)
    if "policy" in evaluation.state.policy:
        raise UserError(
            f"model: got {str(evaluation.place)!r}, one policy of several agents; expected the model of all, as they "
            "act together. Evaluate the folder above it, or the results folder."
        )
    spec = _describe_env(evaluation)
    env = make_env(spec)
    check_spaces(evaluation, Spaces(env.observation_space, env.action_space))
    trust = evaluation.settings.trust_checkpoint
    policy = evaluation.algorithm.load_policy(evaluation.checkpoint, env.action_space, evaluation.state, trust=trust)
    env.close()
    recorder = Recorder(spec)
    playing = _play(spec, policy, recorder, evaluation, context)
    return report_episodes(playing, evaluation, context, recorder, env=spec.name, seed=evaluation.settings.seed)


def _describe_env(evaluation: Evaluation) -> EnvSpec:
    """Describes the environment to evaluate in.

    Raises:
        UserError: There is no environment of that name, or an untrusted archive names a program as its environment.
    """
    name, state = evaluation.env, evaluation.state
    if not name:
        raise UserError("env: got none, and the model names none; expected env=NAME to play in.")
    # A name that imports a module, or starts a program.
    is_program = evaluation.is_foreign and (":" in name or name in PROGRAM_IDS)
    if is_program and evaluation.settings.env is None:
        raise UserError(
            f"env: got {name!r} from an archive, which runs a program; expected one that you name. Set env={name} if "
            "that is what you want to run, or trust_checkpoint=true if you trust where the model is from."
        )
    problems = Problems()
    check_env_name("env", name, "the model", problems)
    problems.raise_if_any()
    env_config = state.policy["env_config"] if name == state.env and not is_program else {}
    return EnvSpec(name, env_config, state.policy["horizon"])


def _play(
    spec: EnvSpec, policy: ActingPolicy, recorder: Recorder, evaluation: Evaluation, context: RunContext
) -> Iterator[Episode]:
    """Plays the episodes; the first is recorded where the environment renders frames."""
    settings = evaluation.settings
    stop = context.stop
    env = make_env(spec)
    steps = 0
    for number in itertools.count():
        if number >= most_episodes(settings) or steps >= most_steps(settings):
            break
        seed = None if settings.seed is None else settings.seed + number
        try:
            with stop:
                recorded = recorder.record(policy, video_path(context), seed=seed) if number == 0 else None
                episode = recorded or play(env, policy, seed=seed)
        except Interrupted:
            break
        steps += episode.steps
        yield episode
        if stop.is_set:
            break
    env.close()
    recorder.close()
