"""The player's process: connects to the port it was given and steps its scene until it receives a stop message.

The exchange is the one of ML-Agents' RpcCommunicator: the player is the client; it sends its academy's parameters, then
an empty message, and from then on a state for each command.

Modes, joined by commas: `slow=S` starts after S seconds, `absent` never connects, `exit=CODE` ends at once, `api=V`
speaks protocol V, `crash=N` dies at message N by SIGSEGV, `quit=N` says goodbye there, `hang=N` stops answering,
`garbage=N` sends what is no message, `nan=N` a reward that is no number, `once=FILE` misbehaves only while that file is
absent, and writes it.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import grpc

from envs.unity.message_classes import allow_messages

allow_messages()

from mlagents_envs.communicator_objects.command_pb2 import RESET  # noqa: E402  # after allow_messages()
from mlagents_envs.communicator_objects.unity_message_pb2 import UnityMessageProto  # noqa: E402

from tests.unity_stand_in.scenes import SCENES, Behavior, Info, Infos, Scene, to_png  # noqa: E402

_EXCHANGE = "/communicator_objects.UnityToExternalProto/Exchange"
_PARAMETERS = uuid.UUID("534c891e-810f-11ea-a9d0-822485860400")
_ENGINE = uuid.UUID("e951342c-4f7e-11ea-b238-784f4387d1f7")


def main(scene: str, mode: str) -> None:
    """Runs a scene; the command line is a player's."""
    words = sys.argv[1:]
    modes = dict(part.partition("=")[::2] for part in mode.split(",") if part)
    once = modes.get("once")
    if once is not None:
        if Path(once).exists():
            modes = {}
        else:
            Path(once).touch()
    log = _open_log(words)
    log.write(f"Stand-in player: {scene} {' '.join(words)} pid {os.getpid()}\n")
    time.sleep(float(modes.get("slow", 0)))
    if "exit" in modes:
        log.write("There is no license for this stand-in.\n")
        sys.stderr.write("error while loading shared libraries: libstandin.so.1\n")
        sys.exit(int(modes["exit"]))
    if "absent" in modes:
        log.write("Waiting for a display that never comes.\n")
        signal.pause()
    port = words[words.index("--mlagents-port") + 1]
    try:
        _Player(SCENES[scene], port, modes, log).play()
    except grpc.RpcError:
        log.write("The connection is gone.\n")


def _open_log(words: list[str]) -> Any:
    name = next((words[i + 1] for i, word in enumerate(words) if word.lower() == "-logfile"), os.devnull)
    return Path(name).open("a", buffering=1)


