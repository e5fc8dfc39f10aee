"""Reads a checkpoint that RLlib itself wrote, without running code that it brings along.

RLlib keeps a network's class and arguments in pickles. Here the names in them are read as names: only RLlib's own
networks are built, from numbers and settings.

Source: ray 2.60, the new API stack's `Checkpointable.save_to_path`.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatten_space

from runtime.artifacts.policy_file import StoredPolicy
from runtime.artifacts.trust import is_data, load_data
from runtime.errors import UserError
from runtime.outputs.console import quiet_ray
from runtime.policies.filter import ObservationFilter
from runtime.policies.policy import Policy
from runtime.policies.rllib_filter import filter_of_state

_CONSTRUCTOR = "class_and_ctor_args.pkl"
_WEIGHTS = "module_state.pkl"
_ALGORITHM_STATE = "algorithm_state.pkl"
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
_FLATTEN = "FlattenObservations"
# Connectors that leave actions as they are, and the scaling, which is read.
_NORMALIZE = "NormalizeAndClipActions"
_KNOWN_OF_ACTIONS = {
    "GetActions",
    "ListifyDataForVectorEnv",
    "RemoveSingleTsTimeRankFromBatch",
    "TensorToNumpy",
    "UnBatchToIndividualItems",
    _NORMALIZE,
}
_STEPS = "env_runners--num_env_steps_sampled_lifetime"


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

    def __call__(self, *arguments: Any) -> _Named:
        """What a pickled function would return."""
        return _Named(*arguments)


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


@dataclass(frozen=True)
class RLlibCheckpoint:
    """A checkpoint of RLlib's, as numbers and settings.

    Attributes:
        policy: The policy.
        observation_space: Space of unfiltered observations, as rows where the checkpoint flattens them.
        normalize_actions: The network's ±1 is scaled to a bounded action space, then clipped.
        clip_actions: Actions are clipped into the action space, where they are not scaled.
        algorithm: Name of the algorithm's class, as `PPO`; empty if the checkpoint is a network's folder alone.
        env: Gymnasium id, `module:Class`, or a name that its author registered; empty if none can be read.
        env_config: Keyword arguments of the environment.
        left_out: Names of other keyword arguments, which are objects of its author's.
        training_iteration: Iterations of the training.
        timesteps_total: Environment steps of the training.
    """

    policy: StoredPolicy
    observation_space: gymnasium.spaces.Box
    normalize_actions: bool
    clip_actions: bool
    algorithm: str = ""
    env: str = ""
    env_config: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    training_iteration: int = 0
    timesteps_total: int = 0


def read_rllib_policy(place: Path) -> Policy:
    """Reads the policy of a checkpoint of RLlib's new API stack, ready to act.

    Args:
        place: Folder that `Algorithm.save_to_path` wrote, or an RLModule's own folder below it.

    Raises:
        UserError: It holds no such policy, or one with a network or connectors of its author's own.
    """
    found = read_rllib_checkpoint(place)
    return Policy(
        found.policy.build_network(),
        found.policy.action_space,
        observation_filter=found.policy.observation_filter,
        normalize_actions=found.normalize_actions,
        clip_actions=found.clip_actions,
    )


def read_rllib_checkpoint(place: Path) -> RLlibCheckpoint:
    """Reads a checkpoint of RLlib's new API stack: PPO, IMPALA, MARWIL, APPO, DQN or SAC.

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
        space = _read_observation_space(place, stored)
        stored.build_network()  # the settings may be of another version
        return RLlibCheckpoint(stored, space, normalizes, clips, **_read_training(place))
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
    if _NETWORKS[kind] == "SACModule" and not isinstance(_space(arguments["action_space"]), gymnasium.spaces.Box):
        raise UserError(f"{place}: got a policy of SAC for discrete actions; expected continuous ones, or one of DQN.")
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
    known = _KNOWN | {_FLATTEN} if _flattens_to_a_row(path) else _KNOWN
    if others := [name for name in names if name not in known]:
        raise UserError(
            f"{place}: got the connectors {', '.join(others)}, which change observations; expected none but "
            f"{_FILTER}, and {_FLATTEN} of a Box of one or two dimensions or a Discrete space. Do in the environment "
            "what they do, as a gymnasium.ObservationWrapper, and train again; or evaluate the policy from Python, as "
            "a function that applies them."
        )
    if _FILTER not in names:
        return None
    return filter_of_state(load_data((place / _TO_MODULE / _FILTER / "state.pkl").read_bytes()), space)


