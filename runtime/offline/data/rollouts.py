"""Rollouts of many environments at once, logged as the batch RL notebook logs them.

The notebook's `env_utils.VectoredGymEnvironment`, on Gymnasium's vector environments, seeded, and able to continue in
another process: a session file holds each environment's seed and actions, which are replayed to restore its state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from runtime.artifacts.exports import OBSERVATIONS
from runtime.environments.spec import EnvSpec, check_env_name, make_env
from runtime.errors import Problems, UserError
from runtime.files import write_text
from runtime.policies.spaces import ACTION_MASK, mask_size, split_masks

if TYPE_CHECKING:
    import pandas

_SUM_TOLERANCE = 1e-3
_STATE_TOLERANCE = 1e-4

# Branches of the seed.
_RESETS = 1
_SAMPLING = 2

# From (N, O) observations to (N, A) action probabilities, or (N, A) actions of a Box.
Policy = Callable[[NDArray[np.float32]], NDArray[np.float64]]


class VectoredGymEnvironment:
    """Several copies of an environment, stepped together, their steps logged.

    Args:
        registered_gym_env: Gymnasium id, or module:Class.
        num_of_envs: Number of environment copies.
        seed: Copy i's episode k starts from a seed drawn from (seed, i, k).

    Raises:
        UserError: There is no such environment, or its observations are not a flat Box.
    """

    def __init__(self, registered_gym_env: str, num_of_envs: int = 1, *, seed: int = 0) -> None:
        self._name = registered_gym_env
        self.num_of_envs = num_of_envs
        self._seed = seed
        problems = Problems("this collection")
        check_env_name("env", registered_gym_env, "the caller", problems)
        problems.raise_if_any()
        self._envs = SyncVectorEnv(
            [lambda: make_env(EnvSpec(registered_gym_env))] * num_of_envs, autoreset_mode=AutoresetMode.DISABLED
        )
        space, actions = self._envs.single_observation_space, self._envs.single_action_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise UserError(f"env: got {registered_gym_env!r} with observations {space}; expected a flat Box.")
        is_flat = isinstance(actions, gymnasium.spaces.Box) and len(actions.shape) == 1
        if not (is_flat or (isinstance(actions, gymnasium.spaces.Discrete) and actions.start == 0)):
            raise UserError(
                f"env: got {registered_gym_env!r} with actions {actions}; expected Discrete from 0, or a flat Box."
            )
        self.action_space: Any = actions
        self.state_dims = space.shape[0]
        self.mask_size = mask_size(space)
        self._rng = np.random.default_rng([seed, _SAMPLING])
        self._episodes = np.zeros(num_of_envs, np.int64)
        self._actions: list[list[Any]] = [[] for _ in range(num_of_envs)]  # of the running episodes
        self._returns = np.zeros(num_of_envs)
        self._states = self._reset(np.ones(num_of_envs, bool))

    def reset_all_envs(self) -> None:
        """Starts a new episode in every environment."""
        self._episodes += 1
        self._states = self._reset(np.ones(self.num_of_envs, bool))

    def get_environment_ids(self) -> list[str]:
        """Returns the names of the copies, in order."""
        return [f"environment_{i}" for i in range(self.num_of_envs)]

    def get_environment_states(self) -> dict[str, NDArray[np.float32]]:
        """Returns the current observation of each copy."""
        return dict(zip(self.get_environment_ids(), self._states.copy(), strict=True))

    def dump_environment_states(self, dir_path: str | Path, file_name: str) -> None:
        """Writes each copy's observation as a line of JSON, the input format of a batch transform."""
        rows = [[float(f"{value:.9g}") for value in state] for state in self._states.tolist()]
        size = self.mask_size
        lines = [{OBSERVATIONS: row[:-size], ACTION_MASK: row[-size:]} if size else row for row in rows]
        write_text(Path(dir_path) / file_name, "".join(json.dumps(line) + "\n" for line in lines))

    def collect_rollouts_with_given_action_probs(
        self,
        num_steps: int | None = None,
        num_episodes: int | None = None,
        action_probs: Sequence[Sequence[float]] | None = None,
        file_name: str | Path | None = None,
    ) -> pandas.DataFrame:
        """Collects steps with fixed action probabilities, a list for each copy.

        Args:
            num_steps: Steps to take in each copy; or
            num_episodes: whole episodes to play in each.
            action_probs: (N, A) probabilities; or
            file_name: the output of a batch transform that holds them, joined with its input or not.

        Returns:
            A row a step: action, all_action_probabilities, episode_id, reward, cumulative_rewards (an episode's return
            in its last row, else 0), state_feature_0, …, action_mask_0, … where the environment has masks,
            transition_number, terminated, truncated.

        Raises:
            UserError: The probabilities are not one list for each copy, of numbers that sum to 1.
        """
        if (num_steps is None) == (num_episodes is None):
            raise UserError("collect: got both or neither of num_steps and num_episodes; expected one of them.")
        if (action_probs is None) == (file_name is None):
            raise UserError("collect: got both or neither of action_probs and file_name; expected one of them.")
        if file_name is not None:
            given, states = read_transform_output(Path(file_name))
            self._check_states(states, file_name)
        else:
            try:
                given = np.array(action_probs, np.float64)
            except (ValueError, TypeError):
                raise UserError(
                    "action_probs: got rows of different lengths, or no numbers; expected a list a copy."
                ) from None
        probabilities = self._check(given, str(file_name or "action_probs"))
        return self.collect(lambda _: probabilities, num_steps=num_steps, num_episodes=num_episodes)

    def collect(
        self,
        policy: Policy,
        *,
        num_steps: int | None = None,
        num_episodes: int | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> pandas.DataFrame:
        """Collects steps with a policy of the states.

        Args:
            policy: From (N, O) observations to (N, A) probabilities, or (N, A) actions of a Box.
            num_steps: Steps to take in each copy; or
            num_episodes: whole episodes to play in each.
            until: Called before each step; returning true ends the collection early.

        Returns:
            As `collect_rollouts_with_given_action_probs`.
        """
        rows: list[tuple[Any, ...]] = []
        finished = np.zeros(self.num_of_envs, np.int64)
        while True:
            is_playing = (
                finished < num_episodes if num_episodes is not None else np.full(self.num_of_envs, num_steps != 0)
            )
            if until() or not is_playing.any() or (num_steps is not None and finished.max() >= num_steps):
                break
            ended = self._step(policy, is_playing, rows)
            finished += ended if num_episodes is not None else 1
        return self._as_frame(rows)

    def _step(self, policy: Policy, is_playing: NDArray[np.bool_], rows: list[tuple[Any, ...]]) -> NDArray[np.bool_]:
        """Steps every copy, logs those that are playing, and starts new episodes where one has ended.

        A vector environment steps all copies or none. A copy that is done steps on without logging, and is reset to the
        seed of its next episode afterwards.
        """
        states = self._states
        given = policy(self._states)
        self._check_allowed(given)
        actions = self._sample(given) if self._is_discrete else given.astype(np.float32)
        stepped: Any = self._envs.step(actions)
        following, rewards, terminated, truncated, _ = stepped
        ended = np.asarray(terminated | truncated)
        self._returns += rewards
        for i in np.flatnonzero(is_playing).tolist():
            number = len(self._actions[i])
            self._actions[i].append(actions[i].tolist())
            chosen = [int(actions[i]), given[i].tolist()] if self._is_discrete else actions[i].tolist()
            total = float(self._returns[i]) if ended[i] else 0.0
            name = i + self.num_of_envs * int(self._episodes[i])  # the notebook's numbering
            end = (number, bool(terminated[i]), bool(truncated[i] and not terminated[i]))
            rows.append((*chosen, name, float(rewards[i]), total, *states[i].tolist(), *end))
        self._states = following.astype(np.float32)
        self._episodes[ended & is_playing] += 1
        # A copy that waits returns to the first state of its next episode.
        again = ended | ~is_playing
        if again.any():
            self._states = self._reset(again)
        return ended & is_playing

    def _check_allowed(self, given: NDArray[np.float64]) -> None:
        """Checks that the probabilities of actions that the states' masks do not allow are 0.

        Raises:
            UserError: One is not.
        """
        masks = split_masks(self._states, self.mask_size)[1]
        if masks is None:
            return
        wrong = ((given > 0) & ~masks).any(axis=1)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise UserError(
                f"probabilities of environment_{i}: got {given[i].tolist()}; expected 0 for the actions that its "
                f"{ACTION_MASK} does not allow, {masks[i].astype(int).tolist()}. Take them from a policy that was "
                "trained with masks."
            )

    def _sample(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        thresholds = np.cumsum(probabilities, axis=1)
        draws = self._rng.random(len(probabilities))[:, None] * thresholds[:, -1:]
        return np.asarray((draws >= thresholds[:, :-1]).sum(axis=1), np.int64)

    def _reset(self, which: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Restarts the current episode of the selected copies; returns all states."""
        seeds: list[int | None] = [
            int(np.random.SeedSequence([self._seed, _RESETS, i, int(k)]).generate_state(1)[0])
            for i, k in enumerate(self._episodes)
        ]
        states: Any = self._envs.reset(seed=seeds, options={"reset_mask": which})[0]
        for i in np.flatnonzero(which).tolist():
            self._actions[i] = []
        self._returns[which] = 0.0
        return np.asarray(states, np.float32)

    def _as_frame(self, rows: list[tuple[Any, ...]]) -> pandas.DataFrame:
        import pandas

        numbers = range(0 if self._is_discrete else self.action_space.shape[0])
        chosen = ["action", "all_action_probabilities"] if self._is_discrete else [f"action_{i}" for i in numbers]
        states = [f"state_feature_{i}" for i in range(self.state_dims - self.mask_size)]
        states += [f"{ACTION_MASK}_{i}" for i in range(self.mask_size)]
        columns = [
            *chosen,
            "episode_id",
            "reward",
            "cumulative_rewards",
            *states,
            "transition_number",
            "terminated",
            "truncated",
        ]
        frame = pandas.DataFrame(rows, columns=columns)
        # The episodes of a copy stand together, as in the notebook's files.
        order = np.lexsort((frame["episode_id"], frame["episode_id"] % self.num_of_envs))
        return frame.iloc[order].reset_index(drop=True)

    def _check(self, given: NDArray[np.float64], source: str) -> NDArray[np.float64]:
        """Checks action probabilities and scales them to a sum of 1.

        Raises:
            UserError: Their shape or their values are wrong.
        """
        if not self._is_discrete:
            raise UserError(f"{source}: got probabilities for {self._name}, whose actions are continuous.")
        count = int(self.action_space.n)
        if given.shape != (self.num_of_envs, count):
            raise UserError(
                f"{source}: got probabilities of shape {given.shape}; expected {(self.num_of_envs, count)}: a row for "
                "each environment, a number for each action."
            )
        problems = Problems()
        sums = given.sum(axis=1)
        wrong = ~((given >= 0).all(axis=1) & (np.abs(sums - 1) <= _SUM_TOLERANCE))
        for row in np.flatnonzero(wrong)[:5].tolist():
            problems.add(f"{source}, row {row + 1}", given[row].tolist(), "the file", expected="numbers that sum to 1")
        problems.raise_if_any()
        return np.asarray(given / sums[:, None])

    def _check_states(self, states: list[Any], source: str | Path) -> None:
        """Checks that the states in the transform's output are the current ones of these environments.

        Raises:
            UserError: They are other states.
        """
        for i, (found, state) in enumerate(zip(states, self._states, strict=False)):
            if found is not None and not _is_close(found, state):
                raise UserError(
                    f"{source}, line {i + 1}: got probabilities for the state {found}; expected them for the present "
                    f"state of environment_{i}, {state.tolist()}. Dump the states and transform them again."
                )

    def save_session(self, path: Path) -> None:
        """Writes each copy's episode number and its actions so far, from which the current states are restored."""
        session = {
            "env": self._name,
            "seed": self._seed,
            "episodes": self._episodes.tolist(),
            "actions": self._actions,
        }
        write_text(path, json.dumps(session) + "\n")

    @classmethod
    def load_session(cls, path: Path) -> VectoredGymEnvironment:
        """Restores environments to the states of a saved session by replaying its actions.

        Raises:
            UserError: There is no such session.
        """
        try:
            session = json.loads(path.read_text(encoding="utf-8"))
            episodes = np.array(session["episodes"], np.int64)
            actions = session["actions"]
            if len(actions) != len(episodes):
                raise ValueError(f"{len(actions)} lists of actions for {len(episodes)} environments")
            envs = cls(session["env"], len(episodes), seed=session["seed"])
            envs._replay(episodes, actions)
        except UserError:
            raise
        except Exception as error:  # in an edited file the environment may raise anything for its actions
            raise UserError(
                f"{path}: got no session ({type(error).__name__}: {error}); expected the file that `smrl collect "
                "--states` wrote beside the states. Write them again."
            ) from None
        return envs

    def _replay(self, episodes: NDArray[np.int64], actions: list[list[Any]]) -> None:
        self._episodes = episodes
        self._states = self._reset(np.ones(len(episodes), bool))
        for i, env in enumerate(self._envs.envs):
            for action in actions[i]:
                state, reward, *_ = env.step(np.asarray(action, self._envs.single_action_space.dtype))
                self._states[i] = state
                self._returns[i] += float(reward)
            self._actions[i] = list(actions[i])
        self._rng = np.random.default_rng([self._seed, _SAMPLING, *map(int, episodes), sum(map(len, actions))])

    @property
    def _is_discrete(self) -> bool:
        return isinstance(self.action_space, gymnasium.spaces.Discrete)


def _is_close(found: Any, state: NDArray[np.float32]) -> bool:
    try:
        given = np.array(found, np.float64)
    except (ValueError, TypeError):
        return False
    return given.shape == state.shape and np.allclose(given, state, rtol=_STATE_TOLERANCE, atol=_STATE_TOLERANCE)


def _state_of(record: dict[str, Any]) -> Any:
    """Returns the state that a record is joined with, its mask at the end, or None; an object is joined in place."""
    given = record.get("SageMakerInput", record)
    if not isinstance(given, dict):
        return given
    return [*given[OBSERVATIONS], *given.get(ACTION_MASK, [])] if OBSERVATIONS in given else None


def read_transform_output(path: Path) -> tuple[NDArray[np.float64], list[Any]]:
    """Reads action probabilities, and their states if the output is joined with its input.

    Args:
        path: JSON lines such as `{"SageMakerInput": […], "SageMakerOutput": {"predictions": [[p0, p1]]}}`.

    Returns:
        (N, A) probabilities; a state or None for each.

    Raises:
        UserError: A line is something else.
    """
    probabilities = []
    states = []
    problems = Problems()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--action-probs: got {str(path)!r}, which cannot be read ({error}).") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            answer = record.get("SageMakerOutput", record)["predictions"][0]
            probabilities.append([float(value) for value in answer])
            states.append(_state_of(record))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            problems.add(
                f"{path}, line {number}",
                line[:80],
                "the file",
                expected='{"predictions": [[…]]}, an answer of a transform',
            )
    problems.raise_if_any()
    if len({len(row) for row in probabilities}) != 1:
        raise UserError(f"{path}: got rows of different lengths, or none; expected a probability for each action.")
    return np.array(probabilities), states
