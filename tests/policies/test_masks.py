"""Masked networks: the distribution over the allowed actions, and what does not see the mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.target_network_api import TARGET_NETWORK_ACTION_DIST_INPUTS

from runtime.errors import UserError
from runtime.policies.policy import Policy
from runtime.policies.ppo_module import APPOModule, PPOModule
from runtime.policies.rllib_filter import MaskedMeanStdFilter, filter_of_state
from runtime.policies.spaces import MaskedBox
from runtime.ppo.rllib_config import model_config
from tests.export.test_off_policy import make_policy

SPACE = MaskedBox(Box(-np.inf, np.inf, (5,), np.float32), 4)


def make_module(kind: type = PPOModule) -> Any:
    torch.manual_seed(0)
    settings = model_config({"fcnet_hiddens": [16], "vf_share_layers": False})
    return kind(observation_space=SPACE, action_space=Discrete(4), model_config=settings, catalog_class=PPOCatalog)


def make_rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (B, 9) and their masks (B, 4)."""
    rng = np.random.default_rng(0)
    masks = rng.random((count, 4)) < 0.5
    masks[np.arange(count), rng.integers(4, size=count)] = True
    rows = np.concatenate([rng.normal(size=(count, 5)), masks], axis=1)
    return torch.as_tensor(rows, dtype=torch.float32), torch.as_tensor(masks)


def test_probabilities_are_the_softmax_over_the_allowed_actions() -> None:
    module = make_module()
    rows, masks = make_rows(400)
    with torch.no_grad():
        outputs = module.forward_train({Columns.OBS: rows})
        everything = torch.cat([rows[:, :5], torch.ones(400, 4)], dim=1)
        free = module.forward_train({Columns.OBS: everything})[Columns.ACTION_DIST_INPUTS]
    distribution = module.get_train_action_dist_cls().from_logits(outputs[Columns.ACTION_DIST_INPUTS])
    weights = free.exp() * masks
    expected = weights / weights.sum(dim=1, keepdim=True)
    logp = torch.stack([distribution.logp(torch.full((400,), action)) for action in range(4)], dim=1)
    np.testing.assert_allclose(logp.exp().numpy(), expected.numpy(), atol=1e-6)
    entropy = -(expected * torch.where(masks, expected, 1.0).log()).sum(dim=1)
    np.testing.assert_allclose(distribution.entropy().numpy(), entropy.numpy(), atol=1e-5)
    actions = torch.stack([distribution.sample() for _ in range(50)])
    assert masks[torch.arange(400), actions].all()


def test_the_network_does_not_see_the_mask() -> None:
    module = make_module()
    rows, _ = make_rows(50)
    others = torch.cat([rows[:, :5], 1 - rows[:, 5:]], dim=1)
    with torch.no_grad():
        np.testing.assert_array_equal(
            module.compute_values({Columns.OBS: rows}), module.compute_values({Columns.OBS: others})
        )


def test_gradients_do_not_reach_the_logits_of_masked_actions() -> None:
    module = make_module()
    rows, masks = make_rows(1)
    logits = module.forward_train({Columns.OBS: rows})[Columns.ACTION_DIST_INPUTS]
    distribution = module.get_train_action_dist_cls().from_logits(logits)
    (distribution.logp(masks.float().argmax(dim=1)) + distribution.entropy()).sum().backward()
    gradient = module.pi.net.mlp[-1].bias.grad
    assert torch.isfinite(gradient).all()
    assert not gradient[~masks[0]].any()


def test_the_target_network_of_appo_is_masked() -> None:
    module = make_module(APPOModule)
    module.make_target_networks()
    rows, masks = make_rows(50)
    with torch.no_grad():
        target = module.forward_target({Columns.OBS: rows})[TARGET_NETWORK_ACTION_DIST_INPUTS]
        now = module.forward_train({Columns.OBS: rows})[Columns.ACTION_DIST_INPUTS]
    np.testing.assert_allclose(target, now, atol=1e-6)
    assert masks[torch.arange(50), target.argmax(dim=1)].all()


@pytest.mark.parametrize("name", ["masked", "masked atoms"])
def test_dqn_explores_and_bootstraps_by_allowed_actions_alone(name: str) -> None:
    policy, space = make_policy(name)
    module = policy.module
    module.make_target_networks()
    size = module.action_space.n
    rng = np.random.default_rng(0)
    masks = torch.as_tensor(rng.random((300, size)) < 0.5)
    masks[torch.arange(300), torch.as_tensor(rng.integers(size, size=300))] = True
    rows = torch.cat([torch.as_tensor(rng.normal(size=(300, 5)), dtype=torch.float32), masks.float()], dim=1)
    assert isinstance(space, MaskedBox)
    with torch.no_grad():
        for _ in range(20):
            actions = module.forward_exploration({Columns.OBS: rows}, t=0)[Columns.ACTIONS]
            assert masks[torch.arange(300), actions].all()
        learned = module.forward_train({Columns.OBS: rows, Columns.NEXT_OBS: rows})
    for values in (learned[QF_PREDS], learned[QF_NEXT_PREDS], learned[QF_TARGET_NEXT_PREDS]):
        np.testing.assert_array_equal(torch.isneginf(values), ~masks)
    # The last observation of an episode may allow nothing; an action is computed there, and not taken.
    ended = torch.cat([rows[:, :5], torch.zeros(300, size)], dim=1)
    assert torch.isfinite(module.compute_q_values({Columns.OBS: ended})[QF_PREDS]).all()


def test_the_observation_filter_leaves_the_mask_as_it_is() -> None:
    connector = MaskedMeanStdFilter()
    connector.input_action_space = Discrete(4)
    connector.input_observation_space = SPACE
    connector._init_new_filters()
    rows = make_rows(300)[0].numpy() + np.array([7.0] * 5 + [0] * 4, np.float32)
    filtered = np.array([connector._filters[None](row) for row in rows])
    np.testing.assert_array_equal(filtered[:, 5:], rows[:, 5:])
    assert abs(filtered[100:, :5].mean()) < 0.3
    ours = filter_of_state(connector.get_state(), SPACE)
    np.testing.assert_array_equal(ours(rows)[:, 5:], rows[:, 5:])
    np.testing.assert_allclose(ours(rows)[-1], connector._filters[None](rows[-1], update=False), rtol=1e-5)
    assert connector.observation_space == MaskedBox(Box(-10, 10, (5,), np.float32), 4)
    assert isinstance(connector.observation_space, MaskedBox)


def test_a_policy_acts_on_the_environments_own_dict() -> None:
    policy = Policy(make_module(), Discrete(4), observation_filter=None)
    row = make_rows(1)[0][0].numpy()
    for mask in np.eye(4):
        assert policy.act({"action_mask": mask, "trading_state": row[:5]}) == mask.argmax()
    assert policy.act({"action_mask": row[5:], "real_obs": row[:5]}) == policy.act(row)
    with pytest.raises(UserError, match=r"got the entries real_obs of 5 numbers; expected action_mask of 4 and others"):
        policy.act({"real_obs": row[:5]})
    with pytest.raises(UserError, match=r"action_mask of 4 numbers, a of 3 numbers; expected action_mask of 4 .* of 5"):
        policy.act({"action_mask": np.ones(4), "a": np.zeros(3)})
