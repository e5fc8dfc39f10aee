"""Off-policy estimators against closed forms, enumeration, invariances, and RLlib's where it is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.offline.estimators.ope import (
    ESTIMATORS,
    Episodes,
    bootstrap,
    draw_counts,
    effective_sample_size,
    estimate,
    importance_sampling,
    lower_bound,
    per_decision_importance_sampling,
    student_margin,
    weighted_doubly_robust,
)

EVERY = (*ESTIMATORS, "magic")
BY_RATIOS = ("is", "wis", "pdis", "wpdis")


def make_episodes(lengths: list[int], seed: int, *, gamma: float = 0.9, with_model: bool = True) -> Episodes:
    """Random rewards, probabilities and model values."""
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    model = {"q_values": rng.normal(size=steps), "state_values": rng.normal(size=steps)} if with_model else {}
    return Episodes.from_steps(
        np.array(lengths),
        gamma=gamma,
        rewards=rng.normal(size=steps),
        target=rng.uniform(0.1, 1, steps),
        behavior=rng.uniform(0.1, 1, steps),
        **model,
    )


def pick(episodes: Episodes, rows: Any) -> Episodes:
    """Some of the episodes, in that order."""
    return Episodes(
        episodes.rewards[rows],
        episodes.ratios[rows],
        episodes.q_values[rows],
        episodes.state_values[rows],
        episodes.lengths[rows],
        episodes.gamma,
    )


def test_a_small_case_worked_by_hand() -> None:
    episodes = Episodes.from_steps(
        np.array([2, 1]),
        gamma=0.5,
        rewards=np.array([1.0, 2.0, 3.0]),
        target=np.array([0.8, 0.25, 0.5]),
        behavior=np.array([0.5, 0.5, 0.25]),
        q_values=np.array([2, 1.5, 2]),
        state_values=np.array([2.2, 1.6, 2.5]),
    )
    expected = {
        "is": 3.8,
        "wis": 19 / 7,
        "pdis": 4.2,
        "wpdis": 2.3968253968,
        "dm": 2.35,
        "sdr": 3.29,
        "wdr": 2.8880952381,
    }
    for name, value in expected.items():
        assert estimate(name, episodes) == pytest.approx(value, abs=1e-9), name


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 99))
def test_of_the_same_policy_every_estimate_is_the_mean_return(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    probabilities = rng.uniform(0.1, 1, steps)
    episodes = Episodes.from_steps(
        np.array(lengths), gamma=0.9, rewards=rng.normal(size=steps), target=probabilities, behavior=probabilities
    )
    for name in (*BY_RATIOS, "sdr", "wdr"):
        assert estimate(name, episodes) == pytest.approx(episodes.returns.mean(), abs=1e-9), name


def enumerate_episodes(target: Any, q: Any, *, gamma: float) -> tuple[Episodes, float]:
    """Every action sequence of a small decision process, as often as a uniform policy takes it; and the exact value.

    States 0 to 3; action a of state s leads to s + 1 + a, which ends the episode from 4 on: lengths are 2 to 4.
    """
    horizon, actions = 4, 2
    rows: dict[str, list[float]] = {"rewards": [], "target": [], "q": [], "v": []}
    lengths = []
    exact = 0.0
    for sequence in np.ndindex(*[actions] * horizon):
        state = 0
        length = 0
        likely = 1.0
        paid = 0.0
        for step, action in enumerate(sequence):
            reward = 1.0 + state - 2.0 * action
            rows["rewards"].append(reward)
            rows["target"].append(target[state, action])
            rows["q"].append(q[state, action])
            rows["v"].append(float(target[state] @ q[state]))
            likely *= target[state, action]
            paid += gamma**step * reward
            state = state + 1 + action
            length = length + 1
            if state >= 4:
                break
        # A short sequence occurs once for each of its possible continuations.
        exact += likely * paid / actions ** (horizon - length)
        lengths.append(length)
    columns = {name: np.array(values) for name, values in rows.items()}
    episodes = Episodes.from_steps(
        np.array(lengths),
        gamma=gamma,
        rewards=columns["rewards"],
        target=columns["target"],
        behavior=np.full(len(columns["rewards"]), 1 / actions),
        q_values=columns["q"],
        state_values=columns["v"],
    )
    return episodes, exact


@given(st.integers(0, 200))
def test_enumerated_episodes_of_unequal_length_give_the_exact_value(seed: int) -> None:
    """The check that RLlib's weighted estimator fails: it divides by the weights of the episodes that still run."""
    rng = np.random.default_rng(seed)
    target = rng.dirichlet((1, 1), size=4)
    episodes, exact = enumerate_episodes(target, rng.normal(size=(4, 2)), gamma=0.9)
    assert set(episodes.lengths) == {2, 3, 4}
    for name in (*BY_RATIOS, "sdr", "wdr"):
        assert estimate(name, episodes) == pytest.approx(exact, abs=1e-9), name


