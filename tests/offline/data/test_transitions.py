"""Logs read from every form that users have, and what is wrong with a log said at once, with its lines."""

from __future__ import annotations

import gzip
from pathlib import Path

import gymnasium
import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import UserError
from runtime.offline.data.reading import read_transitions
from runtime.offline.data.transitions import TERMINAL, UNKNOWN, Transitions

HEAD = "action,all_action_probabilities,episode_id,reward,cumulative_rewards,state_feature_0,state_feature_1\n"
ROWS = '0,"[0.5, 0.5]",a,1,0,0.1,0.2\n1,"[0.4, 0.6]",a,2,3,0.3,0.4\n1,"[0.25, 0.75]",b,5,5,0.5,0.6\n'


def write(folder: Path, text: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def fail(path: Path) -> str:
    with pytest.raises(UserError, match=r"expected") as caught:
        read_transitions(path)
    return str(caught.value)


def test_the_notebooks_csv(tmp_path: Path) -> None:
    data = read_transitions(write(tmp_path, HEAD + ROWS))
    np.testing.assert_array_equal(data.lengths, [2, 1])
    np.testing.assert_array_equal(data.actions, [0, 1, 1])
    np.testing.assert_array_equal(data.next_rows, [1, TERMINAL, TERMINAL])
    np.testing.assert_array_equal(data.returns, [3, 5])
    np.testing.assert_allclose(data.observations, [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    assert data.probabilities is not None
    np.testing.assert_allclose(data.chosen_probabilities, [0.5, 0.6, 0.75])
    assert (data.num_actions, data.notes, str(data.observations.dtype)) == (2, (), "float32")


@pytest.mark.parametrize(
    "cell",
    [
        '"[0.25, 0.75]"',
        '"[np.float64(0.25), np.float64(0.75)]"',
        '"[np.float32(0.25), np.float32(0.75)]"',
        "[0.25 0.75]",
        "0.25;0.75",
        '"(0.25, 0.75)"',
        "[2.5e-1 7.5e-1]",
    ],
)
def test_probabilities_in_the_forms_that_users_have(tmp_path: Path, cell: str) -> None:
    data = read_transitions(write(tmp_path, f"{HEAD}0,{cell},a,1,0,0,0\n1,{cell},a,1,2,0,0\n"))
    assert data.probabilities is not None
    np.testing.assert_allclose(data.probabilities, [[0.25, 0.75], [0.25, 0.75]])


def test_probabilities_in_columns_of_their_own_and_none_at_all(tmp_path: Path) -> None:
    text = "action,episode_id,reward,state_feature_0,action_probability_0,action_probability_1\n0,a,1,0,0.25,0.75\n"
    data = read_transitions(write(tmp_path, text + "1,a,1,0,0.25,0.75\n"))
    assert data.probabilities is not None
    np.testing.assert_allclose(data.probabilities, [[0.25, 0.75]] * 2)
    empty = read_transitions(write(tmp_path, f"{HEAD}0,,a,1,0,0,0\n1,,a,1,2,0,0\n"))
    assert empty.probabilities is None
    without = read_transitions(write(tmp_path, "action,episode_id,reward,state_feature_0\n0,a,1,0\n2,a,1,0\n"))
    assert (without.probabilities, without.num_actions) == (None, 3)


def test_parquet_gzip_and_a_folder_of_parts_hold_the_same(tmp_path: Path) -> None:
    expected = read_transitions(write(tmp_path, HEAD + ROWS))
    frame = pandas.read_csv(tmp_path / "log.csv")
    frame["all_action_probabilities"] = [[0.5, 0.5], [0.4, 0.6], [0.25, 0.75]]
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((HEAD + ROWS).encode()))
    parts = tmp_path / "parts"
    parts.mkdir()
    lines = ROWS.splitlines(keepends=True)
    write(parts, HEAD + "".join(lines[:2]), "part-0.csv")
    write(parts, HEAD + lines[2], "part-1.csv")
    for place in (tmp_path / "log.parquet", tmp_path / "log.csv.gz", parts):
        found = read_transitions(place)
        assert found.probabilities is not None
        assert expected.probabilities is not None
        np.testing.assert_array_equal(found.observations, expected.observations)
        np.testing.assert_array_equal(found.next_rows, expected.next_rows)
        np.testing.assert_allclose(found.probabilities, expected.probabilities)


def test_continuous_actions(tmp_path: Path) -> None:
    text = "action_0,action_1,episode_id,reward,state_feature_0\n0.5,-1,a,1,0\n0.25,2,a,1,0\n"
    data = read_transitions(write(tmp_path, text))
    np.testing.assert_array_equal(data.actions, np.array([[0.5, -1], [0.25, 2]], np.float32))
    assert data.num_actions is None


def test_rows_are_sorted_by_episode_and_step_and_that_is_said(tmp_path: Path) -> None:
    text = "action,episode_id,reward,state_feature_0,transition_number\n"
    shuffled = "1,b,1,10,1\n0,a,1,1,0\n0,b,1,11,2\n1,a,1,2,1\n0,b,1,9,0\n"
    data = read_transitions(write(tmp_path, text + shuffled))
    np.testing.assert_array_equal(data.observations[:, 0], [9, 10, 11, 1, 2])
    np.testing.assert_array_equal(data.next_rows, [1, 2, TERMINAL, 4, TERMINAL])
    assert "rows were not in the order of their episodes; 4 were moved" in data.notes[0]


def test_interleaved_episodes_whose_ends_are_marked(tmp_path: Path) -> None:
    text = "0,,a,1,0,1,0\n1,,b,1,0,2,0\n1,,a,1,2,3,0\n0,,b,1,2,4,0\n"
    data = read_transitions(write(tmp_path, HEAD + text))
    np.testing.assert_array_equal(data.observations[:, 0], [1, 3, 2, 4])


def test_ends_by_themselves_and_by_a_cut_are_kept_apart(tmp_path: Path) -> None:
    text = "action,episode_id,reward,state_feature_0,truncated\n"
    data = read_transitions(write(tmp_path, text + "0,a,1,1,False\n1,a,1,2,True\n0,b,1,3,false\n1,b,1,4,0\n"))
    np.testing.assert_array_equal(data.next_rows, [1, UNKNOWN, 3, TERMINAL])
    assert "1 of 2 episodes were cut off, not ended" in data.notes[0]


def test_an_episode_whose_return_is_missing_counts_as_cut_off(tmp_path: Path) -> None:
    """The log was copied while it was being written."""
    data = read_transitions(
        write(tmp_path, HEAD + ROWS + "0,,c,1,0,1,1\n1,,c,1,0,1,1\n".replace(",,", ',"[0.5, 0.5]",'))
    )
    np.testing.assert_array_equal(data.next_rows, [1, TERMINAL, TERMINAL, 4, UNKNOWN])
    assert "episode 'c' ends at line 6 without its cumulative reward: it is taken as cut off there" in data.notes[0]


# Minari's advice to name an environment, when there is none.
@pytest.mark.filterwarnings("ignore:.*(is set to None|env_spec is None):UserWarning")
def test_minaris_own_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=rng.normal(size=(length + 1, 4)).astype(np.float32),
            actions=rng.integers(2, size=length),
            rewards=rng.normal(size=length),
            terminations=(np.arange(length) == length - 1) & (number != 1),
            truncations=(np.arange(length) == length - 1) & (number == 1),
        )
        for number, length in enumerate((3, 5, 2, *[1] * 9))  # episode_10 stands before episode_2 in the file
    ]
    dataset = minari.create_dataset_from_buffers(
        "cartpole/test-v0",
        buffers,
        action_space=gymnasium.spaces.Discrete(2),
        observation_space=gymnasium.spaces.Box(-9, 9, (4,)),
        algorithm_name="random",
        author="nobody",
        author_email="nobody@example.com",
        code_permalink="https://example.com",
        description="random numbers",
    )
    data = read_transitions(tmp_path / "cartpole" / "test-v0")
    episodes = list(dataset.iterate_episodes())
    np.testing.assert_array_equal(data.lengths, [len(episode.rewards) for episode in episodes])
    for start, episode in zip(data.starts, episodes, strict=True):
        end = start + len(episode.rewards) - 1
        np.testing.assert_array_equal(data.observations[start : end + 1], episode.observations[:-1])
        np.testing.assert_array_equal(data.actions[start : end + 1], episode.actions)
        np.testing.assert_allclose(data.rewards[start : end + 1], episode.rewards)
        if episode.id == 1:  # cut off: the state that followed is there to learn from
            np.testing.assert_array_equal(data.observations[data.next_rows[end]], episode.observations[-1])
        else:
            assert data.next_rows[end] == TERMINAL


