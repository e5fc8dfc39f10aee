"""A running scene: mlagents-envs' UnityEnvironment, with our own process, wire and reading of messages below it."""

from __future__ import annotations

import atexit
import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

from envs.unity import exits
from envs.unity.behaviour import Behaviour, Steps
from envs.unity.child import Child
from envs.unity.link import Link
from envs.unity.messages import VERSION, wire_class
from envs.unity.options import Options
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
    """A player did not start, ended, fell silent, or said what it must not; the message tells where its log is.

    Attributes:
        is_start: Whether it never got as far as its first state.
        log: Where it is.
    """

    def __init__(self, message: str, *, is_start: bool = False, log: Path | None = None) -> None:
        super().__init__(message)
        self.is_start, self.log = is_start, log


class SceneError(ValueError):
    """A scene says what cannot be learned from; it would say so again after a restart."""


class Player(UnityEnvironment):  # type: ignore[misc]  # mlagents_envs is not typed for strict mode
    """One player and its scene.

    Attributes:
        behaviour: Of the agents that learn.
        log: Where Unity writes.

    Args:
        options: Which scene, and how.
        number: Of this player among those of its program; it shifts the seed.
        worker: Of this process among those of its job, likewise.
        restart: How often this player was started before, likewise.

    Raises:
        PlayerError: It does not start.
        ValueError: Its behaviours are not those of the options, or its logs cannot be written.
    """

    def __init__(self, options: Options, *, number: int = 0, worker: int = 0, restart: int = 0) -> None:
        self._options, self._is_closed = options, False
        set_log_level(ERROR)  # it would print among the metric lines
        self._scratch = None if options.log_folder else tempfile.TemporaryDirectory(prefix="smrl-unity-")
        folder = options.log_folder or Path(self._scratch.name if self._scratch else "")
        self.log = (folder / f"Player-{worker}-{number}-{next(_numbers)}.log").absolute()
        self._link = Link(options.base_port, timeout_s=options.timeout_s)
        self._parameters, engine = EnvironmentParametersChannel(), EngineConfigurationChannel()
        engine.set_configuration_parameters(time_scale=options.time_scale, capture_frame_rate=60)
        graphics = ["-nographics", "-batchmode"] if options.no_graphics else []
        words = [*graphics, self._PORT_COMMAND_LINE_ARG, str(self._link.port), "-logFile", str(self.log)]
        try:
            self._child = Child(options.executable, [*words, *options.arguments], self.log)
        except OSError as error:
            self._link.close()
            raise ValueError(
                f"log_folder: got {str(folder)!r}, where no log can be written ({error.strerror}); expected a folder."
            ) from None
        self._rl_output: Any = None
        exits.register(self._close)
        try:
            super().__init__(
                file_name=None,  # it is started already
                base_port=self._link.port,
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
            self.name, spec = self._choose_behaviour()
            self.behaviour = Behaviour.of_spec(spec, dict_observations=options.observations == "dict")
        except ValueError:
            self.close()
            raise

    def _get_communicator(self, *ignored: Any) -> Link:
        return self._link

    def _choose_behaviour(self) -> tuple[str, BehaviorSpec]:
        """The behaviour that learns; a name may be given without its team."""
        wanted = self._options.behavior_name
        for _ in range(_LATE_AT_MOST):  # agents may come after the scene's first steps
            specs = dict(self.behavior_specs)
            if specs and (wanted is None or any(wanted in (name, name.partition("?")[0]) for name in specs)):
                break
            self._pass_by()
        found = [name for name in specs if wanted in (None, name, name.partition("?")[0])]
        if len(found) != 1:
            raise ValueError(
                f"behavior_name: got {wanted!r}; expected one of {', '.join(map(repr, specs))}, the behaviours of "
                f"{self._options.executable.name}."
            )
        return found[0], specs[found[0]]

    def _pass_by(self) -> None:
        """Goes on with every agent doing nothing, until the learning ones have come."""
        self.name = ""
        self.send([])
        try:
            self._receive()
        except UnityException as error:
            raise self._fault(error, is_start=True) from error

    def reset(self) -> None:
        """Every agent begins an episode."""
        for name, value in self._options.parameters.items():
            self._parameters.set_float_parameter(name, value)
        super().reset()

    def begin(self) -> Steps:
        """Resets the scene; its first steps.

        Raises:
            PlayerError: The player failed.
        """
        try:
            self.reset()
            return self.steps()
        except UnityException as error:
            raise self._fault(error) from error

    def send(self, actions: list[Any]) -> None:
        """Sends the actions of the agents that asked for one, in their order, and goes on.

        Args:
            actions: One AgentActionProto each, of `Behaviour.to_wire`.
        """
        message = wire_class("UnityMessageProto")()
        command = message.unity_input.rl_input
        command.command = _STEP
        if actions:
            command.agent_actions[self.name].value.extend(actions)
        for name, asked in self._others().items():
            command.agent_actions[name].value.extend([self._idle(name)] * asked)
        command.side_channel = bytes(self._side_channel_manager.generate_side_channel_messages())
        self._link.send(message)

    def receive(self) -> Steps:
        """The steps that follow what was sent.

        Raises:
            PlayerError: The player failed.
        """
        try:
            self._receive()
            return self.steps()
        except UnityException as error:
            raise self._fault(error) from error

    def _receive(self) -> None:
        output = self._link.receive(self._poll_process)
        if output is None:
            raise UnityException("it said goodbye")
        if output.rl_initialization_output.brain_parameters:
            self._update_behavior_specs(output)
        self._update_state(output.rl_output)

    def _update_state(self, output: Any) -> None:
        self._rl_output = output
        self._side_channel_manager.process_side_channel_message(output.side_channel)

    def steps(self) -> Steps:
        """What the last message said of the agents that learn.

        Raises:
            SceneError: It says what cannot be learned from.
        """
        infos = self._rl_output.agentInfos
        try:
            return self.behaviour.read(infos[self.name].value if self.name in infos else ())
        except ValueError as error:
            self.close()
            raise SceneError(f"{self._options.executable}: behaviour {self.name!r}: {error}. Mend the scene.") from None

    def _others(self) -> dict[str, int]:
        """How many agents of behaviours that do not learn asked for an action."""
        infos = self._rl_output.agentInfos
        return {name: sum(not one.done for one in infos[name].value) for name in infos if name != self.name}

    def _idle(self, name: str) -> Any:
        spec = self._env_specs[name]
        return Behaviour.of_spec(spec).idle()

    def _poll_process(self) -> None:
        ending = self._child.ending
        if ending is not None:
            raise UnityException(f"it {ending}")

    def _fault(self, error: Exception, *, is_start: bool = False) -> PlayerError:
        """Ends the player; the error to raise, with what is known of the cause."""
        told, hint = str(error).splitlines()[0], ""
        if is_start and isinstance(error, UnityTimeOutException):
            told = f"it did not connect within {self._options.timeout_s:g} s"
            hint = " One that waits for a user, or is set to Heuristic or Inference, never does; timeout_s allows more."
        elif is_start and ("API version" in told or isinstance(error, ValueError)):
            told = _tell_versions(str(error))
        if is_start and not self._options.no_graphics:
            hint += " It was started with graphics: without a display, run under `xvfb-run -a`, or set no_graphics."
        self._close(0)
        what = "did not start" if is_start else "failed"
        return PlayerError(
            f"Unity player {self._options.executable}: {what}: {told}.{hint}\n{self._last_lines}",
            is_start=is_start,
            log=self.log,
        )

    def _close(self, timeout: float | None = None) -> None:
        """Ends the player; called by UnityEnvironment in several places."""
        if self._is_closed:
            return
        self._is_closed, self._loaded = True, False
        exits.unregister(self._close)
        atexit.unregister(self._close)  # of UnityEnvironment
        self._link.close()
        self._child.end(grace_s=_GRACE_S if timeout is None else timeout)
        self._last_lines = self._child.last_lines()
        if self._scratch is not None:
            self._scratch.cleanup()

    def close(self) -> None:
        """Tells the player to stop, and sees to it that it does; a second call does nothing."""
        self._close()


def _tell_versions(text: str) -> str:
    versions = text.partition("Unity API:")[2].split()
    theirs = versions[0].rstrip(".") if versions else "a version that is none"
    return (
        f"it speaks protocol {theirs}, mlagents-envs {VERSION} speaks {UnityEnvironment.API_VERSION}; the first number "
        "must be the same. Build the scene with the package com.unity.ml-agents from 1.0 on"
    )
