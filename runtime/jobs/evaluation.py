"""The evaluation job: plays whole episodes with a trained policy, deterministically, and films the first."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from envs import DEEPRACER_ID, PROGRAM_IDS, UNITY_ID
from runtime.container.paths import CONFIG, Container, Layout
from runtime.container.scratch import scratch_folder
from runtime.container.signals import Interrupted, StopRequest
from runtime.environments.spec import EnvSpec, check_env_name, make_env
from runtime.errors import PlatformError, Problems, UserError
from runtime.outputs.console import Reporter, Summary
from runtime.report.report_command import write_report
from runtime.settings.resolve import Source, resolve
from runtime.settings.schema import EVALUATION, RACE_EVALUATION

if TYPE_CHECKING:
    from runtime.artifacts.checkpoint import JobState
    from runtime.environments.recording import Episode, Recorder
    from runtime.policies.network_policy import NetworkPolicy
    from runtime.policies.policy import Policy

FILE = "evaluation.json"
_DEFAULT_EPISODES = 10
_CHANNELS = ("model", "checkpoint")
_LONGEST_FILM_S = 30.0
# What was given as hyperparameters of a training: the environment's settings, and the names of all others.
_SETTINGS, _OTHERS = "env_config", "training_settings"


@dataclass(frozen=True)
class Places:
    """Where an evaluation finds its model and what else it needs, and where it puts its results."""

    container: Container
    model: Path
    data: Path
    videos: Path


def run_evaluation(
    container: Container,
    stop: StopRequest,
    settings: Mapping[str, Any],
    *,
    model: Path | None = None,
    out: Path | None = None,
) -> None:
    """Evaluates a policy and prints an episode a line, then mean, max and min.

    Args:
        container: Where we run.
        stop: The platform's wish to stop: the episodes played until then are reported.
        settings: evaluate_episodes, env, algorithm, checkpoint, seed; they win over the container's hyperparameters.
        model: Results folder, model directory or archive; None for the `model` channel.
        out: Folder for evaluation.json and the video; None for the container's, or `evaluation/` beside the model.

    Raises:
        UserError: A setting, the model or the environment is at fault.
    """
    chosen = _resolve_settings(container, settings)
    places = _find_places(container, model, out)
    with tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch:
        _evaluate(chosen, places, Path(scratch), stop)
    layout = Layout.of_results(places.model) if out is None and container.layout is None else container.layout
    if layout is not None and (layout.data / CONFIG).is_file():  # of a training, whose page now has its evaluation
        write_report(layout, Reporter())


def _resolve_settings(container: Container, settings: Mapping[str, Any]) -> dict[str, Any]:
    sources = [Source(container.hyperparameters_source, container.hyperparameters)]
    sources.append(Source("the command line", settings))
    # The default preset does not matter here; resolving lists every problem, as for any job.
    config = resolve(sources, extras=EVALUATION | RACE_EVALUATION)
    names = {source.name for source in sources}
    given = [path for path, source in config.sources.items() if source in names and path not in config.extras]
    tree = f"config.{_SETTINGS}"
    own = {name: value for name, value in config.env_config.items() if f"{tree}.{name}" in given}
    others = [f"rl.training.{path}" for path in given if path != tree and not path.startswith(f"{tree}.")]
    return {**config.extras, **({_SETTINGS: own} if own else {}), **({_OTHERS: others} if others else {})}


def _find_places(container: Container, model: Path | None, out: Path | None) -> Places:
    if model is None:
        model = next((container.channels[name] for name in _CHANNELS if name in container.channels), None)
        if model is None:
            raise UserError("channel model: got no such channel; expected one that holds what training wrote.")
    if out is None and container.layout is not None:
        return Places(container, model, container.layout.data, container.layout.videos)
    folder = out or (model if model.is_dir() else model.parent) / "evaluation"
    return Places(container, model, folder, folder)


def _evaluate(chosen: Mapping[str, Any], places: Places, scratch: Path, stop: StopRequest) -> None:
    reporter = Reporter()
    with _writing(places.data):  # before episodes are played for nothing
        places.data.mkdir(parents=True, exist_ok=True)
    from runtime.cluster.session import prepare_environment

    prepare_environment()
    from runtime.artifacts.checkpoint import read_state
    from runtime.artifacts.model_directory import open_model
    from runtime.environments.recording import Recorder

    checkpoint = open_model(places.model, scratch=scratch, checkpoint=chosen.get("checkpoint"))
    if read_state(checkpoint).env == DEEPRACER_ID and chosen.get("env", DEEPRACER_ID) == DEEPRACER_ID:
        _race(checkpoint, chosen, (places, scratch), (reporter, stop))
        return
    _refuse_race(chosen)
    is_offline = "algorithm" in read_state(checkpoint).policy
    video = places.videos / "evaluation.mp4"
    if read_state(checkpoint).env == UNITY_ID and not is_offline:
        spec, recorder, playing = _open_scene(checkpoint, chosen, places, (reporter, stop))
    else:
        spec, policy = _load(checkpoint, chosen, is_foreign=_is_foreign(checkpoint, chosen, places))
        recorder = Recorder(spec)
        playing = _play((spec, policy), recorder, chosen, video, stop)
    episodes = []
    for episode in playing:
        episodes.append(asdict(episode))
        reporter.line(f"Episode reward: {episode.total_reward}. Episode steps: {episode.steps}")
        if is_offline:  # Coach's own line, which SageMaker's regex of its time reads
            reporter.line(
                f"Testing> Name=main_level/agent, Worker=0, Episode={len(episodes)}, "
                f"Total reward={episode.total_reward}, Exploration=0, Steps={episode.steps}"
            )
    if not episodes:
        raise Interrupted
    rewards = [episode["total_reward"] for episode in episodes]
    reporter.line(f"Mean Reward: {statistics.fmean(rewards)}")
    reporter.line(f"Max Reward: {max(rewards)}")
    reporter.line(f"Min Reward: {min(rewards)}")
    if recorder.why_not:
        reporter.note(f"no video: {recorder.why_not}")
    report = {
        "env": spec.name,
        "checkpoint": checkpoint.name,
        "seed": spec.config.get("seed") if spec.name == UNITY_ID else chosen.get("seed"),
        "mean_reward": statistics.fmean(rewards),
        "max_reward": max(rewards),
        "min_reward": min(rewards),
        "std_reward": statistics.pstdev(rewards),
        "episodes": episodes,
        "video": None if recorder.why_not else video.name,
    }
    with _writing(places.data):
        (places.data / FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    facts = {"results": str(places.data / FILE), "video": recorder.why_not or str(video)}
    reporter.finish(Summary(f"evaluated {len(episodes)} episodes of {spec.name}", facts))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Names the folder when the machine will not write.

    Raises:
        PlatformError: The disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise PlatformError(
            f"{where}: could not be written: {error.strerror or error}. Choose another --out."
        ) from None


def _race(
    checkpoint: Path,
    chosen: Mapping[str, Any],
    where: tuple[Places, Path],
    listeners: tuple[Reporter, StopRequest],
) -> None:
    """Evaluates a DeepRacer policy, alone or against another."""
    from runtime.artifacts.model_directory import open_model
    from runtime.families.deepracer.evaluation import evaluate_racers

    (places, scratch), (reporter, stop) = where, listeners
    checkpoints = [checkpoint]
    if "against" in chosen:
        scratch = scratch / "against"
        scratch.mkdir()
        try:
            against = places.container.find_input(chosen["against"]) or Path(chosen["against"])
            other = open_model(against, scratch=scratch, checkpoint=chosen.get("checkpoint"))
        except UserError as error:
            raise UserError(f"against: {error}") from None
        checkpoints.append(other)
    records = Layout.of_results(places.model).deepracer  # of a training, where log tools find both
    traces = records if records.is_dir() and places.data.is_relative_to(places.model) else places.data
    with _writing(places.data):
        report = evaluate_racers(checkpoints, chosen, (places.data, traces), (reporter, stop))
        (places.data / FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _open_scene(
    checkpoint: Path, chosen: Mapping[str, Any], places: Places, listeners: tuple[Reporter, StopRequest]
) -> tuple[EnvSpec, Recorder, Iterator[Episode]]:
    """A Unity scene, who films it, and its episodes; the film is of one more, which is not counted."""
    from runtime.artifacts.checkpoint import read_state
    from runtime.artifacts.policy_file import read_policy
    from runtime.environments.recording import Recorder
    from runtime.families.unity.evaluation import ScenePlay, settle_evaluation
    from runtime.families.unity.ppo_settings import why_no_video
    from runtime.families.unity.scene import open_scene

    (reporter, stop), state = listeners, read_state(checkpoint)
    settings = settle_evaluation(
        chosen,
        state.policy["env_config"],
        places.container.channels,
        logs=places.videos / "unity",
        trusts_player=not _is_foreign(checkpoint, chosen, places),
    )
    spec = EnvSpec(UNITY_ID, settings)
    with stop:
        scene = open_scene(settings)
    spaces = scene.single_observation_space, scene.single_action_space
    _check_spaces(chosen.get("env", UNITY_ID), state, list(spaces[0].shape or ()), str(spaces[1]))
    policy = read_policy(checkpoint, spaces[1], settings=state.policy, trust=_trusts(chosen))
    recorder = Recorder(spec, why_not=why_no_video(scene))

    def play() -> Iterator[Episode]:
        playing = ScenePlay(scene, policy)
        most_steps = chosen.get("evaluate_steps", math.inf)
        yield from playing.episodes(stop, most_episodes=_most_episodes(chosen), most_steps=most_steps)
        for note in playing.notes():
            reporter.note(note)
        scene.close()
        with contextlib.suppress(Interrupted), stop:
            recorder.film(policy, places.videos / "evaluation.mp4", longest_s=_LONGEST_FILM_S)
        recorder.close()

    return spec, recorder, play()


def _trusts(chosen: Mapping[str, Any]) -> bool:
    """Whether the user trusts where the model is from."""
    return bool(chosen.get("trust_checkpoint", False))


def _is_foreign(checkpoint: Path, chosen: Mapping[str, Any], places: Places) -> bool:
    """Whether a model may be a stranger's: an archive, but for one in a channel, which its job has set."""
    is_archive = not checkpoint.is_relative_to(places.model)
    return is_archive and places.model not in places.container.channels.values() and not _trusts(chosen)


