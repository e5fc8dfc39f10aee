"""The connection between a worker node and the head node: both authenticate, then send heartbeats every second."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from multiprocessing import connection as mp_connection
from typing import Any

import psutil

from runtime.container.layout import Container
from runtime.errors import PlatformError

PORT = 6390  # of the head node; Ray's own ports are drawn
HEARTBEAT_S = 1.0
# A link may be down for a while: Ray gives a node about as long (5 health checks of 10 s, 3 s apart).
SILENCE_S = 60.0
_LONGEST_MESSAGE = 65_536


class Connection:
    """JSON messages between two hosts of a job that have authenticated each other with its token."""

    def __init__(self, accepted: socket.socket) -> None:
        accepted.settimeout(None)
        timeout = int(SILENCE_S).to_bytes(8, sys.byteorder) + bytes(8)  # a struct timeval
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            accepted.setsockopt(socket.SOL_SOCKET, option, timeout)
        self._connection = mp_connection.Connection(accepted.detach())
        self._sending = threading.Lock()
        self._last_received = self._last_sent = time.monotonic()

    def authenticate_as_head(self, secret: bytes) -> None:
        """Raises AuthenticationError if the worker has another job's token."""
        mp_connection.deliver_challenge(self._connection, secret)
        mp_connection.answer_challenge(self._connection, secret)

    def authenticate_as_worker(self, secret: bytes) -> None:
        """Raises AuthenticationError if the head node has another job's token."""
        mp_connection.answer_challenge(self._connection, secret)
        mp_connection.deliver_challenge(self._connection, secret)

    def send(self, **message: Any) -> None:
        """Sends a message."""
        with self._sending:
            self._connection.send_bytes(json.dumps(message).encode())
            self._last_sent = time.monotonic()

    def send_heartbeat(self) -> None:
        """Sends an empty message if nothing was sent for a second."""
        if time.monotonic() - self._last_sent >= HEARTBEAT_S:
            self.send()

    def receive(self, timeout_s: float = HEARTBEAT_S) -> dict[str, Any]:
        """The next message; an empty one if none came in time.

        Raises:
            EOFError: The other side closed the connection.
            OSError: The connection broke; TimeoutError if no message came for a minute.
            ValueError: The message is not a JSON object.
        """
        if not self._connection.poll(timeout_s):
            if time.monotonic() - self._last_received > SILENCE_S:
                raise TimeoutError(f"no message for {SILENCE_S:g} s")
            return {}
        message = json.loads(self._connection.recv_bytes(_LONGEST_MESSAGE))
        if not isinstance(message, dict):
            raise ValueError(f"got {type(message).__name__} for a message")
        self._last_received = time.monotonic()
        return message

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def find_own_address(container: Container) -> str:
    """The IPv4 address that the other hosts reach this one at: by its name, or by the container's interface.

    Raises:
        PlatformError: There is none.
    """
    interfaces = {
        name: [one.address for one in found if one.family == socket.AF_INET]
        for name, found in psutil.net_if_addrs().items()
    }
    of_interface = interfaces.get(container.network_interface)
    resolved = None
    with contextlib.suppress(OSError):
        resolved = socket.gethostbyname(container.current_host)
    own = {address for found in interfaces.values() for address in found}
    if resolved is not None and resolved in own and not resolved.startswith("127."):
        return resolved  # the others look its name up, whatever interface is configured
    if of_interface:
        return of_interface[0]
    raise PlatformError(
        f"{container.current_host}: got no address: network interface {container.network_interface or '(none named)'} "
        f"of resourceconfig.json has none, and the name resolves to {resolved or 'nothing'}; expected one that the "
        f"hosts {', '.join(container.hosts)} reach each other at. The interfaces here are "
        f"{', '.join(sorted(interfaces))}."
    )
