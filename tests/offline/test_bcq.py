"""Learning from a log: d3rlpy's own numbers, the squared error, fitted Q evaluation by closed form, and the choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from runtime.errors import UserError
from runtime.offline.bcq import Learner, Recipe, SquaredErrorQFunctionFactory, check_algorithm
from runtime.offline.data.transitions import TERMINAL, Transitions
from runtime.policies.network_policy import NetworkPolicy


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs torch on one thread, as the job does: for such small matrices, more threads are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(limits=1, user_api="blas"):
        yield
    torch.set_num_threads(threads)


RECIPE = Recipe("BCQ", (32, 32), "relu", 1e-3, 0.9, 16, 10, 0.3, "mse", 1.0, 0.99, 7)
RECIPE_OF_BC = replace(RECIPE, algorithm="BC", batch_size=128)


def make_data(
    *, episodes: int = 40, length: int = 10, actions: int = 3, box: bool = False, seed: int = 0
) -> Transitions:
    """Random states; the reward is the action's number, or minus the distance of a continuous one from 0.5."""
    rng = np.random.default_rng(seed)
    count = episodes * length
    following = np.arange(1, count + 1)
    following[length - 1 :: length] = TERMINAL
    chosen: Any = rng.uniform(-1, 2, (count, 2)).astype(np.float32) if box else rng.integers(actions, size=count)
    rewards = -np.abs(chosen - 0.5).sum(axis=1) if box else chosen
    return Transitions(
        rng.normal([3, -1, 0, 10], [1, 2, 0.1, 5], size=(count, 4)).astype(np.float32),
        chosen,
        rewards.astype(np.float32),
        following,
        np.arange(0, count, length),
        None if box else np.full((count, actions), 1 / actions, np.float32),
        None if box else actions,
    )