def _most_episodes(chosen: Mapping[str, Any]) -> float:
    return float(chosen.get("evaluate_episodes", math.inf if "evaluate_steps" in chosen else _DEFAULT_EPISODES))


def _check_spaces(env: str, state: JobState, shape: list[int], actions: str) -> None:
    if (shape, actions) != (state.observation_shape, state.action_space):
        raise UserError(
            f"env: got {env!r} with observations {shape} and actions {actions}; expected those of the model, "
            f"{state.observation_shape} and {state.action_space}. Evaluate it on {state.env}."
        )


def _refuse_race(chosen: Mapping[str, Any]) -> None:
    problems = Problems()
    for name in RACE_EVALUATION:
        if name in chosen:
            problems.add_line(f"{name}: got {chosen[name]!r} for a policy that is no DeepRacer's; leave it out.")
    problems.raise_if_any()


def _load(checkpoint: Path, chosen: Mapping[str, Any], *, is_foreign: bool) -> tuple[EnvSpec, Policy | NetworkPolicy]:
    """The environment to play and the policy that plays it, once they fit each other.

    Raises:
        UserError: They do not, or an archive of somebody else's names a program as its environment.
    """
    from runtime.artifacts.checkpoint import read_state

    state = read_state(checkpoint)
    name = chosen.get("env", state.env)
    if not name:
        raise UserError("env: got none, and the model learned from a log without one; expected env=NAME to play in.")
    is_offline = "algorithm" in state.policy
    is_program = is_foreign and (":" in name or name in PROGRAM_IDS)  # imports a module, or starts a program
    if is_program and "env" not in chosen:
        raise UserError(
            f"env: got {name!r} from an archive, which runs a program; expected one that you name. Set env={name} if "
            "that is what you want to run, or trust_checkpoint=true if you trust where the model is from."
        )
    env_config = state.policy["env_config"] if name == state.env and not is_program else {}
    spec = EnvSpec(name, env_config, state.policy["horizon"])
    problems = Problems()
    check_env_name("env", name, "the model", problems)
    problems.raise_if_any()
    env = make_env(spec)
    actions = _describe(env.action_space, is_offline=is_offline)
    _check_spaces(name, state, list(env.observation_space.shape or ()), actions)
    policy = _load_policy(checkpoint, env.action_space, state.policy, is_offline=is_offline, trust=_trusts(chosen))
    env.close()
    return spec, policy


