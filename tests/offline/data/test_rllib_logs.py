"""RLlib's logs, written by RLlib's own code where it can be, are read as the episodes that they are."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import lz4.frame
import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.offline.json_writer import JsonWriter
from ray.rllib.policy.sample_batch import SampleBatch

from runtime.errors import UserError
from runtime.offline.data.reading import read_transitions
from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions

# Steps of each episode; the second one is cut off.
LENGTHS = (3, 2, 4)


def make_rows() -> list[dict[str, Any]]:
    """Rows of three episodes: the state counts the steps, the reward is the step's number in the episode."""
    rows = []
    for episode, length in enumerate(LENGTHS):
        for t in range(length):
            is_last = t == length - 1
            row = {"obs": [episode, t], "new_obs": [episode, t + 1], "actions": t % 2, "rewards": float(t)}
            row |= {"terminateds": is_last and episode != 1, "truncateds": is_last and episode == 1}
            rows.append({**row, "eps_id": 1000 + episode, "t": t, "action_prob": 0.25 + 0.5 * (t % 2)})
    return rows


def as_batch(rows: list[dict[str, Any]]) -> SampleBatch:
    kinds = {"obs": np.float32, "new_obs": np.float32}
    return SampleBatch({name: np.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]})


def check(data: Transitions) -> None:
    """Checks that the log has the episodes of `make_rows`."""
    assert data.lengths.tolist() == list(LENGTHS)
    assert data.returns.tolist() == [3, 1, 6]
    np.testing.assert_array_equal(data.states[:3], [[0, 0], [0, 1], [0, 2]])
    assert data.actions.tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 1]
    assert data.num_actions == 2
    assert data.has_probabilities
    np.testing.assert_allclose(data.chosen_probabilities, 0.25 + 0.5 * data.actions)
    # The state after the cut is learned from; the other episodes end by themselves.
    assert data.next_rows[[2, 8]].tolist() == [TERMINAL, TERMINAL]
    np.testing.assert_array_equal(data.observations[data.next_rows[4]], [1, 2])


