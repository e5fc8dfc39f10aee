"""`smrl evaluate` of policies of Unity scenes: every agent plays, deterministically."""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from envs import UNITY_ID
from envs.unity.options import is_of_registry
from envs.unity.vector_env import UnityVectorEnv
from runtime.artifacts.policy_file import read_policy
from runtime.container.signals import Interrupted, StopRequest
from runtime.environments.recording import Episode, Recorder
from runtime.environments.spec import EnvSpec
from runtime.errors import UserError
from runtime.families.episodes import (
    LONGEST_VIDEO_S,
    check_spaces,
    most_episodes,
    most_steps,
    refuse_family_settings,
    report_episodes,
    video_path,
)
from runtime.families.unity.ppo_settings import no_video_reason
from runtime.families.unity.preparation import EXECUTABLE_CHANNEL, find_scene
from runtime.families.unity.scene import open_scene, scene_faults
from runtime.interfaces.context import RunContext
from runtime.interfaces.evaluation import Evaluation, EvaluationResult
from runtime.policies.policy import Policy
from runtime.policies.spaces import ACTION_MASK, Spaces

# Decisions after which an unfinished episode is counted: a policy that stands still may never end one.
LONGEST_EPISODE = 10_000

# Settings that say which program is started, with what, and where files go.
_OF_PROGRAM = ("file_name", "registry_url", "additional_args", "cache_folder", "log_folder", "folder")


def evaluate(evaluation: Evaluation, context: RunContext) -> EvaluationResult:
    """Plays with all agents, and records one more episode, which is not counted.

    Raises:
        UserError: A setting, the model or the scene is invalid.
        PlatformError: A player does not start, or fails again and again.
    """
    refuse_family_settings(evaluation)
    settings = choose_scene(evaluation, context)
    spec = EnvSpec(UNITY_ID, settings)
    with context.stop:
        scene = open_scene(settings)
    spaces = Spaces(scene.single_observation_space, scene.single_action_space)
    check_spaces(evaluation, spaces)
    trust = evaluation.settings.trust_checkpoint
    policy = read_policy(evaluation.checkpoint, spaces.action, settings=evaluation.state.policy, trust=trust)
    recorder = Recorder(spec, no_video_reason=no_video_reason(scene))

    def play() -> Iterator[Episode]:
        playing = ScenePlay(scene, policy)
        asked = evaluation.settings
        yield from playing.episodes(context.stop, most_episodes=most_episodes(asked), most_steps=most_steps(asked))
        for note in playing.notes():
            context.reporter.note(note)
        scene.close()
        with contextlib.suppress(Interrupted), context.stop:
            recorder.record(policy, video_path(context), longest_s=LONGEST_VIDEO_S)
        recorder.close()

    return report_episodes(play(), evaluation, context, recorder, env=UNITY_ID, seed=settings["seed"])


def choose_scene(evaluation: Evaluation, context: RunContext) -> dict[str, Any]:
    """Chooses the scene to evaluate in: the one that was trained in, or the one that `env` names.

    Raises:
        UserError: The settings are wrong, or the only program that they name is not trusted.
    """
    named, env = evaluation.env_config, evaluation.env
    trained = evaluation.state.policy["env_config"]
    channels = context.container.channels
    settings = _without_program(trained) if evaluation.is_foreign else dict(trained)
    # The player may be elsewhere on this machine, or the evaluation uses another one.
    if EXECUTABLE_CHANNEL in channels or "env_name" in named:
        settings.pop("file_name", None)
    settings.update(named)
    if env != UNITY_ID:
        settings.pop("file_name", None)
        settings["env_name"] = env
    if EXECUTABLE_CHANNEL not in channels and settings.keys().isdisjoint(("file_name", "env_name")):
        untrusted = {name: trained[name] for name in ("file_name", "env_name") if name in trained}
        if untrusted:
            raise UserError(
                f"model: got an archive that names a program to start, {untrusted}; expected a player that you name. "
                "Set env or rl.training.config.env_config.env_name to it, or trust_checkpoint=true if you trust where "
                "the model is from."
            )
    seed = evaluation.settings.seed
    settings["seed"] = secrets.randbelow(2**31) if seed is None else seed  # not the scenario that was trained in
    logs = context.layout.videos / "unity"
    return {"log_folder": str(logs.absolute()), **find_scene(settings, channels, where="the scene to play")}