class _Player:
    def __init__(self, scene: type[Scene], port: str, modes: dict[str, str], log: Any) -> None:
        self._modes = modes
        self._log = log
        self._kind = scene
        channel = grpc.insecure_channel(f"localhost:{port}", options=[("grpc.max_receive_message_length", -1)])
        self._exchange = channel.unary_unary(
            _EXCHANGE,
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=UnityMessageProto.FromString,
        )

    def play(self) -> None:
        hello = UnityMessageProto()
        hello.header.status = 200
        academy = hello.unity_output.rl_initialization_output
        academy.name = "StandIn"
        academy.package_version = "2.1.0-exp.1"
        academy.communication_version = self._modes.get("api", "1.5.0")
        academy.capabilities.baseRLCapabilities = True
        begin = self._exchange(hello, wait_for_ready=True).unity_input.rl_initialization_input
        self._log.write(f"seed {begin.seed}\n")
        self._scene = self._kind(begin.seed)
        answer = self._exchange(_wrap())
        sent = 0
        steps = 0
        asked = dict[str, list[Info]]()
        while answer.header.status == 200:
            command = answer.unity_input.rl_input
            self._read_side_channel(command.side_channel)
            if command.command == RESET:
                infos = self._scene.reset()
            else:
                values = {
                    name: command.agent_actions[name].value if name in command.agent_actions else () for name in asked
                }
                for name, wanted in asked.items():
                    if len(wanted) != len(values[name]):
                        raise ValueError(f"{name}: {len(wanted)} agents asked, {len(values[name])} actions came")
                if not steps:
                    self._log.write(f"first step at {time.time():.3f}\n")
                steps += 1
                infos = self._scene.step(
                    {
                        name: [(list(a.continuous_actions), list(a.discrete_actions)) for a in v]
                        for name, v in values.items()
                    }
                )
            asked = {name: [info for info in found if not info.done] for name, found in infos.items()}
            asked = {name: found for name, found in asked.items() if found}
            sent += 1
            message = self._misbehave(sent, infos)
            answer = self._exchange(self._to_message(infos, is_first=sent == 1) if message is None else message)
        self._log.write("Received the stop message.\n")

    def _misbehave(self, number: int, infos: Infos) -> Any:
        modes = self._modes
        if number == int(modes.get("crash", -1)):
            self._log.write("Caught fatal signal - signo:11\n")
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == int(modes.get("hang", -1)):
            self._log.write("Waiting for the user to click.\n")
            signal.pause()
        if number == int(modes.get("garbage", -1)):
            return b"\xff\xff\xff garbage"
        if number == int(modes.get("quit", -1)):
            goodbye = _wrap()
            goodbye.header.status = 400
            return goodbye
        if number == int(modes.get("nan", -1)):
            next(iter(infos.values()))[0].reward = float("nan")
        return None

    def _read_side_channel(self, data: bytes) -> None:
        """Environment parameters and the engine's settings are taken; other channels are passed over."""
        while data:
            channel = uuid.UUID(bytes_le=data[:16])
            (size,) = struct.unpack_from("<i", data, 16)
            message = data[20 : 20 + size]
            data = data[20 + size :]
            if channel == _PARAMETERS:
                (length,) = struct.unpack_from("<i", message)
                key = message[4 : 4 + length].decode("ascii")
                kind, value = struct.unpack_from("<if", message, 4 + length)
                if kind == 0:
                    self._scene.parameters[key] = value
                    self._log.write(f"parameter {key} {value:g}\n")
            elif channel == _ENGINE:
                setting, value = struct.unpack_from("<if", message)
                self._log.write(f"engine setting {setting} {value:g}\n")

    def _to_message(self, infos: Infos, *, is_first: bool) -> Any:
        message = _wrap()
        behaviors = {behavior.name: behavior for behavior in self._scene.behaviors}
        if is_first:
            for behavior in behaviors.values():
                _describe(behavior, message.unity_output.rl_initialization_output.brain_parameters.add())
        output = message.unity_output.rl_output
        for name, found in infos.items():
            values = output.agentInfos[name].value
            for info in found:
                _fill(values.add(), info, behaviors[name])
        return message


def _wrap() -> Any:
    message = UnityMessageProto()
    message.header.status = 200
    return message


def _describe(behavior: Behavior, brain: Any) -> None:
    brain.brain_name = behavior.name
    brain.is_training = True
    brain.action_spec.num_continuous_actions = behavior.continuous
    brain.action_spec.num_discrete_actions = len(behavior.branches)
    brain.action_spec.discrete_branch_sizes.extend(behavior.branches)


def _fill(proto: Any, info: Info, behavior: Behavior) -> None:
    proto.id = info.agent_id
    proto.reward = info.reward
    proto.group_reward = info.group_reward
    proto.done = info.done
    proto.max_step_reached = info.interrupted
    if not info.done:
        proto.action_mask.extend(info.mask)
    for sensor in info.observations:
        observation = proto.observations.add()
        observation.shape.extend(sensor.shape)
        if behavior.compressed and sensor.ndim == 3:
            observation.compression_type = 1
            observation.compressed_data = to_png(sensor)
        else:
            observation.float_data.data.extend(sensor.ravel().tolist())
