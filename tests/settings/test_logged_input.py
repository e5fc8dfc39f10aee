"""Experiments of 2020 that learn from logged data."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.settings.logged_input import as_learning_from_log


def experiment(run: str = "IMPALA", **config: Any) -> dict[str, Any]:
    stop = {"episodes_total": 10_000, "training_iteration": 5}
    return {"training": {"env": "CartPole-v1", "run": run, "stop": stop, "config": config}}


def test_an_experiment_with_a_log_learns_from_it() -> None:
    given = experiment(input="/data", gamma=0.9, num_workers=3, model={"fcnet_hiddens": [8], "free_log_std": True})
    changed, notes = as_learning_from_log(given, ("BCQ", "BC"), "BCQ")
    assert changed == {
        "training": {
            "env": "CartPole-v1",
            "run": "BCQ",
            "data": "/data",
            "stop": {"training_iteration": 5},
            "config": {"gamma": 0.9, "model": {"fcnet_hiddens": [8]}},
        }
    }
    assert notes == [
        "rl.training.config.input is rl.training.data=/data today",
        "rl.training.run=IMPALA learns as it acts; BCQ learns from the log. rl.training.run names another of BCQ, BC",
        "without a meaning for learning from a log, and left out: config.num_workers, stop.episodes_total",
    ]
    assert as_learning_from_log(experiment("BC", input="/data"), ("BCQ", "BC"), "BCQ")[0]["training"]["run"] == "BC"


@pytest.mark.parametrize("config", [{}, {"input": "sampler"}, {"input": None}, {"input": {"/a": 0.5, "sampler": 0.5}}])
def test_any_other_experiment_stays_as_it_is(config: dict[str, Any]) -> None:
    given = experiment(**config)
    assert as_learning_from_log(given, ("BCQ",), "BCQ") == (given, [])