def test_d3rlpys_own_file_and_the_flat_one_of_old(tmp_path: Path) -> None:
    import d3rlpy
    import h5py

    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros(30, np.float32), np.zeros(30, np.float32)
    terminals[[9, 29]], timeouts[19] = 1, 1
    columns = {
        "observations": rng.normal(size=(30, 3)).astype(np.float32),
        "actions": rng.integers(2, size=(30, 1)),
        "rewards": rng.normal(size=(30, 1)).astype(np.float32),
    }
    dataset = d3rlpy.dataset.MDPDataset(
        **columns, terminals=terminals, timeouts=timeouts, action_space=d3rlpy.ActionSpace.DISCRETE
    )
    with (tmp_path / "log.h5").open("w+b") as file:
        dataset.dump(file)
    with h5py.File(tmp_path / "flat.hdf5", "w") as file:
        for name, values in {**columns, "terminals": terminals, "timeouts": timeouts}.items():
            file[name] = values
    for name in ("log.h5", "flat.hdf5"):
        data = read_transitions(tmp_path / name)
        np.testing.assert_array_equal(data.starts, [0, 10, 20])
        np.testing.assert_array_equal(data.next_rows[[9, 19, 29]], [TERMINAL, UNKNOWN, TERMINAL])
        np.testing.assert_array_equal(data.actions[:, None], columns["actions"])
        np.testing.assert_array_equal(data.states, columns["observations"])


