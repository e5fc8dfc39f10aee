"""Reads logs that RLlib wrote: JSON lines of sample batches, and Parquet of steps or of whole episodes.

Observations that RLlib packed are pickles. They are read by an unpickler that knows arrays alone, so that a log cannot
run code. Source: ray 2.60, `rllib/offline/json_writer.py` and `rllib/offline/offline_env_runner.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.artifacts.trust import load_data
from runtime.errors import Problems, UserError
from runtime.offline.data.log import Bools, Log, Singles
from runtime.policies.spaces import ACTION_MASK

JSON = (".json", ".jsonl")
_EPISODE = "item"  # Parquet's one column of whole episodes
_STEPS = {"obs", "actions", "rewards", "eps_id"}
_NEEDED = ("obs", "actions", "rewards")
_NOT_ARRAYS = "arrays of numbers of equal shape; flatten Dict and Tuple spaces first"


@dataclass(frozen=True)
class _Part:
    """Consecutive steps of one batch, one table or one episode.

    Attributes:
        name: Where the part is, for messages.
        observations: (N, O) before each step.
        following: (N, O) after each step; None where the log does not have them.
        actions: (N,) discrete, or (N, A) continuous.
        rewards: (N,).
        episodes: N ids.
        steps: (N,) number of each step in its episode; None if rows are in order.
        terminated: (N,).
        truncated: (N,).
        probabilities: (N,) behavior policy's probability of the action that was taken; None if unknown.
        masks: (N, M) 1 for each allowed action before each step; M is 0 where the log has no masks.
    """

    name: str
    observations: Singles
    following: Singles | None
    actions: NDArray[Any]
    rewards: Singles
    episodes: list[Any]
    steps: NDArray[np.float64] | None
    terminated: Bools
    truncated: Bools
    probabilities: Singles | None
    masks: Singles

    @property
    def states(self) -> Singles:
        """(N, O + M) observations with their masks at the end."""
        if not self.masks.shape[1]:
            return self.observations
        return np.concatenate([self.observations, self.masks], axis=1)


def is_rllib_parquet(columns: Sequence[str]) -> bool:
    """Whether a Parquet file with these columns is a log of RLlib."""
    return set(columns) == {_EPISODE} or set(columns) >= _STEPS


def read_rllib_json(paths: Sequence[Path]) -> Log:
    """Reads JSON lines, each a sample batch, as RLlib's JsonWriter writes them.

    Raises:
        UserError: A line is something else; all such lines are listed.
    """
    return _as_log(paths, _parts(paths, _json_batches))


def read_rllib_parquet(paths: Sequence[Path]) -> Log:
    """Reads Parquet files of RLlib's new API stack: a row for each step, or an encoded episode in each row.

    Raises:
        UserError: A file cannot be read, or holds something else; all such files are listed.
    """
    return _as_log(paths, _parts(paths, _parquet_batches))


def _parts(paths: Sequence[Path], batches: Any) -> list[_Part]:
    problems = Problems(str(paths[0].parent) if len(paths) > 1 else str(paths[0]))
    found = []
    for path in paths:
        try:
            for name, batch in batches(path):
                if len(batch.get("rewards", ())) or "rewards" not in batch:
                    found.append(_part(name, batch))
        except UserError as error:
            problems.add_line(str(error))
    problems.raise_if_any()
    return found


def _json_batches(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    problems = Problems(str(path))
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path}: got a file that cannot be read ({error.strerror}); expected JSON lines.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name = f"{path}, line {number}"
        try:
            found.append((name, _only_policy(json.loads(line), name)))
        except UserError as error:
            problems.add_line(str(error))
        except (ValueError, AttributeError, TypeError) as error:
            shown = line[:40].decode(errors="replace")
            problems.add_line(
                f"{name}: got {shown!r} ({type(error).__name__}); expected a sample batch of RLlib, as "
                '{"type": "SampleBatch", "obs": …}.'
            )
    problems.raise_if_any()
    yield from found


def _only_policy(batch: Any, name: str) -> Mapping[str, Any]:
    """Returns the columns of a batch; of a batch of several agents those of its policy, if it has one."""
    if batch.get("type") != "MultiAgentBatch":
        return dict(batch)
    policies = batch["policy_batches"]
    if len(policies) != 1:
        raise UserError(
            f"{name}: got the policies {', '.join(sorted(policies)) or 'none'}; expected one. Log each in its own file."
        )
    return dict(next(iter(policies.values())))


def _parquet_batches(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: got a file that is not Parquet ({error}); expected a log of RLlib.") from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    if set(columns) != {_EPISODE}:
        yield str(path), columns
        return
    for row, content in enumerate(columns[_EPISODE], start=1):
        name = f"{path}, row {row}"
        yield name, _episode_columns(content, name)


def _episode_columns(content: Any, name: str) -> Mapping[str, Any]:
    """Returns the columns of an episode that RLlib encoded by msgpack and msgpack_numpy."""
    import msgpack

    try:
        state = msgpack.unpackb(content, object_hook=_decode_array, strict_map_key=False)
        steps = {key: _after_lookback(state[key]) for key in ("observations", "actions", "rewards")}
        count = len(steps["rewards"])
        last = np.arange(count) == count - 1
        outputs = {key: _after_lookback(one) for key, one in (state["extra_model_outputs"] or {}).items() if one}
        return {
            "obs": steps["observations"][:count],
            "new_obs": steps["observations"][1 : count + 1],
            "actions": steps["actions"],
            "rewards": steps["rewards"],
            "eps_id": [state["id_"]] * count,
            "t": np.arange(count) + state["t_started"],
            "terminateds": last & bool(state["is_terminated"]),
            "truncateds": last & bool(state["is_truncated"]),
            **{key: values for key, values in outputs.items() if key.startswith("action_")},
        }
    except Exception as error:  # msgpack raises many types of errors
        raise UserError(
            f"{name}: got a cell that is no episode ({type(error).__name__}: {error}); expected one that RLlib "
            "encoded, with output_write_episodes=True."
        ) from None


def _decode_array(found: dict[Any, Any]) -> Any:
    """Decodes an array or a number of msgpack_numpy.

    Raises:
        ValueError: It is an array of Python objects, which are pickles.
    """
    if b"nd" not in found:
        return found
    dtype = found[b"type"]
    if found.get(b"kind") == b"O" or not isinstance(dtype, str) or "O" in dtype:
        raise ValueError("an array of Python objects")
    values = np.frombuffer(found[b"data"], np.dtype(dtype))
    return values.reshape(found[b"shape"]) if found[b"nd"] else values[0]


def _after_lookback(buffer: Mapping[str, Any]) -> Any:
    """Returns a buffer's items without those of an earlier part of the episode."""
    return buffer["data"][int(buffer["lookback"]) :]


