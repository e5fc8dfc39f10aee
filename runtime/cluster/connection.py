"""A connection between two hosts of a job: each proves that it belongs to it, and hears from the other every second."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

import psutil

from runtime.container.layout import Container
from runtime.errors import PlatformError

BEAT_S = 1.0
# A link may be away for a while: Ray gives a node about as long (5 health checks of 10 s, 3 s apart).
SILENCE_S = 60.0
_LONGEST_MESSAGE = 65_536


class Line:
    """JSON messages on a connection that both sides have proved their right to."""

    def __init__(self, accepted: socket.socket) -> None:
        accepted.settimeout(None)
        timeout = int(SILENCE_S).to_bytes(8, sys.byteorder) + bytes(8)  # a struct timeval
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            accepted.setsockopt(socket.SOL_SOCKET, option, timeout)
        self._connection = Connection(accepted.detach())
        self._sending = threading.Lock()
        self._heard = self._spoke = time.monotonic()

    def prove_as_head(self, secret: bytes) -> None:
        """Raises AuthenticationError for a host of another job."""
        deliver_challenge(self._connection, secret)
        answer_challenge(self._connection, secret)

    def prove_as_member(self, secret: bytes) -> None:
        """Raises AuthenticationError for a head of another job."""
        answer_challenge(self._connection, secret)
        deliver_challenge(self._connection, secret)

    def send(self, **message: Any) -> None:
        """Sends a message."""
        with self._sending:
            self._connection.send_bytes(json.dumps(message).encode())
            self._spoke = time.monotonic()

    def beat(self) -> None:
        """Sends a sign of life where nothing else was said for a while."""
        if time.monotonic() - self._spoke >= BEAT_S:
            self.send()

    def receive(self, timeout_s: float = BEAT_S) -> dict[str, Any]:
        """The next message, an empty one if there was none in time.

        Raises:
            EOFError: The other side has gone.
            OSError: The connection broke; TimeoutError if it has been silent for too long.
            ValueError: The message is none.
        """
        if not self._connection.poll(timeout_s):
            if time.monotonic() - self._heard > SILENCE_S:
                raise TimeoutError(f"no word for {SILENCE_S:g} s")
            return {}
        message = json.loads(self._connection.recv_bytes(_LONGEST_MESSAGE))
        if not isinstance(message, dict):
            raise ValueError(f"got {type(message).__name__} for a message")
        self._heard = time.monotonic()
        return message

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


def find_own_address(container: Container) -> str:
    """The IPv4 address that the other hosts reach this one at: that of its name, or of the container's interface.

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
        return resolved  # where the others look for it, whatever interface is named
    if of_interface:
        return of_interface[0]
    raise PlatformError(
        f"{container.current_host}: got no address: network interface {container.network_interface or '(none named)'} "
        f"of resourceconfig.json has none, and the name means {resolved or 'nothing'}; expected one that the hosts "
        f"{', '.join(container.hosts)} reach each other at. The interfaces here are {', '.join(sorted(interfaces))}."
    )
