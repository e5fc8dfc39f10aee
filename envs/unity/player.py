"""A running Unity player: mlagents-envs' UnityEnvironment on our own process, connection and message decoding."""

from __future__ import annotations

import atexit
import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

from envs.unity import exit_hooks
from envs.unity.agent_messages import Steps, decode_agents, encode_idle_action
from envs.unity.behavior import Behavior
from envs.unity.message_classes import VERSION, wire_class
from envs.unity.options import Options
from envs.unity.player_connection import PlayerConnection
from envs.unity.player_process import PlayerProcess
from envs.unity.protocol import (
    ERROR,
    BehaviorSpec,
    EngineConfigurationChannel,
    EnvironmentParametersChannel,
    UnityEnvironment,
    UnityException,
    UnityTimeOutException,
    set_log_level,
)

_GRACE_S = 2.0
_LATE_AT_MOST = 100
_STEP = 0  # CommandProto
_numbers = itertools.count()


class PlayerError(RuntimeError):
    """A player did not start, exited, timed out, or sent an invalid message.

    Attributes:
        is_start: Whether the player failed before its first state.
        log: The player's log file.
    """

    def __init__(self, message: str, *, is_start: bool = False, log: Path | None = None) -> None:
        super().__init__(message)
        self.is_start = is_start
        self.log = log


class SceneError(ValueError):
    """A scene sends observations or rewards that cannot be learned from; a restart would not help."""


