"""Learning from a log: d3rlpy's own numbers, the squared error, fitted Q evaluation by closed form, and the choice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from runtime.errors import UserError
from runtime.observation_filter import ObservationFilter
from runtime.offline.bcq import Learner, Recipe, SquaredErrorQFunctionFactory, check_algorithm
from runtime.offline.behaviour import estimate_behaviour
from runtime.offline.fqe import COARSE, FINE, FittedQEvaluation, return_bounds
from runtime.offline.network_policy import NetworkPolicy
from runtime.offline.selection import Judge, choose
from runtime.offline.transitions import TERMINAL, UNKNOWN, Transitions


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the job runs: for matrices this small, more threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(limits=1, user_api="blas"):
        yield
    torch.set_num_threads(threads)


RECIPE = Recipe("BCQ", (32, 32), "relu", 1e-3, 0.9, 16, 10, 0.3, "mse", 0.99, 7)


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
def test_the_thin_loop_has_the_numbers_of_d3rlpys_fit(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batches through `fit` and through our loop give the same weights."""
    import d3rlpy

    data = make_data(box=False)
    learner = Learner(data, replace(RECIPE, algorithm=algorithm))
    batches = [torch.randint(len(data), (16,), generator=torch.Generator().manual_seed(number)) for number in range(25)]
    drawn = iter(batches)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: torch.stack(list(itertools.islice(drawn, 25))))
    learner.run(25)
    monkeypatch.undo()

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
    dataset = d3rlpy.dataset.MDPDataset(
        observations=learner.filter(data.states),
        actions=data.actions[:, None],
        rewards=data.rewards[:, None],
        terminals=(data.next_rows == TERMINAL).astype(np.float32),
        action_size=3,
    )
    ends = np.append(data.starts[1:], len(data))
    picked = iter(batches)

    def sample(size: int) -> Any:
        rows = next(picked).tolist()
        episodes = [int(np.searchsorted(ends, row, side="right")) for row in rows]
        picker = dataset.transition_picker
        return d3rlpy.dataset.TransitionMiniBatch.from_transitions(
            [picker(dataset.episodes[e], row - int(data.starts[e])) for e, row in zip(episodes, rows, strict=True)]
        )

    monkeypatch.setattr(dataset, "sample_transition_batch", sample)
    quiet = d3rlpy.logging.NoopAdapterFactory()
    theirs.fit(dataset, n_steps=25, n_steps_per_epoch=25, logger_adapter=quiet, show_progress=False, save_interval=99)
    ours, fitted = learner._algorithm.impl.modules.q_funcs, theirs.impl.modules.q_funcs
    for mine, other in zip(ours.parameters(), fitted.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    states = learner.filter(data.states)
    np.testing.assert_array_equal(learner.policy().probabilities(data.states).argmax(axis=1), theirs.predict(states))


@pytest.mark.parametrize("algorithm", ["TD3+BC", "IQL"])
def test_policies_for_continuous_actions_act_as_d3rlpys(algorithm: str) -> None:
    data = make_data(box=True)
    learner = Learner(data, replace(RECIPE, algorithm=algorithm))
    learner.run(30)
    unit = learner._algorithm.predict(learner.filter(data.states))
    low, high = data.actions.min(axis=0), data.actions.max(axis=0)
    np.testing.assert_allclose(learner.policy().actions(data.states), low + (unit + 1) / 2 * (high - low), atol=1e-5)


def test_rare_failures_pull_as_hard_as_they_are_large() -> None:
    """A reward of 10 in a tenth of the cases is worth 1 by the squared error; by d3rlpy's Huber loss a ninth."""
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


def test_averaged_weights_are_the_running_mean_of_the_weights() -> None:
    data = make_data()
    learner = Learner(data, replace(RECIPE, algorithm="DDQN", averaging=0.5))
    mean = learner.policy().networks["q"][0].state_dict()
    for _ in range(5):
        learner.run(1)
        now = learner.policy().networks["q"][0].state_dict()
        mean = {name: 0.5 * mean[name] + 0.5 * now[name] for name in mean}
    for name, value in learner.policy(averaged=True).networks["q"][0].state_dict().items():
        torch.testing.assert_close(value, mean[name])


@pytest.mark.parametrize("box", [False, True])
def test_a_restored_learner_goes_on_as_if_never_stopped(tmp_path: Path, box: bool) -> None:
    data = make_data(box=box)
    recipe = replace(RECIPE, algorithm="IQL" if box else "BCQ")
    through, stopped = Learner(data, recipe), Learner(data, recipe)
    through.run(20)
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
    for name, box in (("BCQ", False), ("CQL", False), ("TD3+BC", True), ("BCQ", True)):
        data = make_data(box=box)
        learner = Learner(data, replace(RECIPE, algorithm=name, activation="tanh"))
        learner.run(3)
        policy = learner.policy()
        learner.run(3)  # a snapshot does not go on learning
        policy.save(tmp_path / "policy.pt")
        loaded = NetworkPolicy.load(tmp_path / "policy.pt")
        states = data.states[:50]
        if box:
            np.testing.assert_array_equal(loaded.actions(states), policy.actions(states))
            assert (loaded.actions(states) >= data.actions.min(axis=0)).all()
            np.testing.assert_array_equal(loaded.act(states[0]), policy.actions(states[:1])[0])
        else:
            np.testing.assert_array_equal(loaded.probabilities(states), policy.probabilities(states))
            assert loaded.act(states[0]) == policy.probabilities(states[:1])[0].argmax()
    (tmp_path / "policy.pt").write_bytes(b"no")
    with pytest.raises(UserError, match=r"got a file that is no policy of this program"):
        NetworkPolicy.load(tmp_path / "policy.pt")


def test_soft_policies_sum_to_one_and_lean_where_the_values_are() -> None:
    learner = Learner(make_data(), replace(RECIPE, algorithm="DDQN"))
    learner.run(50)
    policy, states = learner.policy(), make_data(seed=1).states
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
        UserError, match=r"got 'CQL' for data with continuous actions; expected one of BCQ, TD3\+BC, IQL"
    ):
        check_algorithm("CQL", is_discrete=False)


