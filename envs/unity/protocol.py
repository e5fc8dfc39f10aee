"""Names of mlagents-envs that we use, imported after its message classes are made importable."""

from __future__ import annotations

from envs.unity.message_classes import allow_messages

allow_messages()

from mlagents_envs.base_env import ActionTuple, BaseEnv, BehaviorSpec  # noqa: E402  # all of these need allow_messages()
from mlagents_envs.communicator import Communicator  # noqa: E402
from mlagents_envs.environment import UnityEnvironment  # noqa: E402
from mlagents_envs.exception import (  # noqa: E402
    UnityCommunicationException,
    UnityException,
    UnityTimeOutException,
)
from mlagents_envs.logging_util import ERROR, set_log_level  # noqa: E402
from mlagents_envs.rpc_utils import process_pixels  # noqa: E402
from mlagents_envs.side_channel.engine_configuration_channel import EngineConfigurationChannel  # noqa: E402
from mlagents_envs.side_channel.environment_parameters_channel import EnvironmentParametersChannel  # noqa: E402

__all__ = [
    "ERROR",
    "ActionTuple",
    "BaseEnv",
    "BehaviorSpec",
    "Communicator",
    "EngineConfigurationChannel",
    "EnvironmentParametersChannel",
    "UnityCommunicationException",
    "UnityEnvironment",
    "UnityException",
    "UnityTimeOutException",
    "process_pixels",
    "set_log_level",
]
