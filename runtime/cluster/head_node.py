"""Several hosts as one Ray cluster: the first is the head; the others find it, join it, and end after it.

SageMaker starts the same program on every host and does no more. A host looks the head up by name, gets Ray's address
from it, and stays in touch.
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

from runtime.cluster.connection import SILENCE_S, Line
from runtime.cluster.ray_process import RayNode
from runtime.container.layout import Container
from runtime.container.signals import Interrupted, StopRequest
from runtime.errors import PlatformError

PORT = 6390  # of the head; Ray's own ports are drawn
_TRY_AGAIN_S = 1.0
_PROGRESS_S = 15.0
_GOODBYE_S = 10.0
# After the head's job has ended, whose container is to end first: local mode stops all at the first that ends.
_LINGER_S = 2.0

Note = Callable[[str], None]


@dataclass(frozen=True)
class Machines:
    """What a job may use now.

    Attributes:
        cpus: CPUs of all hosts.
        gpus: GPUs of all hosts.
        hosts: How many hosts there are.
        cpus_elsewhere: CPUs of each of the other hosts.
        gpus_elsewhere: GPUs of the other hosts.
        reserved_cpus: CPUs that Ray was not told of: one for learning, where there were several hosts.
        are_fewer: Whether hosts have left.
    """

    cpus: int
    gpus: int = 0
    hosts: int = 1
    cpus_elsewhere: tuple[int, ...] = ()
    gpus_elsewhere: int = 0
    reserved_cpus: int = 0
    are_fewer: bool = False

    @property
    def own_cpus(self) -> int:
        """CPUs of the host that trains."""
        return self.cpus - sum(self.cpus_elsewhere)

    @property
    def own_gpus(self) -> int:
        """GPUs of the host that trains."""
        return self.gpus - self.gpus_elsewhere

    @property
    def free_cpus(self) -> list[int]:
        """CPUs of each host for other processes than the main one."""
        return [self.own_cpus - self.reserved_cpus, *self.cpus_elsewhere]


@dataclass
class _Member:
    """A host as the head knows it."""

    cpus: int
    gpus: int
    line: Line
    has_heard: threading.Event = field(default_factory=threading.Event)


class Head:
    """The first host: waits for the others, watches over them, and tells them when it needs them no more.

    They stay connected until its process ends, which is when its job has really ended: model, exports, video and
    report are written after the training.

    A context manager; entering begins to listen. Ray must run already: it forks at its start, and threads are in the
    way of that.

    Args:
        container: Where we run.
        address: Of this host.
        ray_address: Where Ray can be joined.
        note: Told of each host that comes and goes.
        list_nodes: Names of Ray's nodes that are alive.
    """

    def __init__(
        self, container: Container, address: str, ray_address: str, note: Note, list_nodes: Callable[[], set[str]]
    ) -> None:
        self._container, self._ray_address, self._note, self._list_nodes = container, ray_address, note, list_nodes
        self._others = container.hosts[1:]
        self._members: dict[str, _Member] = {}
        self._faults: dict[str, str] = {}
        self._lost: set[str] = set()
        self._events: list[tuple[str, str]] = []
        self._changed = threading.Lock()
        self._is_over = False
        try:
            self._listener = socket.create_server((address, PORT), backlog=len(container.hosts))
        except OSError as error:
            raise PlatformError(
                f"{container.current_host}: port {PORT} of {address} cannot be listened on ("
                f"{error.strerror or error}); expected it free, for the other hosts to come to."
            ) from None

    def __enter__(self) -> Head:
        threading.Thread(target=self._accept, name="hosts", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tells every host that its part is over, and waits a little until they have heard."""
        self._is_over = True
        why = "done" if error is None else f"failed: {_headline(error)}"
        if isinstance(error, Interrupted):
            why = "stopped"
        with self._changed:
            members = list(self._members.values())
        for member in members:
            with contextlib.suppress(OSError):  # of a host that is gone
                member.line.send(end=why)
        deadline = time.monotonic() + _GOODBYE_S
        for member in members:
            member.has_heard.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake who accepts
        self._listener.close()

    def gather(self, timeout_s: float, stop: StopRequest) -> None:
        """Waits until every host is part of the cluster.

        Args:
            timeout_s: How long.
            stop: A signal ends the waiting.

        Raises:
            PlatformError: Hosts have not come in time, or could not start Ray; all are named.
            Interrupted: A stop was requested.
        """
        started = spoken = time.monotonic()
        while missing := sorted(set(self._others) - self._here().keys()):
            if stop.is_set:
                raise Interrupted
            if self._faults:
                faults = "; ".join(f"{host}: {why}" for host, why in sorted(self._faults.items()))
                raise PlatformError(f"hosts that could not join: {faults}")
            waited = time.monotonic() - started
            if waited > timeout_s:
                come = [f"{host} (but has come to port {PORT})" if host in self._members else host for host in missing]
                raise PlatformError(
                    f"{', '.join(come)}: not in Ray's cluster after {timeout_s:g} s; expected every host of "
                    f"resourceconfig.json ({', '.join(self._container.hosts)}) to come to "
                    f"{self._container.current_host}, port {PORT}. See their logs, the security group's rules between "
                    "hosts, or raise rl.training.cluster_timeout_s."
                )
            if time.monotonic() - spoken > _PROGRESS_S:
                spoken = time.monotonic()
                self._note(f"waiting for {', '.join(missing)}: {waited:.0f} of {timeout_s:g} s")
            time.sleep(0.1)
        self._events.clear()
        machines = self.machines
        self._note(f"{machines.hosts} hosts, {machines.cpus} CPUs, {machines.gpus} GPUs")

    @property
    def machines(self) -> Machines:
        """Of the hosts that are here now."""
        own, members = self._container, self._here().values()
        cpus, gpus = tuple(member.cpus for member in members), sum(member.gpus for member in members)
        return Machines(
            own.num_cpus + sum(cpus),
            own.num_gpus + gpus,
            1 + len(members),
            cpus_elsewhere=cpus,
            gpus_elsewhere=gpus,
            reserved_cpus=1,
            are_fewer=len(members) < len(self._others),
        )

    def _here(self) -> dict[str, _Member]:
        """Hosts that answer, and whose Ray is alive."""
        nodes = self._list_nodes()
        with self._changed:
            return {host: self._members[host] for host in self._others if host in self._members and host in nodes}

    def take_events(self) -> list[tuple[str, str]]:
        """What has happened since the last call: "host_lost" or "host_rejoined", and the story."""
        with self._changed:
            events, self._events = self._events, []
        return events

    def _accept(self) -> None:
        while True:
            try:
                accepted, (address, _) = self._listener.accept()
            except OSError:  # closed: the job is over
                return
            threading.Thread(target=self._serve, args=(Line(accepted), address), name=address, daemon=True).start()

    def _serve(self, line: Line, address: str) -> None:
        """Speaks with one host until it has gone."""
        host, why = "", "its connection was closed"
        try:
            line.prove_as_head(self._container.token.encode())
            hello = line.receive(SILENCE_S)
            if hello.get("host") not in self._others:
                self._note(f"{address} was turned away: {hello.get('host')!r} is no host of this job")
                return
            self._admit(hello, line)
            host = hello["host"]
            while True:
                self._heed(host, line.receive())
                line.beat()
        except AuthenticationError:
            self._note(f"{address} was turned away: it has another job's token or other hyperparameters")
        except TimeoutError as error:
            why = str(error)
        except (KeyError, TypeError, ValueError) as error:
            self._note(f"{address} was turned away: it speaks otherwise ({type(error).__name__}: {error})")
        except (EOFError, OSError):
            pass  # gone
        finally:
            line.close()
            self._dismiss(host, line, why)

    def _admit(self, hello: Mapping[str, Any], line: Line) -> None:
        host, cpus, gpus, group = str(hello["host"]), int(hello["cpus"]), int(hello["gpus"]), hello.get("group")
        line.send(ray=self._ray_address)
        with self._changed:
            self._members[host] = _Member(cpus, gpus, line)  # an earlier line of the host falls silent by itself
            count = len(self._members)
            if host in self._lost:
                self._lost.remove(host)
                self._events.append(("host_rejoined", f"{host}: it has come again"))
        of_group = f" of group {group}" if group else ""
        self._note(f"{host}{of_group} has come: {cpus} CPUs, {gpus} GPUs ({count} of {len(self._others)})")

    def _heed(self, host: str, message: Mapping[str, Any]) -> None:
        if "failed" in message:
            self._faults[host] = str(message["failed"])
        elif "heard" in message:
            with self._changed:
                self._members[host].has_heard.set()
        elif "rejoined" in message:
            with self._changed:
                self._events.append(("host_rejoined", f"{host}: {message['rejoined']}"))

    def _dismiss(self, host: str, line: Line, why: str) -> None:
        with self._changed:
            if host not in self._members or self._members[host].line is not line:
                return  # it was never let in, or is connected again since
            self._members.pop(host).has_heard.set()
            if self._is_over:
                return
            self._lost.add(host)
            self._events.append(("host_lost", f"{host}: {self._faults.pop(host, why)}"))