class Player(UnityEnvironment):  # type: ignore[misc]  # mlagents_envs is not typed for strict mode
    """One player and its scene.

    Attributes:
        behavior: Sensors and actions of the agents that learn.
        log: Log file of Unity.

    Args:
        options: The scene and how to run it.
        number: Index of this player in its process; it shifts the seed.
        worker: Index of this process among the job's processes; it shifts the seed.
        restart: Number of earlier starts of this player; it shifts the seed.

    Raises:
        PlayerError: The player does not start.
        ValueError: The options name a behavior that the scene lacks, or the logs cannot be written.
    """

    def __init__(self, options: Options, *, number: int = 0, worker: int = 0, restart: int = 0) -> None:
        self._options = options
        self._is_closed = False
        set_log_level(ERROR)  # its log lines would mix with the metric lines
        self._scratch = None if options.log_folder else tempfile.TemporaryDirectory(prefix="smrl-unity-")
        folder = options.log_folder or Path(self._scratch.name if self._scratch else "")
        self.log = (folder / f"Player-{worker}-{number}-{next(_numbers)}.log").absolute()
        self._connection = PlayerConnection(options.base_port, timeout_s=options.timeout_s)
        self._parameters, engine = EnvironmentParametersChannel(), EngineConfigurationChannel()
        engine.set_configuration_parameters(time_scale=options.time_scale, capture_frame_rate=60)
        graphics = ["-nographics", "-batchmode"] if options.no_graphics else []
        words = [*graphics, self._PORT_COMMAND_LINE_ARG, str(self._connection.port), "-logFile", str(self.log)]
        try:
            self._player_process = PlayerProcess(options.executable, [*words, *options.arguments], self.log)
        except OSError as error:
            self._connection.close()
            raise ValueError(
                f"log_folder: got {str(folder)!r}, where no log can be written ({error.strerror}); expected a folder."
            ) from None
        self._rl_output: Any = None
        exit_hooks.register(self._close)
        try:
            super().__init__(
                file_name=None,  # PlayerProcess has started it
                base_port=self._connection.port,
                seed=(options.seed + 1_000_000 * worker + 10_000 * number + restart) % 2**31,
                no_graphics=options.no_graphics,
                timeout_wait=math.ceil(options.timeout_s),
                side_channels=[self._parameters, engine],
            )
            self.reset()
        except (UnityException, ValueError) as error:
            raise self._fault(error, is_start=True) from error
        except BaseException:
            self._close(0)
            raise
        try:
            self.name, spec = self._choose_behavior()
            self.behavior = Behavior.of_spec(spec, dict_observations=options.observations == "dict")
        except ValueError:
            self.close()
            raise

    def _get_communicator(self, *ignored: Any) -> PlayerConnection:
        return self._connection

    def _choose_behavior(self) -> tuple[str, BehaviorSpec]:
        """Returns the name and specification of the behavior that learns; the name may omit its team."""
        wanted = self._options.behavior_name
        for _ in range(_LATE_AT_MOST):  # agents may appear after the scene's first steps
            specs = dict(self.behavior_specs)
            if specs and (wanted is None or any(wanted in (name, name.partition("?")[0]) for name in specs)):
                break
            self._step_idle()
        found = [name for name in specs if wanted in (None, name, name.partition("?")[0])]
        if len(found) != 1:
            raise ValueError(
                f"behavior_name: got {wanted!r}; expected one of {', '.join(map(repr, specs))}, the behaviors of "
                f"{self._options.executable.name}."
            )
        return found[0], specs[found[0]]

    def _step_idle(self) -> None:
        """Steps the scene once while every agent idles."""
        self.name = ""
        self.send([])
        try:
            self._receive()
        except UnityException as error:
            raise self._fault(error, is_start=True) from error

    def reset(self) -> None:
        """Begins an episode of every agent."""
        for name, value in self._options.parameters.items():
            self._parameters.set_float_parameter(name, value)
        super().reset()

    def begin(self) -> Steps:
        """Resets the scene and returns its first steps.

        Raises:
            PlayerError: The player failed.
        """
        try:
            self.reset()
            return self.steps()
        except UnityException as error:
            raise self._fault(error) from error

    def send(self, actions: list[Any]) -> None:
        """Sends the actions of the agents that requested one; the player then steps.

        Args:
            actions: An AgentActionProto for each of these agents, in their order, from `encode_actions`.
        """
        message = wire_class("UnityMessageProto")()
        command = message.unity_input.rl_input
        command.command = _STEP
        if actions:
            command.agent_actions[self.name].value.extend(actions)
        for name, asked in self._others().items():
            command.agent_actions[name].value.extend([self._idle(name)] * asked)
        command.side_channel = bytes(self._side_channel_manager.generate_side_channel_messages())
        self._connection.send(message)

    def receive(self) -> Steps:
        """Waits for the steps that follow the actions sent.

        Raises:
            PlayerError: The player failed.
        """
        try:
            self._receive()
            return self.steps()
        except UnityException as error:
            raise self._fault(error) from error

    def _receive(self) -> None:
        output = self._connection.receive(self._poll_process)
        if output is None:
            raise UnityException("it said goodbye")
        if output.rl_initialization_output.brain_parameters:
            self._update_behavior_specs(output)
        self._update_state(output.rl_output)

    def _update_state(self, output: Any) -> None:
        self._rl_output = output
        self._side_channel_manager.process_side_channel_message(output.side_channel)

    def steps(self) -> Steps:
        """Decodes the last message's report of the agents that learn.

        Raises:
            SceneError: It holds observations or rewards that cannot be learned from.
        """
        infos = self._rl_output.agentInfos
        try:
            return decode_agents(self.behavior, infos[self.name].value if self.name in infos else ())
        except ValueError as error:
            self.close()
            raise SceneError(f"{self._options.executable}: behavior {self.name!r}: {error}. Fix the scene.") from None

    def _others(self) -> dict[str, int]:
        """Counts the action requests of each behavior that does not learn."""
        infos = self._rl_output.agentInfos
        return {name: sum(not one.done for one in infos[name].value) for name in infos if name != self.name}

    def _idle(self, name: str) -> Any:
        spec = self._env_specs[name]
        return encode_idle_action(Behavior.of_spec(spec))

    def _poll_process(self) -> None:
        ending = self._player_process.ending
        if ending is not None:
            raise UnityException(f"it {ending}")

    def _fault(self, error: Exception, *, is_start: bool = False) -> PlayerError:
        """Stops the player and returns the error to raise, with the cause and the end of the log."""
        cause = str(error).splitlines()[0]
        hint = ""
        if is_start and isinstance(error, UnityTimeOutException):
            cause = f"it did not connect within {self._options.timeout_s:g} s"
            hint = " One that waits for a user, or is set to Heuristic or Inference, never does; timeout_s allows more."
        elif is_start and ("API version" in cause or isinstance(error, ValueError)):
            cause = _describe_versions(str(error))
        if is_start and not self._options.no_graphics:
            hint += " It was started with graphics: without a display, run under `xvfb-run -a`, or set no_graphics."
        self._close(0)
        what = "did not start" if is_start else "failed"
        return PlayerError(
            f"Unity player {self._options.executable}: {what}: {cause}.{hint}\n{self._last_lines}",
            is_start=is_start,
            log=self.log,
        )

    def _close(self, timeout: float | None = None) -> None:
        """Stops the player; called by UnityEnvironment in several places."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loaded = False
        exit_hooks.unregister(self._close)
        atexit.unregister(self._close)  # of UnityEnvironment
        self._connection.close()
        self._player_process.end(grace_s=_GRACE_S if timeout is None else timeout)
        self._last_lines = self._player_process.last_lines()
        if self._scratch is not None:
            self._scratch.cleanup()

    def close(self) -> None:
        """Asks the player to stop, and kills it if it does not; a second call does nothing."""
        self._close()


def _describe_versions(text: str) -> str:
    versions = text.partition("Unity API:")[2].split()
    theirs = versions[0].rstrip(".") if versions else "a version that is none"
    return (
        f"it speaks protocol {theirs}, mlagents-envs {VERSION} speaks {UnityEnvironment.API_VERSION}; the first number "
        "must be the same. Build the scene with the package com.unity.ml-agents from 1.0 on"
    )