@pytest.mark.parametrize("packed", [[], ["obs", "new_obs"]])
def test_what_json_writer_wrote_is_read(packed: list[str], tmp_path: Path) -> None:
    writer = JsonWriter(str(tmp_path), compress_columns=packed)
    rows = make_rows()
    for part in (rows[:4], rows[4:7], rows[7:]):  # fragments that end inside episodes
        writer.write(as_batch(part))
    writer.cur_file.close()
    check(read_transitions(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    check(read_transitions(next(tmp_path.iterdir())))


def test_batches_of_one_policy_among_agents_and_of_old_versions_are_read(tmp_path: Path) -> None:
    batch = {name: values.tolist() for name, values in as_batch(make_rows()).items()}
    wrapped = {"type": "MultiAgentBatch", "count": 9, "policy_batches": {"default_policy": batch}}
    (tmp_path / "output.json").write_text(json.dumps(wrapped) + "\n")
    check(read_transitions(tmp_path))
    # Before Ray 2.0 there was `dones`; and long before, no eps_id.
    old = {name: values for name, values in batch.items() if name not in ("terminateds", "truncateds", "eps_id", "t")}
    old["dones"] = [one or other for one, other in zip(batch["terminateds"], batch["truncateds"], strict=True)]
    (tmp_path / "output.json").write_text(json.dumps({"type": "SampleBatch", **old}) + "\n")
    found = read_transitions(tmp_path)
    assert found.lengths.tolist() == list(LENGTHS)
    assert (found.next_rows[found.starts + found.lengths - 1] == TERMINAL).all()


@pytest.mark.parametrize("is_packed", [False, True])
def test_parquet_of_steps_is_read(is_packed: bool, tmp_path: Path) -> None:
    rows = make_rows()
    for row in rows:
        row["eps_id"] = f"id{row['eps_id']}"
        row["action_logp"] = float(np.log(row.pop("action_prob")))
        del row["t"]
        for name in ("obs", "new_obs") if is_packed else ():
            row[name] = _pack(np.array(row[name], np.float32))
    folder = tmp_path / "cartpole" / "run-000001"
    folder.mkdir(parents=True)
    for number, part in enumerate((rows[:3], rows[3:])):
        pyarrow.parquet.write_table(pa.Table.from_pylist(part), folder / f"{number}.parquet")
    check(read_transitions(tmp_path))


def test_a_distribution_gives_the_probability_of_the_action_taken(tmp_path: Path) -> None:
    rows = make_rows()
    for row in rows:
        p = row.pop("action_prob")
        chances = [p, 1 - p] if row["actions"] == 0 else [1 - p, p]
        row["action_dist_inputs"] = (np.log(chances) + 3).tolist()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    check(read_transitions(tmp_path / "log.parquet"))


def _pack(array: Any) -> str:
    return base64.b64encode(lz4.frame.compress(pickle.dumps(array))).decode()


def _encode(value: Any) -> Any:
    """Encodes arrays and numbers as msgpack_numpy does."""
    if isinstance(value, np.ndarray):
        dtype, kind = value.dtype.str, b""
        return {b"nd": True, b"type": dtype, b"kind": kind, b"shape": value.shape, b"data": value.tobytes()}
    if isinstance(value, np.generic):
        return {b"nd": False, b"type": value.dtype.str, b"data": value.data.tobytes()}
    raise TypeError(type(value))


def test_parquet_of_episodes_is_read_without_their_lookback(tmp_path: Path) -> None:
    rows = make_rows()
    cells = []
    for episode in range(len(LENGTHS)):
        steps = [row for row in rows if row["eps_id"] == 1000 + episode]
        made = SingleAgentEpisode(id_=f"id{episode}")
        made.add_env_reset(np.array(steps[0]["obs"], np.float32))
        for step in steps:
            made.add_env_step(
                np.array(step["new_obs"], np.float32),
                np.int64(step["actions"]),
                np.float64(step["rewards"]),
                terminated=step["terminateds"],
                truncated=step["truncateds"],
                extra_model_outputs={"action_logp": np.float32(np.log(step["action_prob"]))},
            )
            if episode == 2 and made.t == 2:  # the rest has the first two steps as its lookback
                cells.append(made.get_state())
                made = made.cut(len_lookback_buffer=2)
        cells.append(made.get_state())
    content = [msgpack.packb(cell, default=_encode) for cell in cells]
    pyarrow.parquet.write_table(pa.table({"item": pa.array(content, pa.binary())}), tmp_path / "log.parquet")
    check(read_transitions(tmp_path))


class _Payload:
    def __reduce__(self) -> Any:
        return print, ("it ran",)


def test_a_packed_column_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = {name: values.tolist() for name, values in as_batch(make_rows()).items()}
    batch["obs"] = _pack(_Payload())
    (tmp_path / "output.json").write_text(json.dumps({"type": "SampleBatch", **batch}) + "\n")
    with pytest.raises(UserError, match=r"obs: got what cannot be read .*it calls builtins.print"):
        read_transitions(tmp_path)
    assert "it ran" not in capsys.readouterr().out


def test_every_line_that_is_no_batch_is_named(tmp_path: Path) -> None:
    batch = {name: values.tolist() for name, values in as_batch(make_rows()).items()}
    several = {"type": "MultiAgentBatch", "policy_batches": {"a": batch, "b": batch}}
    path = tmp_path / "output.json"
    path.write_text('{"obs": [[1\n[1, 2]\n' + json.dumps(several) + "\n")
    with pytest.raises(UserError, match=r"(?s)3 problems.*line 1: got .*line 2: got .*line 3: got the policies a, b"):
        read_transitions(path)
    path.write_text(json.dumps({"type": "SampleBatch", "obs": [[1.0]], "actions": [0]}) + "\n")
    with pytest.raises(UserError, match="line 1: got the columns type, obs, actions; expected rewards among them"):
        read_transitions(path)
    batch["action_prob"][3] = 0.0
    path.write_text(json.dumps({"type": "SampleBatch", **batch}) + "\n")
    with pytest.raises(UserError, match=r"action_prob: got 0 in step 3 of .*line 1; expected more than 0"):
        read_transitions(path)
    path.write_text("")
    with pytest.raises(UserError, match="got no steps; expected at least one episode"):
        read_transitions(path)
    (tmp_path / "log.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(UserError, match="got a file that is not Parquet"):
        read_transitions(tmp_path / "log.parquet")
    pyarrow.parquet.write_table(pa.table({"item": pa.array([b"\xc1"], pa.binary())}), tmp_path / "log.parquet")
    with pytest.raises(UserError, match="row 1: got a cell that is no episode"):
        read_transitions(tmp_path / "log.parquet")


def test_a_column_of_action_masks_is_the_end_of_each_state(tmp_path: Path) -> None:
    batch = {"type": "SampleBatch", "obs": [[0.5], [0.6]], "new_obs": [[0.6], [0.7]], "actions": [0, 1]}
    batch |= {"rewards": [1.0, 2.0], "truncateds": [False, True], "action_mask": [[1, 0], [1, 1]]}
    (tmp_path / "output.json").write_text(json.dumps(batch))
    data = read_transitions(tmp_path)
    assert data.mask_size == 2
    np.testing.assert_allclose(data.observations, [[0.5, 1, 0], [0.6, 1, 1]])
    assert data.next_rows.tolist() == [1, UNKNOWN]  # the mask after the truncation is not in the log


def test_a_mask_as_an_entry_of_observations_is_refused_with_what_fits(tmp_path: Path) -> None:
    states = [{"action_mask": [1, 0], "real_obs": [0.5]}]
    batch = {"type": "SampleBatch", "obs": states, "actions": [0], "rewards": [1.0], "terminateds": [True]}
    (tmp_path / "output.json").write_text(json.dumps(batch))
    with pytest.raises(UserError, match=r"line 1: obs: got entries with an action_mask; expected rows.*as a column"):
        read_transitions(tmp_path)
