"""Reads the policy of a checkpoint that RLlib itself wrote, without running code that it brings along.

RLlib keeps a network's class and arguments in pickles. Here the names in them are read as names: only RLlib's own
networks are built, from numbers and settings.

Source: ray 2.60, the new API stack's `Checkpointable.save_to_path`.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from runtime.artifacts.policy_file import StoredPolicy
from runtime.artifacts.trust import is_data, load_data
from runtime.errors import UserError
from runtime.outputs.console import quiet_ray
from runtime.policies.filter import ObservationFilter
from runtime.policies.policy import Policy
from runtime.policies.rllib_filter import filter_of_state

_CONSTRUCTOR = "class_and_ctor_args.pkl"
_WEIGHTS = "module_state.pkl"
_MODULES = Path("learner_group") / "learner" / "rl_module"
_TO_MODULE = Path("env_runner") / "env_to_module_connector"
_TO_ENV = Path("env_runner") / "module_to_env_connector"
_FILTER = "MeanStdFilter"
# RLlib's networks, and ours with the same weights. PPO's is that of IMPALA and MARWIL, too.
_NETWORKS = {
    "DefaultPPOTorchRLModule": "PPOModule",
    "DefaultAPPOTorchRLModule": "APPOModule",
    "DefaultDQNTorchRLModule": "QModule",
    "DefaultSACTorchRLModule": "SACModule",
}
_THEIRS = "ray.rllib.algorithms."
# Connectors that leave the numbers of an observation as they are, and the filter, which is read.
_KNOWN = {
    "AddObservationsFromEpisodesToBatch",
    "AddTimeDimToBatchAndZeroPad",
    "AddStatesFromEpisodesToBatch",
    "BatchIndividualItems",
    "NumpyToTensor",
    _FILTER,
}
_NORMALIZE = "NormalizeAndClipActions"


class _Named:
    """Stands for an object or function that a pickle names; holds what it is made of, and does nothing.

    Attributes:
        path: Module and name.
    """

    path = ""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NamingUnpickler(pickle.Unpickler):
    """Unpickles data, and everything else as a `_Named`."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for each global that the pickle names."""
        if is_data(module, name):
            return super().find_class(module, name)
        return type(name, (_Named,), {"path": f"{module}.{name}"})


def find_rllib_module(place: Path) -> Path | None:
    """Finds the folder of the network in an algorithm's checkpoint, or in a network's own; None if there is none."""
    for folder in (place / _MODULES / "default_policy", place):
        if (folder / _CONSTRUCTOR).is_file() and (folder / _WEIGHTS).is_file():
            return folder
    return None


def read_rllib_policy(place: Path) -> Policy:
    """Reads the policy of a checkpoint of RLlib's new API stack: PPO, IMPALA, MARWIL, APPO, DQN or SAC.

    Args:
        place: Folder that `Algorithm.save_to_path` wrote, or an RLModule's own folder below it.

    Raises:
        UserError: It holds no such policy, or one with a network or connectors of its author's own.
    """
    quiet_ray()
    module = find_rllib_module(place)
    if module is None:
        held = sorted(path.name for path in (place / _MODULES).glob("*") if path.is_dir())
        what = f"the policies {', '.join(held)}" if held else "no policy"
        raise UserError(
            f"{place}: got a checkpoint with {what}; expected default_policy of RLlib's new API stack. "
            "Name the folder of one policy below it."
        )
    try:
        stored = _read_module(module, place)
        normalizes, clips = _read_scaling(place)
        return Policy(
            stored.build_network(),
            stored.action_space,
            observation_filter=stored.observation_filter,
            normalize_actions=normalizes,
            clip_actions=clips,
        )
    except UserError:
        raise
    except Exception as error:  # pickle and RLlib raise many types of errors
        raise UserError(
            f"{place}: got a checkpoint whose policy cannot be read ({type(error).__name__}: {error}); expected one "
            "of ray 2.60's new API stack. Use another checkpoint."
        ) from None