def test_every_problem_of_a_log_is_listed_with_its_lines(tmp_path: Path) -> None:
    rows = [
        '0,"[0.5, 0.5]",a,1,0,0.1,0.2',
        '7,"[0.5, 0.5]",b,nan,0,,0.3',
        '1,"[0.4, 0.5]",b,1,0,0.1,inf',
        '1,"[1.0, 0.0]",b,1,0,0.1,0.3',
        '0.5,"[-0.5, 1.5]",c,1,0,0.1,0.3',
    ]
    message = fail(write(tmp_path, HEAD + "\n".join(rows) + "\n"))
    assert "6 problems with " in message
    for part in (
        "reward: got nan in line 3; expected finite numbers",
        "state_feature_0: got nan in line 3",
        "state_feature_1: got inf in line 4",
        "action: got 7 in line 3, 0.5 in line 6; expected whole numbers from 0 to 1",
        "all_action_probabilities: got [0.4, 0.5] in line 4, [-0.5, 1.5] in line 6; expected numbers from 0 to 1",
        "all_action_probabilities: got [1, 0] in line 5; expected more than 0 for the action that was taken",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "got no transitions; expected at least one episode"),
        ("", "got an empty file; expected a header line and rows"),
        (HEAD + ROWS + '0,"[0.5', "got 2 cells in line 5; expected 7 in each. A last line may have been cut off"),
        (HEAD + "0,,a,x,0,1,1\n1,,a,1,y,1,1\n", "reward: got 'x' in line 2; expected numbers"),
        (HEAD + '0,"[0.5, x]",a,1,0,1,1\n', "all_action_probabilities: got '[0.5, x]' in line 2"),
        (HEAD + '0,"[0.5, 0.5]",a,1,0,1,1\n1,"[1]",a,1,2,1,1\n', "got 1 numbers in line 3 and 2 elsewhere"),
        (
            HEAD + '0,"[0.5, 0.5]",a,1,0,1,1\n1,,a,1,2,1,1\n',
            "got [nan, nan] in line 3; expected a probability for each",
        ),
        (HEAD + "0,,a,1,0,1,1\n0,,a,1,2,1,1\n", "action: got the action 0 in every row; expected at least two"),
        (HEAD + "0,,,1,0,1,1\n0,,a,1,2,1,1\n", "episode_id: got an empty cell in line 2"),
        (
            "action,episode_id,reward,state_feature_0\n0,a,1,0\n1,b,1,0\n0,a,1,0\n",
            "episode_id: got rows of 'a' in several places (1 such ids); expected each episode's rows together",
        ),
        (
            HEAD + "0,,a,1,1,0,0\n1,,b,1,1,0,0\n0,,a,1,1,0,0\n",
            "episode_id: got 'a', whose cumulative_rewards end more than one episode",
        ),
        (
            "action,episode_id,reward,state_feature_0,transition_number\n0,a,1,0,0\n1,a,1,0,0\n",
            "transition_number: got 0 in line 3; expected each number once in an episode",
        ),
        (
            "action,episode_id,reward,state_feature_0,transition_number\n0,a,1,0,0\n1,a,1,0,2\n",
            "transition_number: got 2 in line 3; expected numbers without a gap",
        ),
        (
            HEAD + "0,,a,1,3,0,0\n1,,a,1,0,0,0\n0,,a,1,0,0,0\n",
            "cumulative_rewards: got 3 in line 2; expected an episode's return in its last row",
        ),
        (
            "action,episode_id,reward,state_feature_0,terminated\n0,a,1,1,1\n1,a,1,1,0\n0,a,1,1,1\n",
            "terminated: got True in line 2; expected true in the last row of an episode alone",
        ),
        ("action,episode_id,rewards,state_feature_0\n", "expected reward among them. Did you mean 'rewards'?"),
        (
            "action,episode_id,reward,state_feature_1\n0,a,1,1\n",
            "expected state_feature_0 to state_feature_0 without a gap",
        ),
        (
            "action,episode_id,reward,state_feature_0,truncated\n0,a,1,1,maybe\n1,a,1,1,1\n",
            "truncated: got 'maybe' in line 2; expected true or false, 1 or 0",
        ),
    ],
)
def test_a_broken_log_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    assert message in fail(write(tmp_path, text))