def _describe(actions: gymnasium.Space[Any], *, is_offline: bool) -> str:
    """The action space as a checkpoint names it; a log does not know the bounds of continuous actions."""
    is_box = isinstance(actions, gymnasium.spaces.Box)
    return f"Box{actions.shape}" if is_offline and is_box else str(actions)


def _load_policy(
    checkpoint: Path, actions: gymnasium.Space[Any], settings: dict[str, Any], *, is_offline: bool, trust: bool
) -> Policy | NetworkPolicy:
    if is_offline:
        from runtime.policies.network_policy import FILE as POLICY_FILE
        from runtime.policies.network_policy import NetworkPolicy

        return NetworkPolicy.load(checkpoint / POLICY_FILE)
    from runtime.artifacts.policy_file import read_policy

    return read_policy(checkpoint, actions, settings=settings, trust=trust)


def _play(
    players: tuple[EnvSpec, Policy | NetworkPolicy],
    recorder: Any,
    chosen: Mapping[str, Any],
    video: Path,
    stop: StopRequest,
) -> Iterator[Any]:
    """Plays the episodes; the first is filmed where the environment gives frames."""
    from runtime.environments.recording import play

    spec, policy = players
    seed = chosen.get("seed")
    env = make_env(spec)
    most_steps, steps = chosen.get("evaluate_steps", math.inf), 0
    most_episodes = _most_episodes(chosen)
    for number in itertools.count():
        if number >= most_episodes or steps >= most_steps:
            break
        reset_seed = None if seed is None else seed + number
        try:
            with stop:
                filmed = recorder.film(policy, video, seed=reset_seed) if number == 0 else None
                episode = filmed or play(env, policy, seed=reset_seed)
        except Interrupted:
            break
        steps += episode.steps
        yield episode
        if stop.is_set:
            break
    env.close()
    recorder.close()
