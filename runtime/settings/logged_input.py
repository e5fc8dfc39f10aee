"""The experiment of a script of 2020 that learns from logged data, by `input` of Ray 0.8 to 1.6, as today's job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAMPLER = ("sampler", None)
# What learning from a log has of RLlib's settings; a network's sizes are those of `model`.
_KEPT = ("gamma", "lr", "beta", "seed", "horizon", "env_config", "model")
_KEPT_OF_MODEL = ("fcnet_hiddens", "fcnet_activation")
_KEPT_CRITERIA = ("training_iteration", "time_total_s")


def as_learning_from_log(
    experiment: dict[str, Any], algorithms: tuple[str, ...], default: str
) -> tuple[dict[str, Any], list[str]]:
    """Translates an experiment that names logged data.

    Args:
        experiment: What a launcher's get_experiment_config returned.
        algorithms: Those that learn from a log here.
        default: The one of them that takes the place of any other.

    Returns:
        The experiment, changed where its `input` is a file or a folder, and a line for each change.
    """
    training = experiment.get("training")
    config = training.get("config") if isinstance(training, Mapping) else None
    if not isinstance(training, Mapping) or not isinstance(config, Mapping):
        return experiment, []
    place, run = config.get("input"), str(training.get("run"))
    if place in _SAMPLER or not isinstance(place, str):
        return experiment, []
    model = config.get("model")
    kept: dict[str, Any] = {name: value for name, value in config.items() if name in _KEPT and name != "model"}
    if isinstance(model, Mapping):
        kept["model"] = {name: value for name, value in model.items() if name in _KEPT_OF_MODEL}
    stop = training.get("stop") or {}
    criteria = {name: value for name, value in stop.items() if name in _KEPT_CRITERIA}
    chosen = run if run in algorithms else default
    left_out = [f"config.{name}" for name in config if name not in (*_KEPT, "input")]
    left_out += [f"stop.{name}" for name in stop if name not in criteria]
    notes = [f"rl.training.config.input is rl.training.data={place} today"]
    if chosen != run:
        notes.append(
            f"rl.training.run={run} learns as it acts; {chosen} learns from the log. rl.training.run names another of "
            f"{', '.join(algorithms)}"
        )
    if left_out:
        notes.append(f"without a meaning for learning from a log, and left out: {', '.join(left_out)}")
    named = {"run": chosen, "data": place, "config": kept, "stop": criteria}
    return {**experiment, "training": {**training, **named}}, notes