def test_a_right_model_makes_the_doubly_robust_exact_from_any_sample() -> None:
    gamma = 0.9
    q = np.zeros((6, 2))
    target = np.random.default_rng(1).dirichlet((1, 1), size=4)
    for state in (3, 2, 1, 0):
        for action in (0, 1):
            following = state + 1 + action
            value = float(target[following] @ q[following]) if following < 4 else 0.0
            q[state, action] = 1.0 + state - 2.0 * action + gamma * value
    episodes, exact = enumerate_episodes(target, q, gamma=gamma)
    some = np.array([0, 3, 9, 10, 15])
    few = pick(episodes, some)
    for name in ("dm", "sdr", "wdr", "magic"):
        assert estimate(name, few) == pytest.approx(exact, abs=1e-6), name


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.integers(0, 99), st.floats(0.1, 10))
@settings(max_examples=50)
def test_estimates_scale_with_rewards_and_do_not_depend_on_the_order(lengths: list[int], seed: int, k: float) -> None:
    episodes = make_episodes(lengths, seed)
    scaled = Episodes(
        k * episodes.rewards, episodes.ratios, k * episodes.q_values, k * episodes.state_values, episodes.lengths, 0.9
    )
    order = np.random.default_rng(seed).permutation(len(lengths))
    moved = pick(episodes, order)
    for name in ESTIMATORS:
        value = estimate(name, episodes)
        assert estimate(name, scaled) == pytest.approx(k * value, rel=1e-6, abs=1e-6), name
        assert estimate(name, moved) == pytest.approx(value, rel=1e-6, abs=1e-6), name


class _Recorded:
    """RLlib's estimators ask a policy for probabilities, and a model for values: these are the recorded ones."""

    def __init__(self, **unused: Any) -> None:
        pass

    def estimate_q(self, batch: Any) -> Any:
        return batch["q"]

    def estimate_v(self, batch: Any) -> Any:
        return batch["v"]


def test_rllib_agrees_where_all_episodes_are_equally_long() -> None:
    from ray.rllib.offline.estimators import DoublyRobust, ImportanceSampling, WeightedImportanceSampling
    from ray.rllib.policy.sample_batch import SampleBatch

    count = 12
    steps = 7
    rng = np.random.default_rng(4)
    columns = {name: rng.uniform(0.2, 1, count * steps) for name in ("target", "action_prob", "q", "v")}
    rewards = rng.normal(size=count * steps)
    episodes = Episodes.from_steps(
        np.full(count, steps),
        gamma=0.9,
        rewards=rewards,
        target=columns["target"],
        behavior=columns["action_prob"],
        q_values=columns["q"],
        state_values=columns["v"],
    )
    batch = SampleBatch(
        {
            **columns,
            "rewards": rewards,
            "eps_id": np.repeat(np.arange(count), steps),
            "terminateds": np.arange(count * steps) % steps == steps - 1,
        }
    )
    theirs = {
        "pdis": ImportanceSampling(None, 0.9),
        "wpdis": WeightedImportanceSampling(None, 0.9),
        "sdr": DoublyRobust(None, 0.9, q_model_config={"type": _Recorded}),
    }
    for name, estimator in theirs.items():
        estimator.compute_action_probs = lambda episode: episode["target"]
        found = estimator.estimate(batch, split_batch_by_episode=True)["v_target"]
        assert estimate(name, episodes) == pytest.approx(found, rel=1e-6), name