def _part(name: str, batch: Mapping[str, Any]) -> _Part:
    states = batch.get("obs")
    entries = states[0] if isinstance(states, list) and states else states
    if isinstance(entries, Mapping) and ACTION_MASK in entries:
        raise UserError(
            f"{name}: obs: got entries with an {ACTION_MASK}; expected rows of numbers. Write the masks as a column "
            f"{ACTION_MASK} beside obs, as rl.training.config.output does."
        )
    missing = [key for key in _NEEDED if key not in batch]
    if missing:
        raise UserError(
            f"{name}: got the columns {', '.join(batch) or 'none'}; expected {', '.join(missing)} among them."
        )
    rewards = _numbers(name, "rewards", batch["rewards"]).reshape(-1)
    count = len(rewards)

    def column(key: str) -> NDArray[Any] | None:
        values = None if batch.get(key) is None else _numbers(name, key, batch[key])
        if values is not None and len(values) != count:
            raise UserError(f"{name}: {key}: got {len(values)} rows; expected {count}, as there are rewards.")
        return values

    observations, following, actions = column("obs"), column("new_obs"), column("actions")
    masks = column(ACTION_MASK)
    assert observations is not None
    assert actions is not None
    if actions.ndim == 2 and actions.shape[1] == 1 and np.issubdtype(actions.dtype, np.integer):
        actions = actions[:, 0]
    ends = [column(key) for key in ("terminateds", "dones", "truncateds")]
    flags = [np.zeros(count, bool) if one is None else one.reshape(-1).astype(bool) for one in ends]
    terminated, truncated = flags[0] if ends[0] is not None else flags[1], flags[2]
    steps, ids = column("t"), batch.get("eps_id")
    if ids is None:  # as old versions wrote it: the flags alone tell episodes apart
        before = np.append(0, np.cumsum(terminated | truncated)[:-1]) if count else np.zeros(0)
        ids = [(name, number) for number in before.tolist()]
        steps = None
    return _Part(
        name,
        observations.reshape(count, -1).astype(np.float32),
        # A state without its mask is not whole: the step before a truncation counts in returns alone.
        None if following is None or masks is not None else following.reshape(count, -1).astype(np.float32),
        actions,
        rewards.astype(np.float32),
        ids.tolist() if isinstance(ids, np.ndarray) else list(ids),
        None if steps is None else steps.astype(np.float64),
        terminated & ~truncated,
        truncated,
        _probabilities(actions, column),
        np.zeros((count, 0), np.float32) if masks is None else masks.reshape(count, -1).astype(np.float32),
    )


