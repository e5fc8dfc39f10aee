"""`policy.safetensors`: a checkpoint's policy as numbers and a description; reading it runs no code.

RLlib's own checkpoint keeps networks in pickles, which can run any code their author put there. Training also writes
this file; evaluation, export and scripts that restore a policy read nothing else.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn.dqn_catalog import DQNCatalog
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.algorithms.sac.sac_catalog import SACCatalog
from safetensors import safe_open
from safetensors.numpy import save_file

from runtime.artifacts.checkpoint import POLICIES
from runtime.errors import UserError
from runtime.outputs.console import quiet_ray
from runtime.policies.camera_lidar import CameraLidarModule
from runtime.policies.filter import ObservationFilter
from runtime.policies.joint_policy import JointPolicy
from runtime.policies.own_module import load_module
from runtime.policies.policy import Policy
from runtime.policies.policy_mapping import PolicyMapping
from runtime.policies.ppo_module import APPOModule, PPOModule
from runtime.policies.q_module import QModule
from runtime.policies.rllib_filter import FILTER_FOLDERS, filter_of_state
from runtime.policies.sac_module import SACModule
from runtime.policies.spaces import describe_space, read_space

FILE = "policy.safetensors"
_MODULES = Path("learner_group/learner/rl_module")
_ONLY = "default_policy"  # RLlib's name for the policy of one agent
_CONNECTORS = Path("env_runner/env_to_module_connector")
_CATALOGS: dict[type, type] = {
    PPOModule: PPOCatalog,
    CameraLidarModule: PPOCatalog,
    APPOModule: PPOCatalog,
    QModule: DQNCatalog,
    SACModule: SACCatalog,
}
_NETWORKS: dict[str, Any] = {network.__name__: network for network in _CATALOGS}
_DESCRIPTION = "policy"
_WEIGHTS = "weights."
_MEAN = "filter.mean"
_STD = "filter.std"


@dataclass(frozen=True)
class StoredPolicy:
    """A policy as it is stored.

    Attributes:
        network: Name of the network's class, or `module:Class` of the user's own.
        model_config: RLlib's settings of it.
        observation_space: Space of filtered observations.
        action_space: Action space of the training's environment.
        weights: By name of the parameter.
        observation_filter: Observation filter of the training, or None.
    """

    network: str
    model_config: Mapping[str, Any]
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    weights: Mapping[str, NDArray[Any]]
    observation_filter: ObservationFilter | None

    def write(self, folder: Path) -> None:
        """Writes the file into a checkpoint's folder."""
        tensors = {_WEIGHTS + name: np.asarray(array, order="C") for name, array in self.weights.items()}
        clip = None
        if self.observation_filter is not None:
            tensors[_MEAN] = self.observation_filter.mean
            tensors[_STD] = self.observation_filter.std
            clip = self.observation_filter.clip
        description = {
            "network": self.network,
            "model_config": dict(self.model_config),
            "observation_space": describe_space(self.observation_space),
            "action_space": describe_space(self.action_space),
            "filter_clip": clip,
        }
        save_file(tensors, folder / FILE, metadata={_DESCRIPTION: json.dumps(description)})

    @classmethod
    def read(cls, folder: Path) -> StoredPolicy:
        """Reads the file of a checkpoint's folder."""
        with safe_open(folder / FILE, framework="numpy") as file:
            description = json.loads((file.metadata() or {})[_DESCRIPTION])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        clip = description["filter_clip"]
        return cls(
            description["network"],
            description["model_config"],
            read_space(description["observation_space"]),
            read_space(description["action_space"]),
            {name.removeprefix(_WEIGHTS): array for name, array in tensors.items() if name.startswith(_WEIGHTS)},
            None if clip is None else ObservationFilter(tensors[_MEAN], tensors[_STD], float(clip)),
        )

    @classmethod
    def of_rllib(cls, checkpoint: Path, policy: str = _ONLY) -> StoredPolicy:
        """Reads a policy of RLlib's own checkpoint, which contains pickles, so the checkpoint must be trusted."""
        module = checkpoint / _MODULES / policy
        with (module / "class_and_ctor_args.pkl").open("rb") as file:
            made = _Unpickler(file).load()
        _, arguments = made["ctor_args_and_kwargs"]
        space = arguments["observation_space"]
        paths = (checkpoint / _CONNECTORS / folder / "state.pkl" for folder in FILTER_FOLDERS)
        path = next((path for path in paths if path.is_file()), None)
        return cls(
            _name_of(made["class"]),
            arguments["model_config"],
            space,
            arguments["action_space"],
            pickle.loads((module / "module_state.pkl").read_bytes()),
            None if path is None else filter_of_state(pickle.loads(path.read_bytes()), space),
        )

    def build_network(self) -> Any:
        """Builds RLlib's module with the stored weights, without target networks and SAC's Q functions.

        Raises:
            UserError: It is the user's own, and its class cannot be found.
        """
        kind = load_module(self.network) if ":" in self.network else _NETWORKS[self.network]
        network = kind(
            observation_space=self.observation_space,
            action_space=self.action_space,
            inference_only=kind is SACModule,  # RLlib's own checkpoints have Q functions of another structure
            learner_only=False,
            model_config=dict(self.model_config),
            catalog_class=_CATALOGS.get(kind, PPOCatalog),
        )
        acting = network.state_dict().keys()
        weights = {name: torch.from_numpy(array) for name, array in self.weights.items() if name in acting}
        network.load_state_dict(weights)
        network.eval()
        return network


