"""Rules that involve several settings of learning from logged data."""

from __future__ import annotations

from runtime.offline.settings import ALGORITHMS, TRAINING_ITERATIONS, OfflineNetworkSettings, OfflineSettings
from runtime.settings.catalog import Draft, narrow
from runtime.settings.schema import ROOT

_SOURCE = "default for any log"


def complete(draft: Draft) -> None:
    """Sets defaults where nothing set a value, and adds a problem for each rule that is broken."""
    _set_defaults(draft)
    narrow(draft, OfflineSettings, "logged data")
    if draft.values.get("warm_start") is not None:
        draft.problems.add(
            f"{ROOT}warm_start",
            draft.values["warm_start"],
            draft.sources["warm_start"],
            expected="a training in an environment",
            remedy="To resume learning from a log, set rl.training.restore.",
        )


def _set_defaults(draft: Draft) -> None:
    """Sets the defaults of a job on logged data; a stop criterion only if none is set."""
    for prefix, model in (("config.", OfflineSettings), ("config.model.", OfflineNetworkSettings)):
        defaults = {prefix + name: getattr(model(), name) for name in model.settings()}
        draft.set_missing({path: value for path, value in defaults.items() if value}, _SOURCE)
    if not any(path.startswith("stop.") for path in draft.values):
        draft.set("stop.training_iteration", TRAINING_ITERATIONS, _SOURCE)
    if draft.sources["run"] == "default":
        draft.set("run", ALGORITHMS[0], _SOURCE)