def _flattens_to_a_row(path: Path) -> bool:
    """Whether FlattenObservations makes of these observations the row that Gymnasium's flattening makes of them."""
    named = _read_named(path)["ctor_args_and_kwargs"][0]
    if not named or named[0] is None:
        return False
    kind = named[0].path.rpartition(".")[2]
    return kind == "Discrete" or (kind == "Box" and len(np.shape(named[0].state["low"])) < 3)


def _read_observation_space(place: Path, stored: StoredPolicy) -> gymnasium.spaces.Box:
    """Returns the space of unfiltered observations; without bounds where only that of filtered ones is stored."""
    path = place / _TO_MODULE / _CONSTRUCTOR
    named = _read_named(path)["ctor_args_and_kwargs"][0] if path.is_file() else ()
    space = _space(named[0]) if named and named[0] is not None else None
    row = stored.observation_space
    if space is not None and space.shape != row.shape:
        space = flatten_space(space)
    if not isinstance(space, gymnasium.spaces.Box) or space.shape != row.shape:
        bounded = stored.observation_filter is None and isinstance(row, gymnasium.spaces.Box)
        space = row if bounded else gymnasium.spaces.Box(-np.inf, np.inf, row.shape, np.float32)
    assert isinstance(space, gymnasium.spaces.Box)
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


def _read_scaling(place: Path) -> tuple[bool, bool]:
    """Returns normalize_actions and clip_actions, RLlib's defaults where the checkpoint does not say.

    Raises:
        UserError: It has other connectors that change actions.
    """
    path = place / _TO_ENV / _CONSTRUCTOR
    if not path.is_file():
        return True, False
    scaling = True, False
    others = []
    for kind, _, settings in _connectors(path):
        name = kind.path.rpartition(".")[2]
        if name == _NORMALIZE:
            scaling = bool(settings["normalize_actions"]), bool(settings["clip_actions"])
        elif name not in _KNOWN_OF_ACTIONS:
            others.append(name)
    if others:
        raise UserError(
            f"{place}: got the connectors {', '.join(others)}, which change actions; expected none but {_NORMALIZE}. "
            "Do in the environment what they do, as a gymnasium.ActionWrapper, and train again."
        )
    return scaling


def _read_training(place: Path) -> dict[str, Any]:
    """Returns what the checkpoint says about its training, as RLlibCheckpoint has it; empty for a network's folder."""
    path = place / _CONSTRUCTOR
    if not path.is_file() or not (place / _ALGORITHM_STATE).is_file():
        return {}
    made = _read_named(path)
    config = made["ctor_args_and_kwargs"][0][0]
    state = _read_named(place / _ALGORITHM_STATE)
    steps = state["metrics_logger"]["stats"].get(_STEPS, {}).get("lifetime_sum", 0)
    env, env_config = config.get("env"), dict(config.get("env_config") or {})
    kept = {name: value for name, value in env_config.items() if _is_json(value)}
    return {
        "algorithm": made["class"].path.rpartition(".")[2],
        "env": env if isinstance(env, str) else ":".join(getattr(env, "path", "").rsplit(".", 1)),
        "env_config": kept,
        "left_out": tuple(name for name in env_config if name not in kept),
        "training_iteration": int(state["training_iteration"]),
        "timesteps_total": int(steps),
    }


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


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
