"""`ray.rllib.models` as scripts of 2020 import it: with the class of models that Ray 1.0 dropped."""

from __future__ import annotations

from types import ModuleType


class Model:
    """The base of a script's own model, which may be registered; nothing builds one."""


def patch(module: ModuleType) -> None:
    """Adds the name `Model`."""
    module.Model = Model  # type: ignore[attr-defined]  # Ray's module
