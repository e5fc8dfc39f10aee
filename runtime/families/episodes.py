"""Prints the episodes of an evaluation and sums them up, for the families that count returns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.container.signals import Interrupted
from runtime.environments.recording import Episode, Recorder
from runtime.errors import Problems, UserError
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation, EvaluationResult
from runtime.outputs.console import Summary
from runtime.policies.policy_mapping import PolicyMapping
from runtime.policies.spaces import Spaces
from runtime.settings.schema import EvaluationSettings

LONGEST_VIDEO_S = 30.0
_DEFAULT_EPISODES = 10


def most_episodes(settings: EvaluationSettings) -> float:
    """Episodes to play at most; infinity where steps are counted instead."""
    if settings.evaluate_episodes is not None:
        return settings.evaluate_episodes
    return math.inf if settings.evaluate_steps is not None else _DEFAULT_EPISODES


def most_steps(settings: EvaluationSettings) -> float:
    """Steps after which no further episode begins."""
    return math.inf if settings.evaluate_steps is None else settings.evaluate_steps


def check_spaces(evaluation: Evaluation, spaces: Spaces) -> None:
    """Checks that the environment has the policy's observation and action spaces.

    Raises:
        UserError: The spaces differ.
    """
    state = evaluation.state
    shape = list(spaces.observation.shape or ())
    actions = evaluation.algorithm.describe_actions(spaces.action)
    if (shape, actions) != (state.observation_shape, state.action_space):
        raise UserError(
            f"env: got {evaluation.env!r} with observations {shape} and actions {actions}; expected those of the "
            f"model, {state.observation_shape} and {state.action_space}. Evaluate it on {state.env}."
        )


def refuse_family_settings(evaluation: Evaluation) -> None:
    """Refuses settings that another family takes.

    Raises:
        UserError: Such settings are set; all are listed.
    """
    problems = Problems()
    for name, value in evaluation.family_settings.items():
        problems.add_line(f"{name}: got {value!r} for a policy that is no DeepRacer's; leave it out.")
    problems.raise_if_any()


def report_episodes(
    playing: Iterable[Episode],
    evaluation: Evaluation,
    context: RunContext,
    recorder: Recorder,
    *,
    env: str,
    seed: int | None,
) -> EvaluationResult:
    """Prints a line for each episode as it ends, then mean, maximum and minimum.

    Args:
        playing: The episodes, which run as they are iterated.
        evaluation: The evaluation, with its settings.
        context: Run context, which prints lines and names the video.
        recorder: Recorder of the video, or of the reason why there is none.
        env: Name of the environment, for the report.
        seed: Seed of the first episode, for the report.

    Raises:
        Interrupted: A stop was requested before an episode ended.
    """
    reporter = context.reporter
    episodes = list[dict[str, Any]]()
    for episode in playing:
        episodes.append({name: value for name, value in asdict(episode).items() if value is not None})
        reporter.line(f"Episode reward: {episode.total_reward}. Episode steps: {episode.steps}")
        for line in evaluation.algorithm.episode_lines(len(episodes), episode):
            reporter.line(line)
    if not episodes:
        raise Interrupted
    rewards = [episode["total_reward"] for episode in episodes]
    reporter.line(f"Mean Reward: {statistics.fmean(rewards)}")
    reporter.line(f"Max Reward: {max(rewards)}")
    reporter.line(f"Min Reward: {min(rewards)}")
    policies = _average_by_policy(episodes, evaluation.state.policy.get("policy_mapping"))
    for policy, mean in policies.items():
        reporter.line(f"Mean Reward of {policy}: {mean}")
    if recorder.no_video_reason:
        reporter.note(f"no video: {recorder.no_video_reason}")
    video = video_path(context)
    report = {
        "env": env,
        "checkpoint": evaluation.checkpoint.name,
        "seed": seed,
        "mean_reward": statistics.fmean(rewards),
        "max_reward": max(rewards),
        "min_reward": min(rewards),
        "std_reward": statistics.pstdev(rewards),
        **({"mean_reward_by_policy": policies} if policies else {}),
        "episodes": episodes,
        "video": None if recorder.no_video_reason else video.name,
    }
    facts = {
        "mean return": f"{statistics.fmean(rewards):.2f}, from {min(rewards):.2f} to {max(rewards):.2f}",
        "video": recorder.no_video_reason or str(video),
    }
    return EvaluationResult(report, Summary(f"evaluated {len(episodes)} episodes of {env}", facts))


def _average_by_policy(episodes: list[dict[str, Any]], mapping: Mapping[str, str] | None) -> dict[str, float]:
    """Returns the mean return of one agent of each policy; empty where one agent acts."""
    returns: dict[str, list[float]] = {}
    for episode in episodes if mapping else ():
        for policy, agents in PolicyMapping(mapping or {}).group(episode["agents"]).items():
            returns.setdefault(policy, []).extend(episode["agents"][agent] for agent in agents)
    return {policy: statistics.fmean(found) for policy, found in sorted(returns.items())}


def video_path(context: RunContext) -> Path:
    """Returns the path of an evaluation's video."""
    return context.layout.videos / "evaluation.mp4"
