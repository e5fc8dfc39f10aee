"""A worker node of a job with several hosts: it lends its CPUs and GPUs to the head node until the job has ended.

`ray start` joins the head node's Ray, and is restarted when it ends. What Ray cannot do is notice at once that the head
node is gone for good, as its raylet would try to reconnect for a minute. So a TCP connection to Ray's port is kept open
beside it, on which nothing is sent. The head node's Ray ends with its process, which is when the job has really ended:
model, exports, video and report are written. The kernel then closes the connection. A link that is down does not.
runtime/cluster/hosts.py says how the hosts of a job work together.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from runtime.cluster.address import PORT, Presence
from runtime.cluster.ray_process import RayNode
from runtime.container.layout import Container
from runtime.container.signals import Interrupted, StopRequest
from runtime.errors import PlatformError

_RETRY_S = 1.0
_CONNECT_S = 2.0  # several tries fit into the time that a head node may be silent
_PROGRESS_S = 15.0
# A link may be down for a while: Ray gives a node about as long (5 health checks of 10 s, 3 s apart).
_SILENCE_S = 60.0
# After the head node's process its container is to end, before the worker nodes': the SDK's local mode stops all hosts
# as soon as one has ended. Ray also closes connections that send nothing, after two minutes; it accepts the next one.
_LINGER_S = 5.0
_ABSENT_AT_MOST_S = 30.0


def run_worker_node(
    container: Container,
    stop: StopRequest,
    found: socket.socket,
    *,
    object_store_bytes: int,
    note: Callable[[str], None],
) -> None:
    """Joins the head node's Ray, and returns when the head node is gone.

    The head node's own exit code says how the job has ended. A stop request changes nothing: the head node got it as
    well, and needs this host until it has saved.

    Args:
        container: This host's container.
        stop: The request to stop.
        found: Connection to the head node.
        object_store_bytes: Memory of Ray's object store on this host.
        note: Prints a line.

    Raises:
        PlatformError: The head node runs another job, or Ray ends again and again.
    """
    head = container.hosts[0]
    connection: socket.socket | None = found
    with RayNode(container, object_store_bytes, note) as node:
        note(f"joining Ray at {head}:{PORT}; running until {head} ends")
        watch = _Watch(container, stop, node, note)
        while connection is not None:
            with connection:
                node.start(f"{head}:{PORT}")
                patience_s = watch.wait_for_loss(connection)
            connection = watch.reconnect(patience_s)
    note(f"{head} has ended")


class _Watch:
    """Notices whether the head node, and Ray on this host, are still there."""

    def __init__(self, container: Container, stop: StopRequest, node: RayNode, note: Callable[[str], None]) -> None:
        self._head, self._stop, self._node, self._note = container.hosts[0], stop, node, note
        self._has_reported_stop = False

    def wait_for_loss(self, connection: socket.socket) -> float:
        """Waits until the connection is lost or Ray has ended here; returns the seconds to try to reconnect for."""
        connection.settimeout(_RETRY_S)
        while True:
            try:
                if not connection.recv(4096):  # Ray says which HTTP/2 it speaks, and waits for ours
                    return _LINGER_S
            except TimeoutError as error:
                if error.errno is not None:  # the kernel's: no answer for a minute
                    self._note(f"{self._head}: no answer for {_SILENCE_S:g} s; reconnecting")
                    return _SILENCE_S
            except ConnectionResetError:
                return _LINGER_S
            except OSError as error:
                self._note(f"{self._head}: {error.strerror}; reconnecting")
                return _SILENCE_S
            if self._node.has_ended:
                return _SILENCE_S
            if self._stop.is_set and not self._has_reported_stop:
                self._has_reported_stop = True
                self._note(f"{self._stop.signal_name}: running until {self._head} has saved")

    def reconnect(self, patience_s: float) -> socket.socket | None:
        """Connects to the head node again; None if it cannot for so many seconds, or was asked to stop meanwhile."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return _connect(self._head)
            except OSError:
                if time.monotonic() > deadline or (self._stop.is_set and patience_s > _LINGER_S):
                    return None
            time.sleep(_RETRY_S)


def _connect(head: str) -> socket.socket:
    connection = socket.create_connection((head, PORT), timeout=_CONNECT_S)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * _SILENCE_S))
    return connection


def connect_to_head(
    container: Container, stop: StopRequest, timeout_s: float, note: Callable[[str], None]
) -> socket.socket:
    """Connects to the head node's Ray as soon as it listens.

    Args:
        container: This host's container.
        stop: The request to stop, which ends the search.
        timeout_s: How long to try.
        note: Prints a line.

    Raises:
        PlatformError: It did not listen in time, or has ended before it did.
        Interrupted: A stop was requested.
    """
    head, reported, presence = container.hosts[0], time.monotonic(), Presence()
    note(f"{container.current_host}: connecting to the head node {head}")
    started, why = reported, ""
    while (now := time.monotonic()) < started + timeout_s:
        if stop.is_set:
            raise Interrupted
        try:
            return _connect(head)
        except socket.gaierror:
            why = "its name does not resolve here"
            if presence.absent_s(head, now) > _ABSENT_AT_MOST_S:
                raise PlatformError(f"{head}: it has ended before it listened; its log says why.") from None
        except OSError as error:
            why = f"{error.strerror or error}"
            presence.absent_s(head, now)
        if now - reported > _PROGRESS_S:
            reported = now
            note(f"still connecting to {head}, port {PORT}: {why}; {started + timeout_s - now:.0f} s left")
        time.sleep(_RETRY_S)
    raise PlatformError(
        f"{head}: not found within {timeout_s:g} s at port {PORT}: {why}; expected the first host of "
        "resourceconfig.json to listen there. See its log, the security group's rules between hosts, or "
        "raise rl.training.cluster_timeout_s."
    )
