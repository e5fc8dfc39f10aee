"""Rules between settings, which no single one of them shows."""

from __future__ import annotations

from typing import Any

from runtime.errors import Problems
from runtime.settings.schema import (
    ANY_LOG,
    DEFAULTS,
    MODEL,
    OFFLINE,
    OFFLINE_ALGORITHMS,
    OFFLINE_MODEL,
    OFFLINE_STOP,
    PPO,
    STOP,
)
from runtime.settings.types import coerce

_ROOT = "rl.training."
_OURS = ("preset ", "default")


def check_together(values: dict[str, Any], sources: dict[str, str], notes: dict[str, None], problems: Problems) -> None:
    """Notes every rule that a job's settings break together, and mends what is ours to mend.

    Args:
        values: Path below rl.training to value; changed where a default of ours gives way.
        sources: Path to the name of the source that set it; likewise.
        notes: Gains a line for each such change.
        problems: Gains every problem.
    """
    is_offline = values.get("run") in OFFLINE_ALGORITHMS
    if is_offline:
        _fill_in(values, sources)
    _check_belonging(values, sources, problems, is_offline=is_offline)
    _check_network(values, sources, notes, problems)
    if is_offline:
        _check_offline(values, sources, problems)
        return
    if values.get("env") is None:
        problems.add_line(f"{_ROOT}env: missing; expected the name of an environment.")
    _switch_kl_loss_on(values, sources, notes)
    _take_whole_returns(values, sources, notes)
    batch, minibatch = values.get("config.train_batch_size", 4000), values.get("config.minibatch_size", 128)
    if minibatch > batch:
        problems.add(
            f"{_ROOT}config.minibatch_size",
            minibatch,
            sources.get("config.minibatch_size", "RLlib's default"),
            expected=f"at most train_batch_size, which is {batch}",
        )


def _fill_in(values: dict[str, Any], sources: dict[str, str]) -> None:
    """What every job on logged data needs, where nothing says it; a stop criterion only if there is none."""
    has_stop = any(path.startswith("stop.") for path in values)
    for path, value in ANY_LOG.items():
        if path not in values and not (has_stop and path.startswith("stop.")):
            values[path], sources[path] = value, "default for any log"


def _check_offline(values: dict[str, Any], sources: dict[str, str], problems: Problems) -> None:
    """Settings that PPO has too may have narrower rules here."""
    for prefix, settings in (("config.model.", OFFLINE_MODEL), ("config.", OFFLINE)):
        for name, setting in settings.items():
            path = prefix + name
            if path not in values:
                continue
            try:
                values[path] = coerce(values[path], setting)
            except ValueError as error:
                problems.add(_ROOT + path, values[path], sources[path], expected=f"{error} for logged data")


def _check_belonging(values: dict[str, Any], sources: dict[str, str], problems: Problems, *, is_offline: bool) -> None:
    """Settings of the other kind of algorithm: PPO's defaults are dropped, what somebody asked for is refused."""
    run = values.get("run", "PPO")
    own = [(OFFLINE, "config."), (OFFLINE_MODEL, "config.model."), (OFFLINE_STOP, "stop.")]
    if not is_offline:
        own = [(PPO, "config."), (MODEL, "config.model."), (STOP, "stop.")]
    for path in list(values):
        prefix = next((p for p in ("config.model.", "config.", "stop.") if path.startswith(p)), None)
        if prefix is None or any(prefix == p and path.removeprefix(p) in settings for settings, p in own):
            continue
        if path in DEFAULTS and sources[path] == "default":
            del values[path]
            continue
        known = list(next(settings for settings, p in own if p == prefix))
        which = f": {', '.join(known)}" if is_offline else ""
        problems.add(f"{_ROOT}{path}", values[path], sources[path], expected=f"a setting of {run}{which}")
    if not is_offline and "data" in values:
        problems.add(
            f"{_ROOT}data",
            values["data"],
            sources["data"],
            expected=f"an algorithm that learns from data as rl.training.run, one of {', '.join(OFFLINE_ALGORITHMS)}",
        )


def _check_network(values: dict[str, Any], sources: dict[str, str], notes: dict[str, None], problems: Problems) -> None:
    hidden, width = "config.model.fcnet_hiddens", "config.model.initial_log_std"
    if values.get(hidden) == []:
        problems.add(_ROOT + hidden, [], sources[hidden], expected="at least one layer")
    has_sde = bool(values.get("config.model.use_sde"))
    if has_sde and values.get("config.model.use_lstm"):
        where = "config.model.use_sde"
        problems.add(_ROOT + where, True, sources[where], expected="model.use_lstm to be false beside it")
    needs = {"config.model.sde_sample_freq": "use_sde" if not has_sde else None}
    if not (values.get("config.model.free_log_std") or has_sde):
        needs[width] = "free_log_std"
    for name, needed in needs.items():
        if needed is None or values.get(name) is None:
            continue
        if sources[name].startswith("preset "):
            del values[name]
            notes[f"{_ROOT}{name} of the preset left out: {needed} is false"] = None
        else:
            problems.add(_ROOT + name, values[name], sources[name], expected=f"model.{needed} to be true beside it")


def _switch_kl_loss_on(values: dict[str, Any], sources: dict[str, str], notes: dict[str, None]) -> None:
    """A KL coefficient that the user sets must not be lost on a preset without the KL loss."""
    set_by = {name: sources.get(f"config.{name}", "") for name in ("kl_coeff", "kl_target", "use_kl_loss")}
    names = [name for name in ("kl_coeff", "kl_target") if values.get(f"config.{name}")]
    asked = [name for name in names if not set_by[name].startswith(_OURS)]
    if asked and values.get("config.use_kl_loss") is False and set_by["use_kl_loss"].startswith(_OURS):
        values["config.use_kl_loss"] = True
        sources["config.use_kl_loss"] = set_by[asked[0]]
        notes[f"{_ROOT}config.{asked[0]} is set, so the KL loss is on ({set_by['use_kl_loss']} has it off)"] = None


def _take_whole_returns(values: dict[str, Any], sources: dict[str, str], notes: dict[str, None]) -> None:
    """Without GAE advantages are discounted returns less the value function, which GAE gives with a lambda of 1.

    Source: compute_advantages in rllib/evaluation/postprocessing.py of Ray 0.8.
    """
    if values.get("config.use_gae") is False and values.get("config.lambda_") != 1.0:
        values["config.lambda_"], sources["config.lambda_"] = 1.0, sources["config.use_gae"]
        notes[f"{_ROOT}config.use_gae is false: lambda_ is 1, so advantages are returns less the value function"] = None