def _read_module(module: Path, place: Path) -> StoredPolicy:
    made = _read_named(module / _CONSTRUCTOR)
    arguments = made["ctor_args_and_kwargs"][1]
    names = [made["class"].path]
    if arguments.get("catalog_class") is not None:
        names.append(arguments["catalog_class"].path)
    kind = names[0].rpartition(".")[2]
    others = [name for name in names if not name.startswith(_THEIRS)]
    if others or kind not in _NETWORKS:
        raise UserError(
            f"{place}: got the network {(others or names)[0]}; expected one of {', '.join(_NETWORKS)}. Evaluate "
            "another one from Python, as a function that returns its action probabilities."
        )
    settings = arguments["model_config"]
    if isinstance(settings, _Named):  # RLlib's DefaultModelConfig
        settings = settings.state
    _check_settings(settings, place)
    observations = _space(arguments["observation_space"])
    return StoredPolicy(
        _NETWORKS[kind],
        dict(settings),
        observations,
        _space(arguments["action_space"]),
        {name: np.array(weight) for name, weight in load_data((module / _WEIGHTS).read_bytes()).items()},
        _read_filter(place, observations),
    )


def _check_settings(settings: Any, place: Path) -> None:
    found = {name: value for name, value in settings.items() if hasattr(value, "path")}  # named, not data
    if found:
        listed = ", ".join(f"{name} {value.path}" for name, value in found.items())
        raise UserError(f"{place}: got a network with the {listed}; expected settings that are numbers or text.")
    if settings.get("use_lstm"):
        raise UserError(
            f"{place}: got a network with an LSTM; expected one that acts by the current observation alone, as the "
            "estimators need."
        )


def _read_filter(place: Path, space: gymnasium.Space[Any]) -> ObservationFilter | None:
    """Returns the observation filter of the checkpoint.

    Raises:
        UserError: It has other connectors that change observations.
    """
    path = place / _TO_MODULE / _CONSTRUCTOR
    if not path.is_file():  # a network's folder alone
        return None
    names = [connector[0].path.rpartition(".")[2] for connector in _connectors(path)]
    if others := [name for name in names if name not in _KNOWN]:
        raise UserError(
            f"{place}: got the connectors {', '.join(others)}, which change observations; expected none but "
            f"{_FILTER}. Evaluate the policy from Python, as a function that applies them."
        )
    if _FILTER not in names:
        return None
    return filter_of_state(load_data((place / _TO_MODULE / _FILTER / "state.pkl").read_bytes()), space)


def _read_scaling(place: Path) -> tuple[bool, bool]:
    """Returns normalize_actions and clip_actions, RLlib's defaults where the checkpoint does not say."""
    path = place / _TO_ENV / _CONSTRUCTOR
    if path.is_file():
        for kind, _, settings in _connectors(path):
            if kind.path.endswith(_NORMALIZE):
                return bool(settings["normalize_actions"]), bool(settings["clip_actions"])
    return True, False


def _connectors(path: Path) -> Any:
    return _read_named(path)["ctor_args_and_kwargs"][1].get("connectors", [])


def _read_named(path: Path) -> Any:
    return _NamingUnpickler(io.BytesIO(path.read_bytes())).load()


def _space(named: Any) -> gymnasium.Space[Any]:
    """Builds the space that a pickle describes.

    Raises:
        UserError: It is neither a Box nor a Discrete space.
    """
    if named.path == "gymnasium.spaces.box.Box":
        state = named.state
        low, high = np.array(state["low"]), np.array(state["high"])
        return gymnasium.spaces.Box(low, high, low.shape, low.dtype.type)
    if named.path == "gymnasium.spaces.discrete.Discrete":
        return gymnasium.spaces.Discrete(int(named.state["n"]), start=int(named.state["start"]))
    raise UserError(f"spaces: got {named.path}; expected Box observations, and Box or Discrete actions.")
