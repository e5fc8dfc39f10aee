"""A worker node of a job with several hosts: it lends its CPUs and GPUs to the head node until the job has ended."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from multiprocessing import AuthenticationError

from runtime.cluster.connection import PORT, SILENCE_S, Connection
from runtime.cluster.ray_process import RayNode
from runtime.container.layout import Container
from runtime.container.signals import Interrupted, StopRequest
from runtime.errors import PlatformError

_RETRY_S = 1.0
_PROGRESS_S = 15.0
# The head node's container is to exit first: the SDK's local mode stops all hosts as soon as one has exited.
_LINGER_S = 2.0


def run_worker_node(
    container: Container, stop: StopRequest, *, timeout_s: float, object_store_bytes: int, note: Callable[[str], None]
) -> None:
    """Joins the head node's Ray, and returns when the head node's job has ended.

    A stop request after the connection changes nothing: the head node got it as well, and needs this host until it has
    saved.

    Args:
        container: This host's container.
        stop: The request to stop, which ends the search for the head node.
        timeout_s: How long to try to connect.
        object_store_bytes: Memory of Ray's object store on this host.
        note: Prints a line.

    Raises:
        PlatformError: The head node was not found, or is lost.
        Interrupted: A stop was requested before the head node was found.
    """
    head = container.hosts[0]
    note(f"{container.current_host}: connecting to the head node {head}")
    with _WorkerNode(container, stop, object_store_bytes, note) as worker:
        while True:
            connection = _connect(container, stop, timeout_s, note)
            with contextlib.closing(connection):
                try:
                    why = worker.run_until_end(connection)
                    worker.wait_for_head_exit(connection)
                    note(f"{head} has ended: {why}")
                    return
                except TimeoutError:
                    # A link that is down for long; a head node that has ended closes its connections.
                    note(f"{head}: no message for {SILENCE_S:g} s; reconnecting")
                    timeout_s = SILENCE_S
                except (EOFError, OSError, ValueError) as error:
                    raise PlatformError(
                        f"{head}: the head node is lost ({error or 'it closed the connection'}); expected it to run "
                        "until the job's end. See its log; start the job again to resume from its last checkpoint."
                    ) from None


class _WorkerNode:
    """Ray on this host, for as long as the head node needs it."""

    def __init__(
        self, container: Container, stop: StopRequest, object_store_bytes: int, note: Callable[[str], None]
    ) -> None:
        self._container, self._stop, self._note = container, stop, note
        self._object_store_bytes = object_store_bytes
        self._node: RayNode | None = None
        self._has_reported_stop = False

    def __enter__(self) -> _WorkerNode:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Ends Ray here."""
        self._end_ray()

    def _end_ray(self) -> None:
        node, self._node = self._node, None
        if node is not None:
            node.close()

    def run_until_end(self, connection: Connection) -> str:
        """Runs Ray until the head node says that training has ended.

        Returns:
            How training has ended.

        Raises:
            EOFError: The head node closed the connection without a message.
            OSError: The connection broke; TimeoutError if no message came for a minute.
        """
        own, head = self._container, self._container.hosts[0]
        connection.send(host=own.current_host, cpus=own.num_cpus, gpus=own.num_gpus, group=own.instance_group)
        while True:
            message = connection.receive()
            if "end" in message:
                return str(message["end"])
            if "ray" in message and self._node is None:
                self._note(f"joining Ray at {message['ray']}; running until {head} ends")
                self._node = RayNode(own, message["ray"], self._object_store_bytes)
            if self._node is not None:
                self._node.restart_if_ended(connection, self._note)
            with contextlib.suppress(OSError):  # receiving raises the reason
                connection.send_heartbeat()
            if self._stop.is_set and not self._has_reported_stop:
                self._has_reported_stop = True
                self._note(f"{self._stop.signal_name}: running until {head} has saved")

    def wait_for_head_exit(self, connection: Connection) -> None:
        """Ends Ray here, and waits until the head node's process has exited, which closes the connection."""
        self._note(f"training has ended; waiting until {self._container.hosts[0]} has written its results")
        with contextlib.suppress(EOFError, OSError, ValueError):
            connection.send(acknowledged=True)
            self._end_ray()
            while True:
                connection.receive()
                connection.send_heartbeat()
        time.sleep(_LINGER_S)


def _connect(container: Container, stop: StopRequest, timeout_s: float, note: Callable[[str], None]) -> Connection:
    head, reported, why = container.hosts[0], time.monotonic(), ""
    deadline = reported + timeout_s
    while time.monotonic() < deadline:
        if stop.is_set:
            raise Interrupted
        try:
            connection = Connection(socket.create_connection((head, PORT), timeout=5.0))
            try:
                connection.authenticate_as_worker(container.token.encode())
                return connection
            except BaseException:
                connection.close()
                raise
        except socket.gaierror:
            why = "its name does not resolve here"
        except AuthenticationError:
            raise PlatformError(
                f"{head}: it runs another job, or this one with other hyperparameters; expected the same on every host."
            ) from None
        except (OSError, EOFError) as error:
            why = f"{getattr(error, 'strerror', None) or error or 'it closed the connection'}"
        if time.monotonic() - reported > _PROGRESS_S:
            reported = time.monotonic()
            note(f"still connecting to {head}, port {PORT}: {why}; {deadline - reported:.0f} s left")
        time.sleep(_RETRY_S)
    raise PlatformError(
        f"{head}: not found within {timeout_s:g} s at port {PORT}: {why}; expected the first host of "
        "resourceconfig.json to listen there. See its log, the security group's rules between hosts, or "
        "raise rl.training.cluster_timeout_s."
    )