def _probabilities(actions: NDArray[Any], column: Any) -> Singles | None:
    """Returns (N,) probabilities of the discrete actions that were taken: logged, or of the logged distribution."""
    if actions.ndim != 1:
        return None
    found = column("action_prob")
    if found is None and (logarithms := column("action_logp")) is not None:
        found = np.exp(logarithms.astype(np.float64))
    logits = column("action_dist_inputs") if found is None else None
    if logits is not None and logits.ndim == 2 and actions.max(initial=0) < logits.shape[1]:
        scores = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        found = scores[np.arange(len(actions)), actions.astype(int)] / scores.sum(axis=1)
    return None if found is None else np.asarray(found, np.float32).reshape(-1)


def _numbers(name: str, key: str, values: Any) -> NDArray[Any]:
    """Returns a column as an array; unpacks it, or each of its cells, where RLlib packed them.

    Raises:
        UserError: It holds something else.
    """
    try:
        if isinstance(values, str):
            values = _unpack(values)
        elif len(values) and isinstance(values[0], str | bytes):
            values = [_unpack(value) for value in values]
        found = np.asarray(values)
        if found.dtype == object or found.dtype.kind not in "biuf":
            raise ValueError(f"an array of {found.dtype}")
    except Exception as error:  # base64, lz4 and pickle raise many types of errors
        raise UserError(
            f"{name}: {key}: got what cannot be read ({type(error).__name__}: {error}); expected {_NOT_ARRAYS}."
        ) from None
    return found


def _unpack(text: str | bytes) -> Any:
    import lz4.frame

    return load_data(lz4.frame.decompress(base64.b64decode(text)))


def _as_log(paths: Sequence[Path], parts: list[_Part]) -> Log:
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
    if not parts:
        raise UserError(f"{name}: got no steps; expected at least one episode of one step.")
    _check_shapes(name, parts)
    starts = np.cumsum([0, *(len(part.rewards) for part in parts)])

    def row_name(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return f"step {row - starts[part]} of {parts[part].name}"

    numbers: dict[Any, int] = {}
    episodes = np.array([numbers.setdefault(one, len(numbers)) for part in parts for one in part.episodes], np.int64)
    steps = None
    if all(part.steps is not None for part in parts):
        steps = np.concatenate([part.steps for part in parts if part.steps is not None])
    chosen = [part.probabilities for part in parts if part.probabilities is not None]
    return Log(
        name=name,
        row_name=row_name,
        observations=np.concatenate([part.states for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts]),
        episodes=episodes,
        episode_names=[one[1] if isinstance(one, tuple) else one for one in numbers],
        steps=steps,
        terminated=np.concatenate([part.terminated for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
        chosen_probabilities=np.concatenate(chosen) if len(chosen) == len(parts) else None,
        final_observations=_final_observations(parts, episodes, steps),
        mask_size=parts[0].masks.shape[1],
    )


def _check_shapes(name: str, parts: list[_Part]) -> None:
    problems = Problems(name)
    first = parts[0]
    for what in ("observations", "actions", "masks"):
        expected = getattr(first, what).shape[1:]
        other = next((part for part in parts if getattr(part, what).shape[1:] != expected), None)
        if other is not None:
            found = getattr(other, what).shape[1:]
            problems.add_line(f"{other.name}: {what}: got the shape {found}; expected {expected}, as in {first.name}.")
    problems.raise_if_any()


def _final_observations(
    parts: list[_Part], episodes: NDArray[np.int64], steps: NDArray[np.float64] | None
) -> dict[int, Singles]:
    """Returns the state after the last step of each episode, where the log has it."""
    order = np.arange(len(episodes)) if steps is None else steps
    rows = np.lexsort((order, episodes))
    lasts = rows[np.flatnonzero(np.diff(episodes[rows], append=-1))]
    starts = np.cumsum([0, *(len(part.rewards) for part in parts)])
    found = {}
    for row in lasts.tolist():
        number = int(np.searchsorted(starts, row, side="right")) - 1
        following = parts[number].following
        if following is not None:
            found[int(episodes[row])] = following[row - starts[number]]
    return found
