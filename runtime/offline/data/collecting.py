"""The command `smrl collect`: logs episodes of an environment, as data for batch RL."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.artifacts.exports import PROBABILITIES
from runtime.container.scratch import scratch_folder
from runtime.container.signals import StopRequest
from runtime.environments.spec import check_env_name
from runtime.errors import PlatformError, Problems, UserError
from runtime.files import writing_aside
from runtime.offline.data.rollouts import Policy, VectoredGymEnvironment
from runtime.policies.spaces import split_masks

UNIFORM = "uniform"
_SESSION = ".session.json"


@dataclass(frozen=True)
class CollectRequest:
    """Request of `smrl collect`: the environment, how much to collect, and with which policy.

    Attributes:
        env: Gymnasium id; None to continue a session.
        envs: Number of environment copies.
        episodes: Whole episodes to collect in each copy, or None.
        steps: Steps to take in each copy, or None.
        policy: `uniform`, or a results folder, model directory or model.tar.gz of discrete actions.
        epsilon: Share of uniformly random actions mixed into that policy's actions, 0..1.
        seed: Seed of the environments and of the actions.
        out: CSV or Parquet file to write; None writes states alone.
        states: File for the final observations of the environments; a session file is written beside it.
        action_probs: Output of a batch transform; the session beside `states` continues with its probabilities.
    """

    env: str | None = None
    envs: int | None = None
    episodes: int | None = None
    steps: int | None = None
    policy: str = UNIFORM
    epsilon: float = 0.0
    seed: int = 0
    out: Path | None = None
    states: Path | None = None
    action_probs: Path | None = None


def run_collect(request: CollectRequest, stop: StopRequest) -> None:
    """Collects episodes, writes them and prints a summary; a stop request ends the collection, and keeps its steps.

    Raises:
        UserError: The request, the environment or a file is invalid.
        PlatformError: A file could not be written.
    """
    _check(request)
    envs = _open(request)
    frame = _play(envs, request, stop) if request.out is not None else None
    try:
        if frame is not None and request.out is not None:
            write_rows(frame, request.out, appends=request.action_probs is not None)
        if request.states is not None:
            request.states.parent.mkdir(parents=True, exist_ok=True)
            envs.dump_environment_states(request.states.parent, request.states.name)
            envs.save_session(_session(request.states))
    except OSError as error:
        raise PlatformError(
            f"{error.filename or request.out or request.states}: could not be written: {error.strerror or error}."
        ) from None
    print(_describe(frame, request, envs))


def _check(request: CollectRequest) -> None:
    problems = Problems("this collection")
    _check_who_plays(request, problems)
    _check_files(request, problems)
    if request.episodes is not None and request.steps is not None:
        problems.add_line("--episodes: got it beside --steps; expected one of them.")
    if not 0 <= request.epsilon <= 1:  # NaN neither
        problems.add("--epsilon", request.epsilon, "the command line", expected="a share from 0 to 1")
    elif request.epsilon and request.policy == UNIFORM:
        problems.add(
            "--epsilon", request.epsilon, "the command line", expected="--policy with a trained policy beside it"
        )
    problems.raise_if_any()


def _check_who_plays(request: CollectRequest, problems: Problems) -> None:
    if request.action_probs is None:
        if request.env is None:
            problems.add_line("--env: got none; expected the environment to collect from, as CartPole-v0.")
        else:
            check_env_name("--env", request.env, "the command line", problems)
        return
    if request.states is None:
        problems.add_line(
            "--states: got none beside --action-probs; expected the file of states that the probabilities are for."
        )
    given = [name for name in ("env", "envs", "episodes") if getattr(request, name) is not None]
    if given or request.policy != UNIFORM:
        problems.add_line(
            f"--action-probs: got {', '.join(f'--{name}' for name in given) or '--policy'} beside it; expected the "
            "session beside --states to name the environments, and the file to give their actions."
        )


def _check_files(request: CollectRequest, problems: Problems) -> None:
    if request.out is None and request.action_probs is not None:
        problems.add_line("--out: got none beside --action-probs; expected a file for the steps.")
    elif request.out is None and request.states is None:
        problems.add_line("--out: got none; expected a file to write, as data/cartpole.csv.")
    if request.out is not None and not request.out.name.endswith((".csv", ".parquet")):
        problems.add("--out", str(request.out), "the command line", expected="a name that ends in .csv or .parquet")
    if request.out is not None and request.out == request.states:
        problems.add("--states", str(request.states), "the command line", expected="another file than --out")


def _open(request: CollectRequest) -> VectoredGymEnvironment:
    if request.action_probs is not None and request.states is not None:
        return VectoredGymEnvironment.load_session(_session(request.states))
    return VectoredGymEnvironment(str(request.env), request.envs or 1, seed=request.seed)


def _play(envs: VectoredGymEnvironment, request: CollectRequest, stop: StopRequest) -> Any:
    if request.action_probs is not None:
        return envs.collect_rollouts_with_given_action_probs(
            num_steps=request.steps or 1, file_name=request.action_probs
        )
    episodes = request.episodes if request.steps is not None else request.episodes or 1
    with tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch:
        policy = _policy(envs, request, Path(scratch))
        return envs.collect(policy, num_steps=request.steps, num_episodes=episodes, until=lambda: stop.is_set)


def _policy(envs: VectoredGymEnvironment, request: CollectRequest, scratch: Path) -> Policy:
    """Returns the policy to collect with: uniform, or a trained policy's most likely action mixed with uniform ones.

    Raises:
        UserError: The policy is for other observations or actions than the environment's.
    """
    space = envs.action_space
    rng = np.random.default_rng([request.seed, 3])
    is_discrete = hasattr(space, "n")
    count = int(space.n) if is_discrete else 1

    def uniform(states: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        masks = split_masks(states, envs.mask_size)[1]
        allowed = np.ones((len(states), count)) if masks is None else masks
        return np.asarray(allowed / allowed.sum(axis=1, keepdims=True))

    def draw() -> np.ndarray[Any, Any]:
        return rng.uniform(space.low, space.high, (envs.num_of_envs, *space.shape))

    if request.policy == UNIFORM:
        if not is_discrete and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UserError(f"--policy: got uniform for {request.env}, whose actions have no bounds.")
        return uniform if is_discrete else (lambda states: draw())
    from runtime.serving.transform import open_served

    trained = open_served(Path(request.policy), scratch)
    if (trained.row_shape, trained.mask_size) != ((envs.state_dims,), envs.mask_size):
        raise UserError(
            f"--policy: got one for observations {trained.observation_shape}{_with_mask(trained.mask_size)}; expected "
            f"({envs.state_dims - envs.mask_size},){_with_mask(envs.mask_size)}, as {request.env} has."
        )

    size = count if is_discrete else int(space.shape[0])
    row = np.zeros((1, envs.state_dims), np.float32)
    row[:, envs.state_dims - envs.mask_size :] = 1
    found = trained.run(row, (trained.main_output,))[trained.main_output]
    is_index = np.issubdtype(found.dtype, np.integer)
    if is_discrete is not (is_index or trained.main_output == PROBABILITIES) or (
        not is_index and found.shape[1:] != (size,)
    ):
        raise UserError(f"--policy: got one for other actions; expected those of {request.env}, which are {space}.")

    def act(states: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        found = trained.run(states, (trained.main_output,))[trained.main_output]
        if not is_discrete:
            mixed = rng.random(len(states)) < request.epsilon
            return np.where(mixed[:, None], draw(), found)
        chosen = np.eye(count)[found.astype(int)] if found.ndim == 1 else found
        return np.asarray((1 - request.epsilon) * chosen + request.epsilon * uniform(states), np.float64)

    return act


def _with_mask(size: int) -> str:
    return f" with an action mask of {size}" if size else ""


def write_rows(frame: Any, out: Path, *, appends: bool) -> None:
    """Writes the rows by way of a temporary file; rows of a continued session are appended."""
    import pandas

    out.parent.mkdir(parents=True, exist_ok=True)
    read, is_csv = (pandas.read_csv, True) if out.suffix == ".csv" else (pandas.read_parquet, False)
    if appends and out.exists():
        try:
            earlier = read(out)
        except Exception as error:  # pandas raises many types of errors
            raise UserError(
                f"--out: got {str(out)!r}, which cannot be read ({type(error).__name__}); expected what this "
                "session has written so far. Name another file."
            ) from None
        if list(earlier.columns) != list(frame.columns):
            raise UserError(
                f"--out: got {str(out)!r} with the columns {', '.join(earlier.columns)}; expected what this session "
                "has written so far. Name another file."
            )
        frame = pandas.concat([earlier, frame], ignore_index=True)
        if frame.duplicated(["episode_id", "transition_number"]).any():
            raise UserError(
                f"--out: got {str(out)!r}, which has steps of these episodes already; expected this session's own "
                "file. Name another one."
            )
    with writing_aside(out) as aside:
        if is_csv:
            frame.to_csv(aside, index=False)
        else:
            frame.to_parquet(aside, index=False)


def _session(states: Path) -> Path:
    return states.with_name(states.name + _SESSION)


def _describe(frame: Any, request: CollectRequest, envs: VectoredGymEnvironment) -> str:
    lines = []
    if frame is not None:
        whole = frame[frame["terminated"] | frame["truncated"]]["cumulative_rewards"]
        mean = f"; mean return of {len(whole):,} whole ones: {whole.mean():.2f}" if len(whole) else ""
        more = "more " if request.action_probs is not None else ""
        lines.append(f"{request.out}: {len(frame):,} {more}steps of {frame['episode_id'].nunique():,} episodes{mean}")
    if request.states is not None:
        lines.append(f"{request.states}: the states of {envs.num_of_envs:,} environments, for smrl transform")
    return "\n".join(lines)
