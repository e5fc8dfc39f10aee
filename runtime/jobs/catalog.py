"""The catalog of all algorithms and environment families; a new one is added here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runtime.families.agents.family import AgentsFamily
from runtime.families.deepracer.family import DeepRacerFamily
from runtime.families.plain.family import PlainFamily
from runtime.families.unity.family import UnityFamily
from runtime.interfaces.algorithm import Algorithm
from runtime.interfaces.family import EnvFamily
from runtime.offline.algorithm import OfflineLearning
from runtime.ppo.algorithm import PPO
from runtime.rllib.algorithm import ALGORITHMS
from runtime.settings import resolve as settings
from runtime.settings.catalog import Catalog
from runtime.settings.resolve import EnvCheck, SizeCheck, Source
from runtime.settings.schema import EvaluationSettings, JobConfig
from runtime.settings.types import Setting

PLAIN: EnvFamily = PlainFamily()
CATALOG: Catalog[Algorithm, EnvFamily] = Catalog(
    algorithms=(PPO(), *ALGORITHMS, OfflineLearning()),
    families=(DeepRacerFamily(), UnityFamily(), AgentsFamily(), PLAIN),
)


def resolve(
    sources: Iterable[Source],
    *,
    extras: Mapping[str, Setting] | None,
    default_preset: bool = True,
    check_env: EnvCheck | None = None,
    check_sizes: SizeCheck | None = None,
) -> JobConfig:
    """Resolves settings with every algorithm and environment family.

    Raises:
        UserError: Anything is unknown, of the wrong type or out of range; all problems are listed.
    """
    return settings.resolve(
        sources,
        CATALOG,
        extras=extras,
        default_preset=default_preset,
        check_env=check_env,
        check_sizes=check_sizes,
    )


def evaluation_settings() -> dict[str, Setting]:
    """All settings of an evaluation: the general ones and those of each family."""
    found = EvaluationSettings.settings()
    found["algorithm"] = Setting("text", found["algorithm"].doc, choices=CATALOG.algorithm_names)
    for family in CATALOG.families:
        found |= family.evaluation_settings
    return found


def family_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of an evaluation that only one family takes."""
    names = {name for family in CATALOG.families for name in family.evaluation_settings}
    return {name: value for name, value in values.items() if name in names}