def make_chain(*, count: int, seed: int, end: float = 0.1) -> tuple[Transitions, Any]:
    """A decision process of 4 states, as one-hot features, under uniform actions; and what solves it.

    Action 1 moves on in the circle, action 0 stays; the reward is the state's number where one moves. An episode ends
    with a probability that is the same everywhere.
    """
    rng = np.random.default_rng(seed)
    state, states, actions, rewards, ends = 0, [], [], [], []
    for _ in range(count):
        action, ended = int(rng.integers(2)), rng.random() < end
        states.append(state)
        actions.append(action)
        rewards.append(float(state * action))
        ends.append(ended)
        state = 0 if ended else (state + action) % 4
    ends[-1] = True
    following = np.where(ends, TERMINAL, np.arange(1, count + 1))
    starts = np.append(0, np.flatnonzero(ends)[:-1] + 1)
    data = Transitions(
        np.eye(4, dtype=np.float32)[states],
        np.array(actions),
        np.array(rewards, np.float32),
        following,
        starts,
        np.full((count, 2), 0.5, np.float32),
        2,
    )

    def solve(move: Any, gamma: float) -> Any:
        """(4,) values of the policy that moves with these probabilities."""
        forward = np.roll(np.eye(4), 1, axis=1)
        change = (1 - end) * (move[:, None] * forward + (1 - move)[:, None] * np.eye(4))
        return np.linalg.solve(np.eye(4) - gamma * change, move * np.arange(4))

    return data, solve


@pytest.mark.parametrize(("smoothness", "move"), [(FINE, [1, 1, 1, 1]), (COARSE, [0.2, 0.9, 0.5, 0.7])])
def test_fitted_q_evaluation_solves_a_small_decision_process(smoothness: Any, move: list[float]) -> None:
    data, solve = make_chain(count=10_000, seed=0)
    values = solve(np.array(move), 0.95)
    chances = np.asarray(data.observations @ np.array(move), np.float32)
    model = FittedQEvaluation(data, gamma=0.95, seed=1, smoothness=smoothness)
    found = model.evaluate(np.stack([1 - chances, chances], axis=1))
    assert found.start == pytest.approx(values[0], rel=0.06)
    for state in range(4):
        row = int(np.argmax(data.observations[:, state]))
        moved = 0.95 * 0.9 * values[(state + 1) % 4] + state
        stayed = 0.95 * 0.9 * values[state]
        np.testing.assert_allclose(found.q_values[row], [stayed, moved], rtol=0.08)


def test_refits_spread_as_other_logs_would() -> None:
    """The spread over drawn episodes is that over fresh logs of the process, and the truth lies within."""
    move = np.ones(4)
    fresh, spreads, hits = [], [], 0
    for seed in range(30):
        data, solve = make_chain(count=1500, seed=seed)
        target = np.tile(np.array([[0, 1]], np.float32), (len(data), 1))
        model = FittedQEvaluation(data, gamma=0.9, seed=seed)
        fresh.append(model.evaluate(target).start)
        refits = model.resample(target, resamples=30, seed=seed)
        spreads.append(refits.std())
        hits += abs(fresh[-1] - solve(move, 0.9)[0]) < 3 * refits.std()
    assert 0.5 < np.mean(spreads) / np.std(fresh) < 2
    assert hits >= 28


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.999])
def test_a_log_without_any_end_is_worth_what_its_steps_cost_for_ever(gamma: float) -> None:
    """Not less: a penalty on the regression's constant would shrink it, step after step."""
    rng = np.random.default_rng(0)
    count = 2000
    following = np.arange(1, count + 1)
    following[99::100] = UNKNOWN
    data = Transitions(
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(2, size=count),
        np.full(count, -1, np.float32),
        following,
        np.arange(0, count, 100),
        None,
        2,
    )
    target = np.full((count, 2), 0.5, np.float32)
    for smoothness in (FINE, COARSE):
        found = FittedQEvaluation(data, gamma=gamma, seed=0, smoothness=smoothness).evaluate(target)
        assert found.start == pytest.approx(-1 / (1 - gamma), rel=0.02)


