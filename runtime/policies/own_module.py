"""Networks of the user's own: RLModule classes by their import path."""

from __future__ import annotations

import importlib
from typing import Any

from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule

from runtime.container.own_code import is_importable
from runtime.errors import UserError

# What PPO asks of a network: actions, and values.
BASES: tuple[type[Any], ...] = (TorchRLModule, ValueFunctionAPI)
PATHS = "ray.rllib.core.rl_module.torch.TorchRLModule and ray.rllib.core.rl_module.apis.ValueFunctionAPI"


def find_class(name: str) -> Any:
    """Imports the module of `module:Class` and returns what it has of that name, or None.

    Raises:
        ImportError: There is no such module. Importing it may raise anything else.
    """
    module, _, attribute = name.partition(":")
    if not is_importable(module):
        raise ImportError(f"no module {module!r} can be imported")
    return getattr(importlib.import_module(module), attribute, None)


def missing_bases(found: Any) -> list[str]:
    """Names of the base classes that something lacks as a network of PPO; all of them if it is no class."""
    return [base.__name__ for base in BASES if not (isinstance(found, type) and issubclass(found, base))]


def is_own(network: Any) -> bool:
    """Whether a network is of the user's own class, not of ours or RLlib's."""
    return not type(network).__module__.startswith(("runtime.", "ray."))


def load_module(name: str) -> type[Any]:
    """Returns the class of a network that a model names, `module:Class`.

    A model may come from elsewhere: it must not name anything but a class of networks.

    Raises:
        UserError: There is none of that name here.
    """
    try:
        found = find_class(name)
    except Exception as error:  # of the user's module, which may raise anything
        found, why = None, f" ({type(error).__name__}: {error})"
    else:
        why = ""
    if missing_bases(found):
        raise UserError(
            f"network {name}: could not be found{why}; expected the class that the model was trained with, of {PATHS}. "
            "Run this where its module can be imported, as in the folder of the training."
        )
    kind: type[Any] = found
    return kind
