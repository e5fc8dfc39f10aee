"""Connection to one Unity player: a gRPC server on 127.0.0.1 that sends and receives its messages."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from envs.unity.message_classes import wire_class
from envs.unity.protocol import Communicator, UnityCommunicationException, UnityTimeOutException

_SERVICE = "communicator_objects.UnityToExternalProto"
_METHOD = "Exchange"
_GOODBYE = 400
_POLL_S = 0.1
_PORTS_TRIED = 1000
_WORKERS = 2
_GRACE_S = 0.5
_OK = 200


class PlayerConnection(Communicator):  # type: ignore[misc]  # mlagents_envs is not typed for strict mode
    """Exchanges messages with a player; replaces mlagents-envs' own communicator.

    Unlike that one, it lets the system choose the port, so that two processes never collide; listens on this machine
    alone; accepts messages of any size; does not pickle them through a pipe; and notices a dead player within a tenth
    of a second.

    Attributes:
        port: Port to pass as the player's `--mlagents-port`.

    Args:
        base_port: The first port to try, or None for any that is free.
        timeout_s: Longest wait for a message, in seconds.
    """

    def __init__(self, base_port: int | None, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="unity"),
            options=[("grpc.so_reuseport", 0), *unlimited],
        )
        handler = grpc.unary_unary_rpc_method_handler(self._take)  # without serializers: bytes in, bytes out
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        self._is_open = True
        self.port = self._bind(base_port)
        super().__init__(worker_id=0, base_port=self.port)
        self._server.start()

    def _bind(self, base_port: int | None) -> int:
        wanted = [0] if base_port is None else range(base_port, min(65536, base_port + _PORTS_TRIED))
        for port in wanted:
            try:
                return int(self._server.add_insecure_port(f"127.0.0.1:{port}"))
            except RuntimeError:  # taken
                continue
        raise ValueError(f"base_port: got {base_port}, from which on no port is free; expected a lower one, or none.")

    def _take(self, request: bytes, context: Any) -> bytes:
        """Handles a request of the player; the response is our next message."""
        if not self._is_open:
            return _goodbye()
        self._received.put(request)
        return self._answers.get()

    def initialize(self, inputs: Any, poll_callback: Callable[[], None] | None = None) -> Any:
        """Receives the player's parameters and answers with ours; called by UnityEnvironment.

        Raises:
            UnityTimeOutException: No player connected in time.
        """
        parameters = self.receive(poll_callback)
        self.send_input(inputs)
        self.receive(poll_callback)  # an empty message, whose answer is the first command
        return parameters

    def exchange(self, inputs: Any, poll_callback: Callable[[], None] | None = None) -> Any:
        """Sends a command and waits for the state after it; called by UnityEnvironment."""
        self.send_input(inputs)
        return self.receive(poll_callback)

    def send_input(self, inputs: Any) -> None:
        """Sends a UnityInputProto of the package."""
        message = wire_class("UnityMessageProto")()
        message.unity_input.ParseFromString(inputs.SerializeToString())
        self.send(message)

    def send(self, message: Any) -> None:
        """Sends a message with the status OK, on which the player continues."""
        message.header.status = _OK
        self._answers.put(message.SerializeToString())

    def receive(self, poll_callback: Callable[[], None] | None = None) -> Any:
        """Receives the player's next message and returns its output; None when the player quits.

        Raises:
            UnityTimeOutException: No message arrived in time.
            UnityCommunicationException: What arrived is not a message of ML-Agents.
        """
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                data = self._received.get(timeout=_POLL_S)
                break
            except queue.Empty:
                if poll_callback is not None:
                    poll_callback()
                if time.monotonic() > deadline:
                    raise UnityTimeOutException(f"no message within {self._timeout_s:g} s") from None
        try:
            message = wire_class("UnityMessageProto").FromString(data)
        except Exception as error:  # DecodeError, of whichever protobuf runtime
            raise UnityCommunicationException("its message is not ML-Agents'") from error
        return message.unity_output if message.header.status == _OK else None

    def close(self) -> None:
        """Asks the player to stop, and frees the port; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            for _ in range(_WORKERS):  # releases the threads that wait for an answer; one of them would block our exit
                self._answers.put(_goodbye())
            self._server.stop(grace=_GRACE_S)


def _goodbye() -> bytes:
    message = wire_class("UnityMessageProto")()
    message.header.status = _GOODBYE
    data: bytes = message.SerializeToString()
    return data
