"""The head node of a job with several hosts: it accepts the worker nodes and notices when one is lost.

SageMaker starts the same program on every host and does no more. The first of the sorted names is the head node; the
others connect to it by name, get Ray's address from it, and stay connected (worker_node.py).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from types import TracebackType
from typing import Any

from runtime.cluster.connection import PORT, SILENCE_S, Connection
from runtime.cluster.machines import Machines
from runtime.container.layout import Container
from runtime.container.signals import Interrupted, StopRequest
from runtime.errors import PlatformError

_POLL_S = 0.1
_PROGRESS_S = 15.0
_GOODBYE_S = 10.0


@dataclass
class _Worker:
    """A connected worker node."""

    cpus: int
    gpus: int
    connection: Connection
    has_acknowledged_end: threading.Event = field(default_factory=threading.Event)


class Head:
    """Waits for the worker nodes, tracks which of them are alive, and tells them when training has ended.

    They stay connected until this process exits, which is when the job has really ended: model, exports, video and
    report are written after the training.

    A context manager; entering it starts a thread that listens. Start Ray first: it forks, which threads would break.

    Args:
        container: This host's container.
        address: IPv4 address of this host, to listen on.
        ray_address: Address of Ray, which the workers join.
        note: Prints a line.
        list_nodes: Returns the names of Ray's nodes that are alive.
    """

    def __init__(
        self,
        container: Container,
        address: str,
        ray_address: str,
        note: Callable[[str], None],
        list_nodes: Callable[[], set[str]],
    ) -> None:
        self._container, self._ray_address, self._note, self._list_nodes = container, ray_address, note, list_nodes
        self._others = container.hosts[1:]
        self._workers: dict[str, _Worker] = {}
        self._faults: dict[str, str] = {}
        self._lost: set[str] = set()
        self._events: list[tuple[str, str]] = []
        self._changed = threading.Lock()
        self._has_ended = False
        try:
            self._listener = socket.create_server((address, PORT), backlog=len(container.hosts))
        except OSError as error:
            raise PlatformError(
                f"{container.current_host}: port {PORT} of {address} cannot be listened on ("
                f"{error.strerror or error}); expected a free port for the worker nodes to connect to."
            ) from None

    def __enter__(self) -> Head:
        threading.Thread(target=self._accept, name="hosts", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tells every worker that training has ended, and waits up to 10 s until they have acknowledged it."""
        self._has_ended = True
        why = "done" if error is None else f"failed: {_headline(error)}"
        if isinstance(error, Interrupted):
            why = "stopped"
        with self._changed:
            workers = list(self._workers.values())
        for worker in workers:
            with contextlib.suppress(OSError):  # the host is lost
                worker.connection.send(end=why)
        deadline = time.monotonic() + _GOODBYE_S
        for worker in workers:
            worker.has_acknowledged_end.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake accept()
        self._listener.close()

    def wait_for_workers(self, timeout_s: float, stop: StopRequest) -> None:
        """Waits until every worker node has joined Ray's cluster.

        Args:
            timeout_s: How long to wait.
            stop: The request to stop, which ends the wait.

        Raises:
            PlatformError: Workers did not join in time, or could not start Ray; all of them are named.
            Interrupted: A stop was requested.
        """
        started = reported = time.monotonic()
        while missing := sorted(set(self._others) - self._alive().keys()):
            if stop.is_set:
                raise Interrupted
            if self._faults:
                faults = "; ".join(f"{host}: {why}" for host, why in sorted(self._faults.items()))
                raise PlatformError(f"hosts that could not join: {faults}")
            waited = time.monotonic() - started
            if waited > timeout_s:
                found = [f"{host} (which has connected)" if host in self._workers else host for host in missing]
                raise PlatformError(
                    f"{', '.join(found)}: not in Ray's cluster after {timeout_s:g} s; expected every host of "
                    f"resourceconfig.json ({', '.join(self._container.hosts)}) to connect to "
                    f"{self._container.current_host}, port {PORT}, and to join. See their logs, the security group's "
                    "rules between hosts, or raise rl.training.cluster_timeout_s."
                )
            if time.monotonic() - reported > _PROGRESS_S:
                reported = time.monotonic()
                self._note(f"waiting for {', '.join(missing)}: {waited:.0f} of {timeout_s:g} s")
            time.sleep(_POLL_S)
        self._events.clear()
        machines = self.machines
        self._note(f"{machines.hosts} hosts, {machines.cpus} CPUs, {machines.gpus} GPUs")

    @property
    def machines(self) -> Machines:
        """What the hosts that are alive have."""
        own, workers = self._container, self._alive().values()
        cpus, gpus = tuple(worker.cpus for worker in workers), sum(worker.gpus for worker in workers)
        return Machines(
            own.num_cpus + sum(cpus),
            own.num_gpus + gpus,
            1 + len(workers),
            cpus_elsewhere=cpus,
            gpus_elsewhere=gpus,
            reserved_cpus=1,
            are_fewer=len(workers) < len(self._others),
        )

    def _alive(self) -> dict[str, _Worker]:
        """Workers that are connected and whose Ray node is alive."""
        nodes = self._list_nodes()
        with self._changed:
            return {host: self._workers[host] for host in self._others if host in self._workers and host in nodes}

    def take_events(self) -> list[tuple[str, str]]:
        """What happened since the last call: "host_lost" or "host_rejoined", and the host with the reason."""
        with self._changed:
            events, self._events = self._events, []
        return events

    def _accept(self) -> None:
        while True:
            try:
                accepted, (address, _) = self._listener.accept()
            except OSError:  # closed: training has ended
                return
            threading.Thread(
                target=self._serve, args=(Connection(accepted), address), name=address, daemon=True
            ).start()

    def _serve(self, connection: Connection, address: str) -> None:
        """Handles the messages of one worker until its connection closes."""
        host, why = "", "its connection was closed"
        try:
            connection.authenticate_as_head(self._container.token.encode())
            hello = connection.receive(SILENCE_S)
            if hello.get("host") not in self._others:
                self._note(f"rejected {address}: {hello.get('host')!r} is no host of this job")
                return
            self._admit(hello, connection)
            host = hello["host"]
            while True:
                self._handle(host, connection.receive())
                connection.send_heartbeat()
        except AuthenticationError:
            self._note(f"rejected {address}: it has another job's token or other hyperparameters")
        except TimeoutError as error:
            why = str(error)
        except (KeyError, TypeError, ValueError) as error:
            self._note(f"rejected {address}: got an invalid message ({type(error).__name__}: {error})")
        except (EOFError, OSError):
            pass  # the host is lost
        finally:
            connection.close()
            self._remove(host, connection, why)

    def _admit(self, hello: Mapping[str, Any], connection: Connection) -> None:
        host, cpus, gpus, group = str(hello["host"]), int(hello["cpus"]), int(hello["gpus"]), hello.get("group")
        connection.send(ray=self._ray_address)
        with self._changed:
            self._workers[host] = _Worker(cpus, gpus, connection)  # an earlier connection of the host times out
            count = len(self._workers)
            if host in self._lost:
                self._lost.remove(host)
                self._events.append(("host_rejoined", f"{host}: it reconnected"))
        of_group = f" of group {group}" if group else ""
        self._note(f"{host}{of_group} connected: {cpus} CPUs, {gpus} GPUs ({count} of {len(self._others)})")

    def _handle(self, host: str, message: Mapping[str, Any]) -> None:
        if "failed" in message:
            self._faults[host] = str(message["failed"])
        elif "acknowledged" in message:
            with self._changed:
                self._workers[host].has_acknowledged_end.set()
        elif "rejoined" in message:
            with self._changed:
                self._events.append(("host_rejoined", f"{host}: {message['rejoined']}"))

    def _remove(self, host: str, connection: Connection, why: str) -> None:
        with self._changed:
            if host not in self._workers or self._workers[host].connection is not connection:
                return  # it was rejected, or has reconnected since
            self._workers.pop(host).has_acknowledged_end.set()
            if self._has_ended:
                return
            self._lost.add(host)
            self._events.append(("host_lost", f"{host}: {self._faults.pop(host, why)}"))


def _headline(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
