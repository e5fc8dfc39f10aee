"""Dict observations with an action mask: one row of numbers, and masks that no action can be chosen by."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence
from gymnasium.wrappers import TransformObservation

from runtime.environments.adapting import adapt
from runtime.environments.spec import EnvSpec, make_env
from runtime.errors import UserError
from runtime.policies.spaces import MaskedBox, describe_space, mask_size, read_space
from tests.environments.test_adapting import SMALL, Echo
from tests.toy_envs import Shelves

MASK = MultiBinary(4)


@pytest.mark.parametrize("other", ["real_obs", "trading_state", "observations", "a"])
@pytest.mark.parametrize("kind", ["Box", "ints", "MultiBinary"])
def test_a_row_holds_the_other_entry_and_then_the_mask(other: str, kind: str) -> None:
    bare = Shelves(other=other, kind=kind)
    observation, _ = bare.reset(seed=5)
    env = adapt(Shelves(other=other, kind=kind))
    row, _ = env.reset(seed=5)
    assert mask_size(env.observation_space) == 4
    assert row.dtype == np.float32
    assert env.observation_space.contains(row)
    np.testing.assert_array_equal(row, [*observation[other], *observation["action_mask"]])
    action = int(np.argmax(row[4:]))
    row, *_ = env.step(action)
    assert row[4 + action] == 0


def test_several_entries_of_other_kinds_become_numbers_before_the_mask() -> None:
    space = Dict({"action_mask": MASK, "z": Discrete(3), "b": Box(0, 9, (2, 2), np.int16)})
    space.seed(0)  # of the 16 masks, one allows nothing
    env = adapt(Echo(Discrete(4), space))
    row, _ = env.reset(seed=0)
    assert isinstance(env.observation_space, MaskedBox)
    assert env.observation_space.numbers.shape == (7,)
    assert row.shape == (11,)


def test_the_space_survives_its_description() -> None:
    space = adapt(Shelves()).observation_space
    again = read_space(describe_space(space))
    assert (again, mask_size(again)) == (space, 4)
    assert mask_size(read_space(describe_space(SMALL))) == 0


@pytest.mark.parametrize(
    ("action", "observation", "message"),
    [
        (
            SMALL,
            Dict({"action_mask": MASK, "x": SMALL}),
            r"for the action space Box.*expected Discrete or Multi",
        ),
        (Discrete(3), Dict({"action_mask": MASK, "x": SMALL}), r"as MultiBinary\(4\); expected .* of shape \(3,\)"),
        (Discrete(4), Dict({"action_mask": Discrete(4), "x": SMALL}), r"as Discrete\(4\); expected a Box or MultiBin"),
        (Discrete(4), Dict({"action_mask": MASK}), r"expected beside action_mask an entry of numbers"),
        (
            Discrete(4),
            Dict({"action_mask": MASK, "x": Sequence(SMALL)}),
            r"expected beside action_mask an entry of numbers",
        ),
    ],
    ids=["not discrete", "another size", "no numbers", "alone", "not of one size"],
)
def test_a_mask_that_is_not_one_of_the_actions_is_refused(action: Any, observation: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"environment shop: got .*{message}"):
        adapt(Echo(action, observation), name="shop")


def test_a_mask_that_allows_no_action_is_refused_where_one_must_be_taken() -> None:
    env = make_env(EnvSpec("tests.toy_envs:Shelves", {"empty_at": 0}))
    with pytest.raises(UserError, match=r"toy_envs:Shelves: got an action_mask that allows no action at a reset"):
        env.reset(seed=1)
    env = make_env(EnvSpec("tests.toy_envs:Shelves", {"empty_at": 2}))
    row, _ = env.reset(seed=1)
    row, *_ = env.step(int(np.argmax(row[4:])))
    with pytest.raises(UserError, match=r"got an action_mask that allows no action after step 2 of an episode"):
        env.step(int(np.argmax(row[4:])))


def test_the_last_mask_of_an_episode_may_be_empty() -> None:
    env = make_env(EnvSpec("tests.toy_envs:Shelves", {}))
    row, _ = env.reset(seed=1)
    has_ended = False
    while not has_ended:
        row, _, has_ended, _, _ = env.step(int(np.argmax(row[4:])))
    assert not row[4:].any()


def test_each_of_several_choices_needs_an_allowed_one() -> None:
    def masked(mask: list[int]) -> gymnasium.Env[Any, Any]:
        space = Dict({"action_mask": MultiBinary(5), "x": SMALL})
        return TransformObservation(
            Echo(MultiDiscrete([2, 3]), space), lambda seen: {**seen, "action_mask": np.array(mask)}, space
        )

    row, _ = adapt(masked([0, 1, 1, 0, 0])).reset()
    np.testing.assert_array_equal(row[2:], [0, 1, 1, 0, 0])
    with pytest.raises(UserError, match="allows no action at a reset"):
        adapt(masked([1, 1, 0, 0, 0])).reset()
    with pytest.raises(UserError, match=r"an action_mask of 4 numbers at a reset; expected 5"):
        adapt(masked([1, 1, 0, 0])).reset()
