"""`tensorflow`, for scripts of 2020 that import it and do not need it: names that raise when they are called."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, NoReturn

from runtime.errors import UserError


def find(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Returns the spec of an empty module; None where TensorFlow is installed."""
    is_top = "." not in name
    if is_top and PathFinder.find_spec(name, path) is not None:
        return None
    return ModuleSpec(name, _Empty(), is_package=True)


class _Empty(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        def find_name(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _Absent(f"{module.__name__}.{name}")

        module.__getattr__ = find_name  # type: ignore[method-assign]


class _Absent:
    """A name of TensorFlow that a script may pass around and derive classes from, but not call."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self._name}.{name}")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (object,)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UserError(
            f"{self._name}: got a call from the script; expected none, as TensorFlow is not in the container: policies "
            "are PyTorch's, and every job writes a SavedModel. Leave the call out, or add tensorflow to the script's "
            "requirements.txt."
        )