def test_an_action_that_was_never_logged_is_worth_the_least() -> None:
    data = replace(make_data(actions=2), num_actions=3, rewards=-np.ones(400, np.float32))
    always = np.tile(np.array([0, 0, 1], np.float32), (400, 1))
    assert FittedQEvaluation(data, gamma=0.9, seed=0).evaluate(always).start == pytest.approx(-10)


def test_continuous_actions_are_evaluated_too() -> None:
    """One step: the value of an action is what it pays there."""
    rng = np.random.default_rng(0)
    states, actions = rng.normal(size=(3000, 2)).astype(np.float32), rng.uniform(-1, 1, (3000, 1)).astype(np.float32)
    rewards = states[:, 0] * actions[:, 0] - actions[:, 0] ** 2
    data = Transitions(states, actions, rewards, np.full(3000, TERMINAL), np.arange(3000), None, None)
    target = np.clip(states[:, :1] / 2, -1, 1).astype(np.float32)
    expected = (states[:, 0] * target[:, 0] - target[:, 0] ** 2).mean()
    assert FittedQEvaluation(data, gamma=0.9, seed=0).evaluate(target).start == pytest.approx(expected, abs=0.03)


def test_returns_are_bounded_by_what_rewards_can_add_up_to() -> None:
    assert return_bounds(np.array([0.5, 1], np.float32), 0.99) == pytest.approx((0, 100))
    assert return_bounds(np.array([-1, -1], np.float32), 0.9) == pytest.approx((-10, 0))
    assert return_bounds(np.array([-1, 2], np.float32), 0.5) == pytest.approx((-2, 4))


def test_the_behaviour_policy_is_recovered_from_its_actions() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(8000, 2)).astype(np.float32)
    chances = 1 / (1 + np.exp(-2 * states[:, 0]))
    actions = (rng.random(8000) < chances).astype(np.int64)
    data = Transitions(states, actions, np.zeros(8000, np.float32), np.full(8000, TERMINAL), np.arange(8000), None, 2)
    learn, judge = data.split(0.5, seed=0)
    found = estimate_behaviour(learn, judge, seed=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(found[:, 1] - 1 / (1 + np.exp(-2 * judge.states[:, 0]))).mean() < 0.03


def test_the_latest_iteration_close_to_the_best_is_chosen() -> None:
    assert choose([10, 100, 99.5, 60], logged=20) == 2
    assert choose([10, 100, 98.9, 60], logged=20) == 1
    assert choose([-100, -50, -50.4, -51], logged=-90) == 2
    # Close to 0, the gain on the log is what a hundredth is of.
    assert choose([-5, 0.05, 0.0, -1], logged=-10) == 2
    assert choose([3], logged=5) == 0


def fixed(probabilities: list[float]) -> NetworkPolicy:
    """Networks whose values lead to a policy that always takes the likeliest of these actions."""
    layer = nn.Linear(4, len(probabilities))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(probabilities))
    return NetworkPolicy("greedy", {"q": [nn.Sequential(layer)]}, ObservationFilter(np.zeros(4), np.ones(4), 10.0))


def test_a_judge_prefers_the_policy_that_earns_more_and_says_how_sure_it_is() -> None:
    data, solve = make_chain(count=6000, seed=3, end=0.3)
    judge = Judge(data, gamma=0.9, seed=0)
    moves, stays = fixed([0.0, 1.0]), fixed([1.0, 0.0])
    better, worse = judge.score(moves), judge.score(stays)
    truth = solve(np.ones(4), 0.9)[0]
    assert better["estimated_return"] == pytest.approx(truth, rel=0.1)
    assert worse["estimated_return"] == pytest.approx(0, abs=0.1 * truth)
    report = judge.report(moves)
    assert report.value.low < truth < report.value.high
    assert report.value.low > report.behaviour.high  # so the log would have told you to change
    assert report.lower_bound is not None
    assert 0 <= report.lower_bound <= truth
    for name in ("pdis", "wpdis", "sdr", "wdr"):
        assert report.estimators[name].low <= truth <= report.estimators[name].high, name


def test_few_episodes_and_hopeless_weights_are_warned_of() -> None:
    data, _ = make_chain(count=400, seed=0, end=0.02)
    judge = Judge(data, gamma=0.9, seed=0)
    report = judge.report(fixed([0.0, 1.0]))
    assert len(data.starts) < 30
    assert any("fewer than 30: every interval is rough" in line for line in report.warnings)
    assert any("importance sampling cannot tell policies apart" in line for line in report.warnings)