def _headline(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def stay_with_head(
    container: Container, stop: StopRequest, *, timeout_s: float, object_store_bytes: int, note: Note
) -> None:
    """What every host but the first does: joins the head's Ray, and stays until the head's job has ended.

    A stop request changes nothing: the head got it as well, and needs this host until it has saved.

    Args:
        container: Where we run.
        stop: A signal ends the looking for the head.
        timeout_s: How long to look.
        object_store_bytes: Memory of Ray's object store here.
        note: Told of progress.

    Raises:
        PlatformError: The head was not found, or has been lost.
        Interrupted: A stop was requested before the head was found.
    """
    head = container.hosts[0]
    note(f"{container.current_host}: looking for {head}, which trains")
    with _Guest(container, stop, object_store_bytes, note) as guest:
        while True:
            line = _find_head(container, stop, timeout_s, note)
            with contextlib.closing(line):
                try:
                    why = guest.stay(line)
                    guest.outstay(line)
                    note(f"{head} has ended: {why}")
                    return
                except TimeoutError:
                    # A link that is away for long; a head that has ended closes its connections.
                    note(f"{head}: no word for {SILENCE_S:g} s; looking for it again")
                    timeout_s = SILENCE_S
                except (EOFError, OSError, ValueError) as error:
                    raise PlatformError(
                        f"{head}: lost, the host that trains ({error or 'it closed the connection'}); expected it to "
                        "stay until the job's end. See its log; the job goes on from its last checkpoint when it is "
                        "started again."
                    ) from None


class _Guest:
    """This host in the head's cluster."""

    def __init__(self, container: Container, stop: StopRequest, object_store_bytes: int, note: Note) -> None:
        self._container, self._stop, self._note = container, stop, note
        self._object_store_bytes = object_store_bytes
        self._node: RayNode | None = None
        self._knows_of_stop = False

    def __enter__(self) -> _Guest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Ends Ray here."""
        self._end_ray()

    def _end_ray(self) -> None:
        node, self._node = self._node, None
        if node is not None:
            node.close()

    def stay(self, line: Line) -> str:
        """Stays until the head says that it needs this host no more.

        Returns:
            How its training has ended.

        Raises:
            EOFError: The head has gone without a word.
            OSError: The connection broke; TimeoutError if it fell silent.
        """
        own, head = self._container, self._container.hosts[0]
        line.send(host=own.current_host, cpus=own.num_cpus, gpus=own.num_gpus, group=own.instance_group)
        while True:
            message = line.receive()
            if "end" in message:
                return str(message["end"])
            if "ray" in message and self._node is None:
                self._note(f"joining Ray at {message['ray']}; staying until {head} ends")
                self._node = RayNode(own, message["ray"], self._object_store_bytes)
            if self._node is not None:
                self._node.look_after(line, self._note)
            with contextlib.suppress(OSError):  # reading tells why
                line.beat()
            if self._stop.is_set and not self._knows_of_stop:
                self._knows_of_stop = True
                self._note(f"{self._stop.signal_name}: staying until {head} has saved")

    def outstay(self, line: Line) -> None:
        """Ends Ray here, and waits until the head's process is gone, whose connection closes with it."""
        self._note(f"not needed any more; staying until {self._container.hosts[0]} has written its results")
        with contextlib.suppress(EOFError, OSError, ValueError):
            line.send(heard=True)
            self._end_ray()
            while True:
                line.receive()
                line.beat()
        time.sleep(_LINGER_S)


def _find_head(container: Container, stop: StopRequest, timeout_s: float, note: Note) -> Line:
    head, spoken, why = container.hosts[0], time.monotonic(), ""
    deadline = spoken + timeout_s
    while time.monotonic() < deadline:
        if stop.is_set:
            raise Interrupted
        try:
            line = Line(socket.create_connection((head, PORT), timeout=5.0))
            try:
                line.prove_as_member(container.token.encode())
                return line
            except BaseException:
                line.close()
                raise
        except socket.gaierror:
            why = "its name means nothing here"
        except AuthenticationError:
            raise PlatformError(
                f"{head}: it runs another job, or this one with other hyperparameters; expected the same on every host."
            ) from None
        except (OSError, EOFError) as error:
            why = f"{getattr(error, 'strerror', None) or error or 'it closed the connection'}"
        if time.monotonic() - spoken > _PROGRESS_S:
            spoken = time.monotonic()
            note(f"still looking for {head}, port {PORT}: {why}; {deadline - spoken:.0f} s left")
        time.sleep(_TRY_AGAIN_S)
    raise PlatformError(
        f"{head}: not found within {timeout_s:g} s at port {PORT}: {why}; expected the first host of "
        "resourceconfig.json to wait for the others there. See its log, the security group's rules between hosts, or "
        "raise rl.training.cluster_timeout_s."
    )
