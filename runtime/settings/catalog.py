"""The rules that algorithms and environment families add to the settings, and the catalog of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from runtime.errors import Problems
from runtime.settings.schema import ROOT, AlgorithmSettings, StopCriteria, TrainingSettings, is_users
from runtime.settings.types import Setting, coerce


@dataclass
class Draft:
    """A job's settings while they are resolved.

    Attributes:
        values: Path below rl.training to value.
        sources: Path to the name of the source that set it.
        notes: Lines for the log; a mapping, so that each is there once.
        problems: Collects the problems of the input.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)

    def set(self, path: str, value: Any, source: str) -> None:
        """Sets a value."""
        self.values[path] = value
        self.sources[path] = source

    def set_missing(self, values: Mapping[str, object], source: str) -> None:
        """Sets what nothing has set yet."""
        for path, value in values.items():
            if path not in self.values:
                self.set(path, value, source)

    def is_asked_for(self, path: str) -> bool:
        """Whether the user set it; presets and defaults do not count."""
        return is_users(self.sources.get(path, "default"))


def narrow(draft: Draft, settings: type[AlgorithmSettings], name: str) -> None:
    """Adds a problem for each value that the algorithm's own rule refuses.

    A setting that several algorithms have is read by the rule of the first of them, which may be wider.

    Args:
        draft: The job's settings; their values are converted to the algorithm's own types.
        settings: Type of the algorithm's settings.
        name: Name of the algorithm or its kind, for the error.
    """
    for prefix, model in (("config.", settings), ("config.model.", settings.network())):
        for setting_name, setting in model.settings().items():
            path = prefix + setting_name
            if path not in draft.values:
                continue
            try:
                draft.values[path] = coerce(draft.values[path], setting)
            except ValueError as error:
                value, source = draft.values[path], draft.sources[path]
                draft.problems.add(ROOT + path, value, source, expected=f"{error} for {name}")


class AlgorithmRules(Protocol):
    """The rules of an algorithm for resolving settings.

    Attributes:
        names: Values of `rl.training.run` that choose it; the first is its default.
        settings: Type of its settings below `rl.training.config`.
        stop_criteria: Names below `rl.training.stop` that it takes.
        inputs: Settings below `rl.training` that it alone takes; one of them chooses it where `run` is not set.
        general: Settings for a job that no preset is for.
        chooses_preset: Whether the environment's own preset, or the default one, applies where none is named.
        takes_family_settings: Whether the defaults and general settings of the environment's family are its own.
    """

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102  # the class's docstring says it
    @property
    def settings(self) -> type[AlgorithmSettings]: ...  # noqa: D102
    @property
    def stop_criteria(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def inputs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def general(self) -> Mapping[str, object]: ...  # noqa: D102
    @property
    def chooses_preset(self) -> bool: ...  # noqa: D102
    @property
    def takes_family_settings(self) -> bool: ...  # noqa: D102

    def complete(self, draft: Draft) -> None:
        """Sets its defaults where nothing set a value, and adds a problem for each rule between settings."""


class FamilyRules(Protocol):
    """The rules of an environment family for resolving settings.

    Attributes:
        defaults: Path below rl.training to value, where nothing sets another; stronger than the algorithm's defaults.
        kind: Word for such an environment, as "environment" or "scene".
        algorithms: The only values of `rl.training.run` that train in it; empty where all do.
        evaluation_settings: Settings of an evaluation that the family alone takes.
    """

    @property
    def defaults(self) -> Mapping[str, object]: ...  # noqa: D102  # the class's docstring says it
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def algorithms(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def evaluation_settings(self) -> Mapping[str, Setting]: ...  # noqa: D102

    def general(self, named: Mapping[str, object]) -> Mapping[str, object]:
        """Settings for an environment of the family that no preset is for, by those that are set."""

    def owns(self, env: str) -> bool:
        """Whether an environment belongs to the family."""

    def implied_env(self, env_config: Mapping[str, Any]) -> str | None:
        """The environment that its keyword arguments alone imply, where none is named; None if they imply none."""


A = TypeVar("A", bound=AlgorithmRules, covariant=True)
F = TypeVar("F", bound=FamilyRules, covariant=True)


@dataclass(frozen=True)
class Catalog(Generic[A, F]):
    """All algorithms and all families.

    Attributes:
        algorithms: The first one runs where nothing names another.
        families: The last one owns every environment.
    """

    algorithms: tuple[A, ...]
    families: tuple[F, ...]

    @property
    def algorithm_names(self) -> tuple[str, ...]:
        """All values of `rl.training.run`."""
        return tuple(name for algorithm in self.algorithms for name in algorithm.names)

    def algorithm_of(self, run: object) -> A:
        """Returns the algorithm of a value of `rl.training.run`; the first where there is none of that name."""
        return next((one for one in self.algorithms if run in one.names), self.algorithms[0])

    def family_of(self, env: str) -> F:
        """Returns the family of an environment."""
        return next(family for family in self.families if family.owns(env))

    def setting_of(self, path: str) -> Setting | None:
        """The rule of a path below `rl.training`, as `config.model.fcnet_hiddens`; None if there is no such setting."""
        if path.startswith("config.env_config."):
            return Setting("any", "A keyword argument of the environment.")
        return self._settings.get(path)

    def known_paths(self) -> list[str]:
        """All paths below `rl.training`, for suggestions."""
        return list(self._settings)

    @cached_property
    def _settings(self) -> dict[str, Setting]:
        found = TrainingSettings.settings()
        found["run"] = Setting("text", found["run"].doc, choices=self.algorithm_names)
        found |= {f"stop.{name}": setting for name, setting in StopCriteria.settings().items()}
        for algorithm in reversed(self.algorithms):  # of a name that several have, the first one's is the widest
            found |= {f"config.{name}": setting for name, setting in algorithm.settings.settings().items()}
            network = algorithm.settings.network().settings()
            found |= {f"config.model.{name}": setting for name, setting in network.items()}
        return found