def test_parquet_columns_of_other_types_are_refused_together(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {
            "action": [[0], [1]],
            "episode_id": [{"a": 1}, {"a": 1}],
            "reward": ["x", "y"],
            "state_feature_0": [1.0, 2.0],
            "all_action_probabilities": [1, 2],
        }
    )
    frame.to_parquet(tmp_path / "odd.parquet")
    message = fail(tmp_path / "odd.parquet")
    for part in (
        "action: got a column of list<element: int64>; expected numbers",
        "reward: got a column of",
        "episode_id: got a column of struct<a: int64>; expected text or numbers",
        "all_action_probabilities: got a column of int64; expected lists of numbers, or text",
    ):
        assert part in message
    frame = pandas.DataFrame({"action": [0, 1], "episode_id": ["a", "a"], "reward": [1, 2], "state_feature_0": [1, 2]})
    frame["episode_id"] = frame["episode_id"].astype("category")
    frame["all_action_probabilities"] = pandas.Series(["[0.5, 0.5]", "[0.5, 0.5]"], dtype="category")
    frame["truncated"] = [False, True]
    frame.to_parquet(tmp_path / "categories.parquet")
    data = read_transitions(tmp_path / "categories.parquet")
    assert data.probabilities is not None
    np.testing.assert_array_equal(data.next_rows, [1, UNKNOWN])