def _name_of(kind: type[Any]) -> str:
    return kind.__name__ if kind in _CATALOGS else f"{kind.__module__}:{kind.__qualname__}"


class _Unpickler(pickle.Unpickler):
    """Finds our networks by their class's name alone, as checkpoints of older versions name modules that have moved."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for each global that the pickle names."""
        is_ours = module.startswith("runtime.") and name in _NETWORKS
        return _NETWORKS[name] if is_ours else super().find_class(module, name)


def write_policy_file(checkpoint: Path) -> None:
    """Writes the file into a checkpoint that RLlib has just written; one a policy where several agents learn."""
    if (checkpoint / _MODULES / _ONLY).is_dir():
        StoredPolicy.of_rllib(checkpoint).write(checkpoint)
        return
    for module in (checkpoint / _MODULES).iterdir():
        if module.is_dir():
            folder = checkpoint / POLICIES / module.name
            folder.mkdir(parents=True)
            StoredPolicy.of_rllib(checkpoint, module.name).write(folder)


def check_weights(checkpoint: Path, networks: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Checks that a checkpoint has all weights of networks; RLlib leaves those that it lacks as they are, at random.

    Args:
        checkpoint: Its folder; one of a version that wrote no file is not checked.
        networks: Weights by name, of the network of each policy.

    Raises:
        ValueError: It lacks a weight, or has one of another shape.
    """
    for policy, weights in networks.items():
        path = (checkpoint if policy == _ONLY else checkpoint / POLICIES / policy) / FILE
        if not path.is_file():
            continue
        with safe_open(path, framework="numpy") as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name, weight in weights.items():
            found = stored.get(_WEIGHTS + name)
            if found != np.shape(weight):
                raise ValueError(f"the network's {name} is {found or 'not there'}, and {np.shape(weight)} here")


def read_joint_policy(
    checkpoint: Path, action_space: gymnasium.Space[Any], *, settings: Mapping[str, Any]
) -> JointPolicy:
    """Loads the policies of several agents from a checkpoint; Ray need not run.

    Args:
        checkpoint: Its folder.
        action_space: The environment's, by agent.
        settings: Settings of the job that wrote it, with `policy_mapping`.

    Raises:
        UserError: A policy cannot be read.
    """
    assert isinstance(action_space, gymnasium.spaces.Dict)
    mapping = PolicyMapping(settings["policy_mapping"])
    spaces = action_space.spaces
    shared = {
        policy: read_policy(checkpoint / POLICIES / policy, spaces[agents[0]], settings=settings)
        for policy, agents in mapping.group(spaces).items()
    }
    return JointPolicy({agent: shared[mapping(agent)].for_agent() for agent in spaces})


def read_policy(
    checkpoint: Path,
    action_space: gymnasium.Space[Any] | None = None,
    *,
    settings: Mapping[str, Any],
    trust: bool = False,
) -> Policy:
    """Loads the policy of a checkpoint; Ray need not run.

    Args:
        checkpoint: Its folder.
        action_space: The environment's; the one that was trained for if None.
        settings: Settings of the job that wrote it.
        trust: Whether a checkpoint of before there was such a file may be read from its pickles.

    Raises:
        UserError: The checkpoint holds no policy that can be read, or only pickles and is not trusted.
    """
    quiet_ray()
    if not trust and not (checkpoint / FILE).is_file():
        raise UserError(
            f"{checkpoint}: got a checkpoint without {FILE}, as older versions wrote it, whose network is in pickles: "
            "reading them can run their author's code. If you trust where it is from, set trust_checkpoint=true."
        )
    try:
        stored = StoredPolicy.read(checkpoint) if (checkpoint / FILE).is_file() else StoredPolicy.of_rllib(checkpoint)
        network = stored.build_network()
    except UserError:
        raise
    except Exception as error:  # safetensors, pickle and RLlib raise many types of errors
        raise UserError(
            f"{checkpoint}: got a checkpoint whose policy cannot be read ({type(error).__name__}: {error}); "
            "expected one written by this program. Use another checkpoint."
        ) from error
    return Policy(
        network,
        stored.action_space if action_space is None else action_space,
        observation_filter=stored.observation_filter,
        normalize_actions=settings["normalize_actions"],
        clip_actions=settings["clip_actions"],
    )