def _without_program(trained: Mapping[str, Any]) -> dict[str, Any]:
    """Removes the settings that name an executable; the name of a scene in Unity's registry stays."""
    kept = {name: value for name, value in trained.items() if name not in _OF_PROGRAM}
    if not is_of_registry(kept.get("env_name"), None):
        kept.pop("env_name", None)
    return kept


class ScenePlay:
    """Plays whole episodes with all agents of a scene.

    Args:
        scene: The scene with its agents.
        policy: Policy of all agents, which acts deterministically.
        longest: Decisions after which an unfinished episode is counted.
    """

    def __init__(self, scene: UnityVectorEnv, policy: Policy, *, longest: int = LONGEST_EPISODE) -> None:
        self._scene = scene
        self._policy = policy
        self._longest = longest
        self._lost = 0
        self._cut = 0
        self._numbers = itertools.count()
        self._number_of: dict[int, int] = {}
        self._sums: dict[int, Episode] = {}
        self._ended: dict[int, Episode | None] = {}

    def episodes(self, stop: StopRequest, *, most_episodes: float, most_steps: float = math.inf) -> Iterator[Episode]:
        """Runs episodes, and yields them in the order in which they began.

        In that order, because the ones that end first are the shortest, and no fair sample.

        Args:
            stop: The stop request.
            most_episodes: Number of episodes to play at most.
            most_steps: Number of decisions, of all agents together, after which the next episode to end is the last.

        Raises:
            UserError: The scene sent invalid data.
            PlatformError: Its player fails repeatedly.
        """
        with scene_faults():
            observations, info = self._scene.reset()
        following = 0
        finished = 0
        steps = 0
        while finished < most_episodes and (steps < most_steps or not finished) and not stop.is_set:
            self._begin(info)
            with scene_faults():
                actions = _act(self._policy, self._scene, observations, info)
                observations, rewards, terminated, truncated, info = self._scene.step(actions)
            self._add(rewards, terminated | truncated, info)
            steps += int(info["stepped"].sum())
            while following in self._ended and finished < most_episodes:
                episode = self._ended.pop(following)
                following += 1
                if episode is not None:
                    finished += 1
                    yield episode

    def notes(self) -> list[str]:
        """Notes on restarted players and incomplete episodes."""
        found = [f"a player was restarted: {fault}" for fault in self._scene.take_faults()]
        if self._lost:
            found.append(f"{self._lost} episodes are left out, as their player failed")
        if self._cut:
            found.append(f"{self._cut} episodes did not end, and count as they were after {self._longest:,} decisions")
        return found

    def _begin(self, info: Mapping[str, Any]) -> None:
        for row in np.flatnonzero(info["acting"]).tolist():
            if row not in self._number_of:
                self._number_of[row] = number = next(self._numbers)
                self._sums[number] = Episode(0.0, 0)

    def _add(self, rewards: Any, has_ended: Any, info: Mapping[str, Any]) -> None:
        for row in np.flatnonzero(info["lost"]).tolist():
            if row in self._number_of:
                number = self._number_of.pop(row)
                del self._sums[number]
                self._ended[number] = None
                self._lost += 1
        for row in np.flatnonzero(info["stepped"]).tolist():
            number = self._number_of[row]
            self._sums[number] = Episode(
                self._sums[number].total_reward + float(rewards[row]), self._sums[number].steps + 1
            )
            is_cut = not has_ended[row] and self._sums[number].steps >= self._longest
            self._cut += is_cut
            if has_ended[row] or is_cut:
                self._ended[self._number_of.pop(row)] = self._sums.pop(number)


def _act(policy: Policy, scene: UnityVectorEnv, observations: Any, info: Mapping[str, Any]) -> Any:
    """Computes (N, …) actions of all rows; those of rows without a decision request are ignored."""
    asking = np.flatnonzero(info["acting"])
    masks = info[ACTION_MASK][asking] if policy.takes_masks else None
    chosen = policy.act_many(observations[asking], masks=masks)
    space = scene.action_space
    if isinstance(space, gymnasium.spaces.Tuple):
        actions: Any = tuple(np.zeros(part.shape, part.dtype) for part in space.spaces)
        for rows, values in zip(actions, zip(*chosen, strict=True), strict=True):
            rows[asking] = values
        return actions
    actions = np.zeros(space.shape or (), space.dtype)
    actions[asking] = chosen
    return actions