def test_broken_encodings_and_archives_are_said(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes((HEAD + ROWS).replace("a,", "\xe9,").encode("latin-1"))
    assert "latin.csv: got a file that cannot be read" in fail(tmp_path / "latin.csv")
    packed = gzip.compress((HEAD + ROWS * 500).encode())
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert "cut.csv.gz: got a file that cannot be read" in fail(tmp_path / "cut.csv.gz")
    (tmp_path / "no.csv.gz").write_bytes(b"no")
    assert "no.csv.gz: got a file that cannot be read" in fail(tmp_path / "no.csv.gz")
    spaced = write(tmp_path, HEAD.replace(",", ", ") + ROWS)
    assert "expected episode_id among them. Did you mean ' episode_id'?" in fail(spaced)


def test_places_without_a_log(tmp_path: Path) -> None:
    assert "which does not exist" in fail(tmp_path / "none.csv")
    assert f"got nothing in {tmp_path}" in fail(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert "got a file that is not Parquet" in fail(tmp_path / "broken.parquet")
    (tmp_path / "broken.h5").write_bytes(b"no")
    assert "got a file that cannot be read" in fail(tmp_path / "broken.h5")
    write(tmp_path, HEAD + ROWS)
    assert "got files of several kinds" in fail(tmp_path)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=9), st.integers(0, 99), st.floats(0.1, 0.9))
def test_a_split_keeps_each_episode_whole_and_its_states_linked(lengths: list[int], seed: int, share: float) -> None:
    """Every state contains its own row number, which identifies the state that follows it."""
    count = sum(lengths)
    cuts = seed % 3
    ends = np.cumsum(lengths) - 1
    following = np.arange(1, count + 1)
    following[ends] = np.where(np.arange(len(ends)) % 3 == cuts, TERMINAL, UNKNOWN)
    beyond = np.flatnonzero(np.arange(len(ends)) % 3 == (cuts + 1) % 3)
    following[ends[beyond]] = count + np.arange(len(beyond))
    rows = np.arange(count + len(beyond), dtype=np.float32)
    data = Transitions(
        rows[:, None], np.arange(count) % 2, rows[:count], following, ends - np.array(lengths) + 1, None, 2
    )
    parts = data.split(share, seed=seed)
    assert sorted(np.concatenate([part.rewards for part in parts])) == list(range(count))
    for part in parts:
        for row, after in enumerate(part.next_rows):
            original = following[int(part.observations[row, 0])]
            assert after == original if original < 0 else part.observations[after, 0] == original
        np.testing.assert_array_equal(part.states[:, 0], part.rewards)


MASKED = "state_feature_0,action,reward,episode_id,action_mask_0,action_mask_1,action_mask_2"


def test_a_mask_of_a_table_is_the_end_of_each_state(tmp_path: Path) -> None:
    data = read_transitions(write(tmp_path, f"{MASKED}\n0.5,0,1,a,1,0,1\n0.6,1,1,a,0,1,0\n"))
    assert (data.mask_size, data.num_actions) == (3, 3)
    np.testing.assert_allclose(data.states, [[0.5, 1, 0, 1], [0.6, 0, 1, 0]])
    assert data.select(np.array([0])).mask_size == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{MASKED}\n0.5,0,1,a,1,0,1\n0.5,1,1,a,1,0,1", "action: got 1 in line 3; expected an action that its row's "),
        (f"{MASKED}\n0.5,0,1,a,1,0,1\n0.5,1,1,a,,1,1", r"action_mask: got \[nan, 1, 1\] in line 3; expected 0 or 1"),
        (f"{MASKED}\n0.5,0,1,a,1,0,0.5\n0.5,1,1,a,0,1,1", r"action_mask: got \[1, 0, 0.5\] in line 2; expected 0 or 1"),
        (
            f"{MASKED},all_action_probabilities\n0.5,0,1,a,1,0,1,0.5;0.2;0.3\n0.5,1,1,a,0,1,1,0;1;0",
            r"got \[0.5, 0.2, 0.3\] in line 2; expected 0 for the actions that the row's action_mask does not allow",
        ),
        ("state_feature_0,action,reward,episode_id,action_mask\n0.5,0,1,a,1", "expected action_mask_0, action_mask_1"),
        ("state_feature_0,action_0,reward,episode_id,action_mask_0\n0.5,0,1,a,1", "got one for continuous actions"),
    ],
    ids=["forbidden action", "missing", "not 0 or 1", "probability", "one column", "continuous"],
)
def test_a_mask_that_does_not_fit_its_rows_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_transitions(write(tmp_path, text + "\n"))