def test_thousands_of_steps_do_not_overflow_the_normalized_estimators() -> None:
    steps = 3000
    rng = np.random.default_rng(0)
    episodes = Episodes.from_steps(
        np.full(4, steps),
        gamma=0.99,
        rewards=np.ones(4 * steps),
        target=rng.uniform(0.9, 1, 4 * steps),
        behavior=np.full(4 * steps, 0.25),
    )
    for name in ("wis", "wpdis", "wdr"):
        assert estimate(name, episodes) == pytest.approx(100, rel=1e-3), name
    assert 0 < estimate("magic", episodes) <= 100


def test_without_any_weight_left_nothing_is_claimed() -> None:
    """A deterministic policy that no episode agrees with: 0 would be the best of all negative returns."""
    episodes = Episodes.from_steps(
        np.array([2, 3]), gamma=0.9, rewards=-np.ones(5), target=np.array([1, 0, 1, 1, 0]), behavior=np.full(5, 0.5)
    )
    for name in ("wis", "wpdis"):
        assert np.isnan(estimate(name, episodes))
        assert np.isnan(bootstrap(ESTIMATORS[name](episodes), seed=0)).all()
    assert np.isfinite(estimate("wdr", episodes))


def test_a_logged_action_that_could_not_happen_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"behavior: got the probability 0.0 at step 1; expected above 0"):
        Episodes.from_steps(
            np.array([2]), gamma=1.0, rewards=np.ones(2), target=np.ones(2), behavior=np.array([0.5, 0.0])
        )
    with pytest.raises(ValueError, match=r"behavior: got 3 steps; expected 2, the sum of the lengths"):
        Episodes.from_steps(np.array([2]), gamma=1.0, rewards=np.ones(3), target=np.ones(3), behavior=np.ones(3))


def test_the_effective_sample_size_of_equal_and_of_lonely_weights() -> None:
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_sample_size(np.array([0, 0, 5.0, 0])) == pytest.approx(1)
    assert effective_sample_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / 14)
    assert effective_sample_size(np.array([1e300, 1e300])) == pytest.approx(2)
    assert effective_sample_size(np.zeros(3)) == 0


def test_a_resample_is_the_estimate_of_the_drawn_episodes() -> None:
    episodes = make_episodes([3, 1, 4, 2], seed=5)
    terms = weighted_doubly_robust(episodes)
    counts = next(draw_counts(4, 1, seed=3))[0]
    drawn = np.repeat(np.arange(4), counts.astype(int))
    again = pick(episodes, drawn)
    assert terms.estimate(counts[None])[0] == pytest.approx(estimate("wdr", again), rel=1e-12)