@pytest.mark.parametrize("algorithm", ["BCQ", "DDQN", "CQL"])
def test_the_thin_loop_has_the_numbers_of_d3rlpys_fit(algorithm: str) -> None:
    """The same batches through `fit` and through our loop give the same weights."""
    import d3rlpy

    data = make_data(box=False)
    learner = Learner(data, replace(RECIPE, algorithm=algorithm))
    learner.run(25)
    # What the learner has drawn follows from its seed.
    batches = torch.randint(len(data), (25, 16), generator=torch.Generator().manual_seed(RECIPE.seed))

    config = {
        "BCQ": d3rlpy.algos.DiscreteBCQConfig,
        "DDQN": d3rlpy.algos.DoubleDQNConfig,
        "CQL": d3rlpy.algos.DiscreteCQLConfig,
    }[algorithm]
    d3rlpy.seed(RECIPE.seed)
    theirs = config(
        learning_rate=RECIPE.lr,
        gamma=RECIPE.gamma,
        batch_size=16,
        target_update_interval=RECIPE.target_update,
        encoder_factory=d3rlpy.models.VectorEncoderFactory([32, 32]),
        q_func_factory=SquaredErrorQFunctionFactory(),
    ).create()
    ends = np.append(data.starts[1:], len(data))
    picked = iter(batches)

    class TheSameBatches(d3rlpy.dataset.MDPDataset):  # type: ignore[misc]  # d3rlpy is not typed for strict mode
        def sample_transition_batch(self, batch_size: int) -> Any:
            rows = next(picked).tolist()
            episodes = [int(np.searchsorted(ends, row, side="right")) for row in rows]
            return d3rlpy.dataset.TransitionMiniBatch.from_transitions(
                [
                    self.transition_picker(self.episodes[episode], row - int(data.starts[episode]))
                    for episode, row in zip(episodes, rows, strict=True)
                ]
            )

    dataset = TheSameBatches(
        observations=learner.filter(data.states),
        actions=data.actions[:, None],
        rewards=data.rewards[:, None],
        terminals=(data.next_rows == TERMINAL).astype(np.float32),
        action_size=3,
    )
    quiet = d3rlpy.logging.NoopAdapterFactory()
    theirs.fit(dataset, n_steps=25, n_steps_per_epoch=25, logger_adapter=quiet, show_progress=False, save_interval=99)
    ours = learner._algorithm.impl.modules.q_funcs
    fitted = theirs.impl.modules.q_funcs
    for mine, other in zip(ours.parameters(), fitted.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    states = learner.filter(data.states)
    np.testing.assert_array_equal(learner.policy().probabilities(data.states).argmax(axis=1), theirs.predict(states))


@pytest.mark.parametrize("algorithm", ["TD3+BC", "IQL", "CQL", "BC", "MARWIL"])
def test_policies_for_continuous_actions_act_as_d3rlpys(algorithm: str) -> None:
    data = make_data(box=True)
    learner = Learner(data, replace(RECIPE, algorithm=algorithm))
    learner.run(30)
    unit = learner._algorithm.predict(learner.filter(data.states))
    low, high = data.actions.min(axis=0), data.actions.max(axis=0)
    np.testing.assert_allclose(learner.policy().actions(data.states), low + (unit + 1) / 2 * (high - low), atol=1e-5)


def test_behavior_cloning_learns_the_logs_rule_whatever_its_rewards() -> None:
    """The log takes action 1 nine times in ten where a number is positive, else action 0; its logits are log-odds."""
    rng = np.random.default_rng(0)
    data = make_data(episodes=400, actions=2)
    is_high = data.observations[:, 0] > 3
    chosen = np.where(rng.random(len(data)) < 0.9, is_high, ~is_high).astype(np.int64)
    learner = Learner(replace(data, actions=chosen, rewards=-is_high.astype(np.float32)), RECIPE_OF_BC)
    learner.run(600)
    policy, clear = learner.policy(averaged=True), np.abs(data.observations[:, 0] - 3) > 0.3
    found = policy.probabilities(data.states).argmax(axis=1)
    assert (found == is_high)[clear].mean() > 0.97
    states = learner.filter(data.states)
    now = learner.policy().probabilities(data.states).argmax(axis=1)
    np.testing.assert_array_equal(now, learner._algorithm.predict(states))
    logits = policy.q_values(data.states)
    odds = np.median(np.abs(logits[clear, 1] - logits[clear, 0]))
    assert odds == pytest.approx(np.log(9), abs=0.6)  # without d3rlpy's penalty of large logits


def test_continuous_bcq_takes_the_proposal_that_d3rlpys_networks_value_most() -> None:
    data = make_data(box=True)
    learner = Learner(data, RECIPE)
    learner.run(30)
    policy = learner.policy()
    states = torch.as_tensor(learner.filter(data.states[:20]))
    modules = learner._algorithm.impl.modules
    count = len(policy.latents)
    repeated = states.repeat_interleave(count, dim=0)
    with torch.no_grad():
        proposed = modules.policy(repeated, modules.vae_decoder(repeated, policy.latents.repeat(20, 1))).squashed_mu
        values = modules.q_funcs[0](repeated, proposed).q_value.reshape(20, count)
    unit = proposed.reshape(20, count, 2)[torch.arange(20), values.argmax(dim=1)].numpy()
    low, high = data.actions.min(axis=0), data.actions.max(axis=0)
    expected = low + (unit + 1) / 2 * (high - low)
    np.testing.assert_allclose(policy.actions(data.states[:20]), expected, atol=1e-5)


def test_rare_failures_pull_as_hard_as_they_are_large() -> None:
    """A reward of 10 in a tenth of the cases has the value 1 by the squared error; by d3rlpy's Huber loss a ninth."""
    rng = np.random.default_rng(0)
    count = 4000
    data = Transitions(
        rng.normal(size=(count, 1)).astype(np.float32),
        rng.integers(2, size=count),
        np.where(rng.random(count) < 0.1, 10, 0).astype(np.float32),
        np.full(count, TERMINAL),
        np.arange(count),
        None,
        2,
    )

    def value(loss: str) -> float:
        learner = Learner(data, replace(RECIPE, algorithm="DDQN", loss=loss, batch_size=256))
        learner.run(400)
        return float(learner.policy().q_values(data.states).mean())

    assert value("mse") == pytest.approx(data.rewards.mean(), abs=0.15)
    assert value("huber") < 0.3


def test_averaged_weights_are_the_mean_of_every_tenth_updates_weights_and_remember_longer_and_longer() -> None:
    data = make_data()
    learner = Learner(data, replace(RECIPE, algorithm="DDQN", averaging=0.95))
    mean = learner.policy().networks["q"][0].state_dict()
    shares = []
    for count in range(1, 16):
        learner.run(10)
        now = learner.policy().networks["q"][0].state_dict()
        shares.append(max(1 - 0.95**10, min(1.0, 6 / (count + 5))))
        mean = {name: (1 - shares[-1]) * mean[name] + shares[-1] * now[name] for name in mean}
    assert shares[0] == 1 > shares[5] > shares[-1] == 1 - 0.95**10  # the first weights are forgotten at once
    for name, value in learner.policy(averaged=True).networks["q"][0].state_dict().items():
        torch.testing.assert_close(value, mean[name])


@pytest.mark.parametrize(
    ("algorithm", "box"),
    [
        *(("BCQ", False), ("BC", False), ("BC", True), ("MARWIL", False), ("MARWIL", True)),
        *(("IQL", True), ("CQL", True), ("BCQ", True)),
    ],
)
def test_a_restored_learner_continues_as_if_never_stopped(tmp_path: Path, algorithm: str, box: bool) -> None:
    data = make_data(box=box)
    recipe = replace(RECIPE, algorithm=algorithm)
    through = Learner(data, recipe)
    through.run(20)
    stopped = Learner(data, recipe)
    stopped.run(12)
    for name, content in stopped.state().items():
        (tmp_path / name).write_bytes(content)
    resumed = Learner(data, replace(recipe, seed=99))
    resumed.restore(tmp_path)
    resumed.run(8)
    assert resumed.updates == 20
    for averaged in (False, True):
        ours, theirs = (one.policy(averaged=averaged).networks for one in (through, resumed))
        for mine, other in zip(
            *(nets[role][0].parameters() for nets in (ours, theirs) for role in list(nets)[:1]), strict=True
        ):
            torch.testing.assert_close(mine, other, rtol=0, atol=0)
    # On data with other means and bounds, the networks see and act as they were trained to.
    moved = replace(data, observations=3 * data.observations + 5, actions=data.actions * (3 if box else 1))
    elsewhere = Learner(moved, recipe)
    elsewhere.restore(tmp_path)
    states = data.states[:20]
    compute = "actions" if box else "q_values"
    here, there = (getattr(learner.policy(), compute)(states) for learner in (stopped, elsewhere))
    np.testing.assert_array_equal(here, there)
    with pytest.raises(
        UserError, match=r"(?s)got a checkpoint that cannot be restored .* expected one of the same algorithm"
    ):
        Learner(data, replace(recipe, hidden=(8,))).restore(tmp_path)


def test_a_saved_policy_is_the_same_policy(tmp_path: Path) -> None:
    discrete, continuous = ("BCQ", "CQL", "BC", "MARWIL"), ("TD3+BC", "CQL", "BCQ", "MARWIL")
    for name, box in [*((name, False) for name in discrete), *((name, True) for name in continuous)]:
        data = make_data(box=box)
        learner = Learner(data, replace(RECIPE, algorithm=name, activation="tanh"))
        learner.run(3)
        policy = learner.policy()
        learner.run(3)  # a snapshot does not go on learning
        policy.save(tmp_path / "policy.safetensors")
        loaded = NetworkPolicy.load(tmp_path / "policy.safetensors")
        states = data.states[:50]
        if box:
            np.testing.assert_array_equal(loaded.actions(states), policy.actions(states))
            assert (loaded.actions(states) >= data.actions.min(axis=0)).all()
            np.testing.assert_array_equal(loaded.act(states[0]), policy.actions(states[:1])[0])
        else:
            np.testing.assert_array_equal(loaded.probabilities(states), policy.probabilities(states))
            assert loaded.act(states[0]) == policy.probabilities(states[:1])[0].argmax()
    (tmp_path / "policy.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"got a file that is no policy of this program"):
        NetworkPolicy.load(tmp_path / "policy.safetensors")


def test_soft_policies_sum_to_one_and_lean_where_the_values_are() -> None:
    learner = Learner(make_data(), replace(RECIPE, algorithm="DDQN"))
    learner.run(50)
    policy = learner.policy()
    states = make_data(seed=1).states
    values = policy.q_values(states)
    soft = policy.probabilities(states, temperature=2.0)
    expected = np.exp(values / 2)
    np.testing.assert_allclose(soft, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)
    mixed = policy.probabilities(states, epsilon=0.3)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed.max(axis=1), 0.8, rtol=1e-6)
    np.testing.assert_array_equal(mixed.argmax(axis=1), values.argmax(axis=1))


def test_an_algorithm_for_the_other_kind_of_actions_is_refused() -> None:
    with pytest.raises(UserError, match=r"got 'IQL' for data with discrete actions; expected one of BCQ, DDQN, CQL"):
        check_algorithm("IQL", is_discrete=True)
    with pytest.raises(
        UserError, match=r"got 'DDQN' for data with continuous actions; expected one of BCQ, CQL, TD3\+BC, IQL"
    ):
        check_algorithm("DDQN", is_discrete=False)
