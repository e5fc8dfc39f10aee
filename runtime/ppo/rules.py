"""Rules that involve several of PPO's settings."""

from __future__ import annotations

from runtime.ppo.settings import MODULE, PPOSettings
from runtime.settings.catalog import Draft
from runtime.settings.schema import ROOT


def complete(draft: Draft) -> None:
    """Sets PPO's own defaults where nothing set a value, and adds a problem for each rule that is broken."""
    ours = {f"config.{name}": PPOSettings.model_fields[name].default for name in PPOSettings.OURS}
    draft.set_missing(ours, "default")
    if draft.values.get(MODULE) is None:
        _check_network(draft)
    else:
        _leave_to_module(draft)
    if draft.values.get("env") is None:
        draft.problems.add_line(f"{ROOT}env: missing; expected the name of an environment.")
    _switch_kl_loss_on(draft)
    _disable_gae(draft)
    _check_minibatch(draft)


def _leave_to_module(draft: Draft) -> None:
    """Leaves of the network's settings those of the user, and those of the source that names the user's network."""
    values, sources = draft.values, draft.sources
    tree = MODULE.removesuffix("module")
    for name in [name for name in values if name.startswith(tree) and name != MODULE]:
        if not draft.is_asked_for(name) and sources[name] != sources[MODULE]:
            del values[name]


def _check_network(draft: Draft) -> None:
    values, sources = draft.values, draft.sources
    if own := values.get(f"{MODULE}_config"):
        draft.problems.add(
            f"{ROOT}{MODULE}_config", own, sources[f"{MODULE}_config"], expected=f"{ROOT}{MODULE} beside it"
        )
    hidden = "config.model.fcnet_hiddens"
    width = "config.model.initial_log_std"
    if values.get(hidden) == []:
        draft.problems.add(ROOT + hidden, [], sources[hidden], expected="at least one layer")
    has_sde = bool(values.get("config.model.use_sde"))
    if has_sde and values.get("config.model.use_lstm"):
        where = "config.model.use_sde"
        draft.problems.add(ROOT + where, True, sources[where], expected="model.use_lstm to be false beside it")
    needs = {"config.model.sde_sample_freq": "use_sde" if not has_sde else None}
    if not (values.get("config.model.free_log_std") or has_sde):
        needs[width] = "free_log_std"
    if has_sde or not values.get("config.model.free_log_std"):
        needs["config.model.log_std_schedule"] = "free_log_std"
    for name, needed in needs.items():
        if needed is None or values.get(name) is None:
            continue
        if not draft.is_asked_for(name):
            del values[name]
            draft.notes[f"{ROOT}{name} of the preset left out: {needed} is false"] = None
        else:
            draft.problems.add(
                ROOT + name, values[name], sources[name], expected=f"model.{needed} to be true beside it"
            )


def _switch_kl_loss_on(draft: Draft) -> None:
    """Enables the KL loss if the user sets a KL coefficient and the preset has no KL loss."""
    values = draft.values
    switch = "config.use_kl_loss"
    asked = [
        name
        for name in ("kl_coeff", "kl_target")
        if values.get(f"config.{name}") and draft.is_asked_for(f"config.{name}")
    ]
    if asked and values.get(switch) is False and not draft.is_asked_for(switch):
        switched_off_by = draft.sources[switch]
        draft.set(switch, True, draft.sources[f"config.{asked[0]}"])
        draft.notes[f"{ROOT}config.{asked[0]} is set, so the KL loss is on ({switched_off_by} has it off)"] = None


def _disable_gae(draft: Draft) -> None:
    """Sets lambda to 1 without GAE: then GAE gives discounted returns minus the value function.

    Source: compute_advantages in rllib/evaluation/postprocessing.py of Ray 0.8.
    """
    if draft.values.get("config.use_gae") is False and draft.values.get("config.lambda_") != 1.0:
        draft.set("config.lambda_", 1.0, draft.sources["config.use_gae"])
        draft.notes[
            f"{ROOT}config.use_gae is false: lambda_ is 1, so advantages are returns less the value function"
        ] = None


def _check_minibatch(draft: Draft) -> None:
    batch, minibatch = (
        draft.values.get(f"config.{name}", PPOSettings.model_fields[name].default)
        for name in ("train_batch_size", "minibatch_size")
    )
    if minibatch > batch:
        draft.problems.add(
            f"{ROOT}config.minibatch_size",
            minibatch,
            draft.sources.get("config.minibatch_size", "RLlib's default"),
            expected=f"at most train_batch_size, which is {batch}",
        )