def test_the_interval_holds_the_true_value_about_as_often_as_it_says() -> None:
    """200 samples of 100 episodes of one step: the true value is 0.7 * 1 + 0.3 * 3."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        actions = rng.integers(2, size=100)
        episodes = Episodes.from_steps(
            np.ones(100, np.int64),
            gamma=1.0,
            rewards=np.where(actions == 0, 1.0, 3.0) + rng.normal(size=100),
            target=np.where(actions == 0, 0.7, 0.3),
            behavior=np.full(100, 0.5),
        )
        low, high = bootstrap(per_decision_importance_sampling(episodes), seed=seed, resamples=1000)
        hits += low <= 1.6 <= high
    assert 0.9 <= hits / 200 <= 0.99  # 95 %, give or take three standard errors


def test_an_interval_is_wide_where_one_episode_has_most_of_the_weight() -> None:
    """Two actions: the target takes the one that the log took in 5 of 100 steps, so most of the weight is theirs."""
    covers = {"percentiles": 0, "union": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        actions = (rng.random(60) < 0.05).astype(int)
        episodes = Episodes.from_steps(
            np.ones(60, np.int64),
            gamma=1.0,
            rewards=np.where(actions == 0, 1.0, 3.0),
            target=actions.astype(float),
            behavior=np.where(actions == 0, 0.95, 0.05),
        )
        terms = importance_sampling(episodes)
        if not actions.any():
            continue
        low, high = bootstrap(terms, seed=seed, resamples=300)
        values = np.concatenate([terms.estimate(counts) for counts in draw_counts(60, 300, seed=seed)])
        least, most = np.quantile(values, [0.025, 0.975])
        assert low <= least
        assert high >= most
        covers["percentiles"] += bool(least <= 3 <= most)
        covers["union"] += bool(low <= 3 <= high)
    assert covers["union"] > covers["percentiles"]


def test_students_margin_of_a_normal_mean() -> None:
    """Its degrees of freedom are fewer than N - 1: the fourth moment of a normal distribution is 3."""
    values = np.random.default_rng(0).normal(size=3000)
    margin = student_margin(values - values.mean())
    assert margin == pytest.approx(1.96 * values.std() / np.sqrt(3000), rel=0.01)
    assert student_margin(np.append(np.zeros(99), 1.0)) > 0.1  # one value of a hundred: one degree of freedom
    assert student_margin(np.zeros(5)) == 0


def test_the_lower_bound_holds_and_comes_closer_with_more_episodes() -> None:
    def bound(count: int, seed: int) -> float:
        rng = np.random.default_rng(seed)
        return lower_bound(rng.uniform(0, 2, count))

    assert all(bound(500, seed) <= 1.0 for seed in range(200))
    assert bound(500, 0) < bound(5_000, 0) < bound(50_000, 0)
    assert bound(50_000, 0) > 0.97
    with pytest.raises(ValueError, match=r"values: got -1; expected at least 0"):
        lower_bound(np.array([1.0, -1.0]))


def test_the_lower_bound_of_equal_values_is_their_mean_less_the_range_term() -> None:
    """Maurer & Pontil's bound without any variance, of the 95 values that did not choose the threshold."""
    log = np.log(2 / 0.05)
    assert lower_bound(np.full(100, 0.5)) == pytest.approx(0.5 - 7 * 0.5 * log / (3 * 94))


def test_magic_takes_the_model_when_the_weights_are_hopeless() -> None:
    """Long episodes of a far-away policy: the model is right and steady, the weighted estimators are not."""
    rng = np.random.default_rng(0)
    lengths = np.full(20, 40)
    steps = int(lengths.sum())
    right = np.tile(1 - 0.9 ** np.arange(40, 0, -1), 20) / 0.1
    episodes = Episodes.from_steps(
        lengths,
        gamma=0.9,
        rewards=1 + rng.normal(size=steps),
        target=rng.choice([0.05, 0.95], steps),
        behavior=np.full(steps, 0.5),
        q_values=right,
        state_values=right,
    )
    truth = right[0]
    assert abs(estimate("magic", episodes) - truth) < 0.25 * abs(estimate("is", episodes) - truth)
    assert estimate("dm", episodes) == pytest.approx(truth)


def test_importance_sampling_is_unbiased_for_ragged_random_episodes() -> None:
    """Its mean over many logs is the value by enumeration."""
    rng = np.random.default_rng(7)
    target = rng.dirichlet((1, 1), size=4)
    episodes, exact = enumerate_episodes(target, np.zeros((4, 2)), gamma=0.9)
    picked = rng.integers(len(episodes.lengths), size=40_000)
    sample = importance_sampling(episodes).plain[picked]
    assert sample.mean() == pytest.approx(exact, abs=4 * sample.std() / 200)
