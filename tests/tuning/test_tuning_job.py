"""A tuning job in SageMaker's words is read as SageMaker reads it, and every mistake in one is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import UserError
from runtime.tuning.ranges import Range, choose_scaling
from runtime.tuning.records import Record, State, append_record, best_trial, gather_trials, read_records
from runtime.tuning.request import parse_job, read_job
from runtime.tuning.search import FINISHED, PointSearch, importances

REVERSE = "ReverseLogarithmic"
LR = {"Name": "rl.training.config.lr", "MinValue": "1e-5", "MaxValue": "0.01", "ScalingType": "Logarithmic"}


def words(**config: Any) -> dict[str, Any]:
    """A tuning job with one range."""
    found = {
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "episode_reward_mean"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 50, "MaxParallelTrainingJobs": 5},
        "ParameterRanges": {"ContinuousParameterRanges": [LR]},
    }
    return {"HyperParameterTuningJobConfig": {**found, **config}}


def test_the_notebooks_request_is_read(tmp_path: Path) -> None:
    """The request is the one that the SDK sends for the notebook of 2020."""
    ranges = {
        "ContinuousParameterRanges": [
            {"Name": "rl.training.config.kl_coeff", "MinValue": "0.5", "MaxValue": "1.0", "ScalingType": "Auto"}
        ],
        "IntegerParameterRanges": [
            {"Name": "rl.training.config.num_sgd_iter", "MinValue": "3", "MaxValue": "50", "ScalingType": "Auto"}
        ],
        "CategoricalParameterRanges": [{"Name": "rl.training.config.use_gae", "Values": ['"True"', '"False"']}],
    }
    request = words(Strategy="Bayesian", ParameterRanges=ranges, TrainingJobEarlyStoppingType="Off")
    request["HyperParameterTuningJobName"] = "tune-hopper-1"
    request["TrainingJobDefinition"] = {
        "StaticHyperParameters": {"rl.training.stop.time_total_s": "600", "sagemaker_program": '"train-hopper.py"'},
        "AlgorithmSpecification": {
            "MetricDefinitions": [{"Name": "episode_reward_mean", "Regex": "episode_reward_mean: ([-+]?[0-9.]+)"}]
        },
        "RoleArn": "arn:aws:iam::1:role/x",
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps(request))
    job = read_job(path)
    kl, epochs, gae = job.ranges
    assert (kl.low, kl.high, kl.scaling, epochs.low, epochs.high, gae.values) == (
        *(0.5, 1.0, "Linear", 3, 50),
        ('"True"', '"False"'),
    )
    assert (job.max_trials, job.max_parallel, job.maximize) == (50, 5, True)
    assert job.static == {"rl.training.stop.time_total_s": "600"}
    assert job.read_objective({"episode_reward_mean": 12.25, "loss": 1.0}) == 12.25


def test_yaml_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**words(), "SeedsPerTrial": 3}))
    assert read_job(path).seeds == 3


def test_a_metric_of_the_users_own_name_is_found_by_its_regex() -> None:
    definition = {"AlgorithmSpecification": {"MetricDefinitions": [{"Name": "mine", "Regex": "loss: ([-0-9.]+)"}]}}
    objective = {"Type": "Minimize", "MetricName": "mine"}
    request = {**words(HyperParameterTuningJobObjective=objective), "TrainingJobDefinition": definition}
    job = parse_job(request, source="a test")
    assert not job.maximize
    assert job.read_objective({"training_iteration": 1, "loss": -0.5}) == -0.5
    assert job.read_objective({"training_iteration": 1}) is None


def test_every_mistake_is_named_at_once() -> None:
    request = words(
        Strategy="Baysian",
        ResourceLimits={"MaxNumberOfTrainingJobs": "many", "MaxParallelTrainingJobs": 0},
        ParameterRanges={
            "ContinuousParameterRanges": [{**LR, "MinValue": "0"}, {"Name": "b", "MinValue": 2, "MaxValue": 1}],
            "IntegerParameterRanges": [{"Name": "c", "MinValue": "1.5", "MaxValue": 3}, {"MinValue": 1}],
            "CategoricalParameterRanges": [{"Name": "d", "Values": []}],
        },
        Objective="x",
    )
    request["TrainingJobDefinitions"] = []
    with pytest.raises(UserError) as caught:
        parse_job(request, source="job.json")
    text = str(caught.value)
    for part in (
        "Strategy: got 'Baysian' from job.json; expected one of Bayesian, Random, Hyperband, Grid. Did you mean",
        "MaxNumberOfTrainingJobs: got 'many'",
        "MaxParallelTrainingJobs: got 0 from job.json; expected a whole number of at least 1",
        "rl.training.config.lr.MinValue: got 0.0 from job.json; expected a number above 0 for ScalingType Logarithmic",
        "b.MinValue: got 2.0 from job.json; expected at most its MaxValue, 1",
        "c.MinValue: got '1.5'",
        "IntegerParameterRanges: got {'MinValue': 1} from job.json; expected a range with a Name",
        "d.Values: got []",
        "HyperParameterTuningJobConfig.Objective: got 'x'",
        "TrainingJobDefinitions: got 'several'",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"Strategy": "Hyperband"}, "HyperbandStrategyConfig: .*expected MinResource up to MaxResource"),
        ({"Strategy": "Grid"}, "Strategy: got 'Grid' .*expected categorical ranges alone"),
        ({"ParameterRanges": {}}, "ParameterRanges: .*expected at least one range"),
        ({"ParameterRanges": {"ContinuousParameterRanges": [LR, LR]}}, "rl.training.config.lr: got '2 ranges'"),
        ({"ParameterRanges": {"AutoParameters": [{"Name": "x"}]}}, "AutoParameters: "),
        ({"ResourceLimits": 3}, "ResourceLimits: got 3 .*expected a mapping"),
        ({"ParameterRanges": {"ContinuousParameterRanges": [{**LR, "MaxValue": 1, "ScalingType": REVERSE}]}},
         "expected a continuous range from 0 to below 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(config: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        parse_job(words(**config), source="job.json")


def test_a_value_cannot_be_tuned_and_fixed() -> None:
    request = {**words(), "TrainingJobDefinition": {"StaticHyperParameters": {"rl.training.config.lr": "1"}}}
    with pytest.raises(UserError, match=r"StaticHyperParameters.rl.training.config.lr: got '1'"):
        parse_job(request, source="job.json")


def test_a_presets_goal_does_not_cap_the_objective() -> None:
    assert parse_job(words(), source="a test").settings["rl.training.stop.episode_reward_mean"] is None
    timed = words(HyperParameterTuningJobObjective={"Type": "Minimize", "MetricName": "time_total_s"})
    assert "rl.training.stop.episode_reward_mean" not in parse_job(timed, source="a test").settings


@given(st.floats(1e-6, 0.5), st.floats(0.51, 0.999999), st.floats(0, 1))
def test_a_reverse_logarithmic_range_is_fine_close_to_one(low: float, high: float, at: float) -> None:
    one = Range("x", "continuous", low, high, "ReverseLogarithmic")
    value = low + at * (high - low)
    drawn = one.from_hyperparameter(value)
    assert one.to_hyperparameter(drawn) == pytest.approx(value, abs=1e-12)
    expected = math.log((1 - low) / (1 - value)) / math.log((1 - low) / (1 - high))
    assert one.place(value) == pytest.approx(expected, abs=1e-6)


def test_auto_is_logarithmic_over_decades() -> None:
    assert (choose_scaling(1e-5, 1e-2), choose_scaling(0.5, 1.0), choose_scaling(0, 100)) == (
        "Logarithmic",
        "Linear",
        "Linear",
    )


def play(search: PointSearch, value_of: Any, *, upto: int, state: State = "completed") -> list[dict[str, Any]]:
    """Ends every suggested job at once with a value of its point."""
    done = []
    for _ in range(upto):
        suggestion = search.suggest()
        if suggestion == FINISHED:
            break
        assert isinstance(suggestion, dict)
        record = Record(
            suggestion["trial"], suggestion["seed"], state, suggestion["point"], suggestion["folder"],
            value_of(suggestion["point"]), 5,
        )  # fmt: skip
        search.trials[record.trial].jobs[record.seed] = record
        search.end(record)
        done.append(suggestion)
    return done


def quadratic(point: dict[str, Any]) -> float:
    return -((math.log10(point["rl.training.config.lr"]) + 3) ** 2)


def test_the_search_finds_the_top_of_a_hill() -> None:
    """Better than as many random points, in the median of 5 repeats: the hill is at 1e-3."""
    best: dict[str, list[float]] = {"Bayesian": [], "Random": []}
    for strategy, found in best.items():
        for repeat in range(5):
            job = parse_job(words(Strategy=strategy), source="a test")
            done = play(PointSearch(job, (), (), seeds=(1,), random_seed=repeat), quadratic, upto=40)
            found.append(max(quadratic(one["point"]) for one in done))
    assert sorted(best["Bayesian"])[2] > sorted(best["Random"])[2]


def test_each_point_is_trained_once_a_seed() -> None:
    job = parse_job({**words(ResourceLimits={"MaxNumberOfTrainingJobs": 2}), "SeedsPerTrial": 3}, source="a test")
    done = play(PointSearch(job, (), (), seeds=(7, 8, 9), random_seed=0), quadratic, upto=99)
    assert [(one["trial"], one["seed"]) for one in done] == [(t, s) for t in (1, 2) for s in (7, 8, 9)]
    assert done[0]["folder"] == "trials/001/seed-7"
    assert done[0]["point"] == done[2]["point"] != done[3]["point"]


def test_only_points_that_stand_with_their_first_seed_get_the_others() -> None:
    job = parse_job(
        {
            **words(TrainingJobEarlyStoppingType="Auto", ResourceLimits={"MaxNumberOfTrainingJobs": 3}),
            "SeedsPerTrial": 2,
        },
        source="a test",
    )
    search = PointSearch(job, (), (), seeds=(1, 2), random_seed=0)
    stopped = play(search, quadratic, upto=1, state="stopped")
    rest = play(search, quadratic, upto=99)
    assert [one["seed"] for one in stopped + rest] == [1, 1, 2, 1, 2]
    assert [one["is_scheduled"] for one in rest] == [True, False, True, False]
    best = best_trial(search.trials.values(), seeds=2, maximize=True)
    assert best is not None
    assert best.number != stopped[0]["trial"]


def begin(job: Any, values: list[list[float]]) -> list[int]:
    """Trials one after the other, with a value an iteration; how many each did until the rule stopped it."""
    search, done = PointSearch(job, (), (), seeds=(1,), random_seed=0), []
    for series in values:
        suggestion = search.suggest()
        assert isinstance(suggestion, dict)
        number, count = suggestion["trial"], 0
        state: State = "completed"
        for count, value in enumerate(series, start=1):
            if search.should_stop(number, count, value):
                state = "stopped"
                break
        record = Record(number, 1, state, suggestion["point"], "", series[count - 1], count)
        search.trials[number].jobs[1] = record
        search.end(record)
        done.append(count)
    return done


def test_a_trial_below_the_median_of_three_is_stopped_from_its_fifth_iteration_on() -> None:
    early = words(TrainingJobEarlyStoppingType="Auto", ResourceLimits={"MaxNumberOfTrainingJobs": 9})
    series = [[0.0] * 7, [1.0] * 7, [2.0] * 7, [0.5] * 7, [1.5] * 7]
    assert begin(parse_job(early, source="a test"), series) == [7, 7, 7, 5, 7]
    assert begin(parse_job(words(), source="a test"), series) == [7] * 5


def test_halving_promotes_one_in_three_and_ends_at_the_resource() -> None:
    resources = {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 4}}
    job = parse_job(words(Strategy="Hyperband", StrategyConfig=resources), source="a test")
    assert begin(job, [[3.0] * 9, [1.0] * 9, [2.0] * 9, [4.0] * 9]) == [4, 1, 1, 4]


def test_a_grid_is_gone_through_once() -> None:
    ranges = [{"Name": "a", "Values": ["1", "2"]}, {"Name": "b", "Values": ["x", "y", "z"]}]
    job = parse_job(
        words(Strategy="Grid", ParameterRanges={"CategoricalParameterRanges": ranges}, ResourceLimits={}),
        source="a test",
    )
    done = play(PointSearch(job, (), (), seeds=(1,), random_seed=0), lambda point: 0.0, upto=99)
    assert {(one["point"]["a"], one["point"]["b"]) for one in done} == {(a, b) for a in "12" for b in "xyz"}
    assert len(done) == 6


def test_a_killed_tuning_resumes_its_running_jobs(tmp_path: Path) -> None:
    job = parse_job({**words(ResourceLimits={"MaxNumberOfTrainingJobs": 4}), "SeedsPerTrial": 2}, source="a test")
    point = {"rl.training.config.lr": 0.002}
    ended = Record(1, 5, "completed", {"rl.training.config.lr": 1e-4}, "trials/001/seed-5", 3.0, 9)
    begun = Record(2, 5, "completed", point, "trials/002/seed-5", 1.0, 9)
    for record in (ended, Record(1, 6, "completed", ended.hyperparameters, "trials/001/seed-6", 4.0, 9), begun,
                   Record(2, 6, "started", point, "trials/002/seed-6")):  # fmt: skip
        append_record(tmp_path, record)
    with (tmp_path / "tuning.jsonl").open("a") as file:
        file.write('{"trial": 3, "se')  # cut by the kill
    trials = gather_trials(read_records(tmp_path))
    assert [(trial.state, trial.objective) for trial in trials] == [("completed", 3.5), ("started", None)]
    done = play(PointSearch(job, trials, (), seeds=(5, 6), random_seed=0), quadratic, upto=99)
    assert [(one["trial"], one["seed"]) for one in done] == [(2, 6), (3, 5), (3, 6), (4, 5), (4, 6)]
    assert done[0]["point"] == point


def test_trials_of_an_earlier_tuning_tell_the_search_where_to_look() -> None:
    job = parse_job(words(), source="a test")
    parents = gather_trials(
        Record(n, 1, "completed", {"rl.training.config.lr": 10**e}, "", quadratic({"rl.training.config.lr": 10**e}), 5)
        for n, e in enumerate([-5 + 3 * k / 29 for k in range(30)], start=1)
    )
    warm = play(PointSearch(job, (), parents, seeds=(1,), random_seed=0), quadratic, upto=6)
    cold = play(PointSearch(job, (), (), seeds=(1,), random_seed=0), quadratic, upto=6)
    worst = [min(quadratic(one["point"]) for one in found) for found in (warm, cold)]
    assert worst[0] > worst[1]


def test_the_hyperparameter_that_matters_is_the_important_one() -> None:
    ranges = {"ContinuousParameterRanges": [LR, {"Name": "idle", "MinValue": 0, "MaxValue": 1}]}
    job = parse_job(words(ParameterRanges=ranges, Strategy="Random"), source="a test")
    search = PointSearch(job, (), (), seeds=(1,), random_seed=0)
    play(search, quadratic, upto=40)
    found = importances(job, list(search.trials.values()))
    assert found["rl.training.config.lr"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
