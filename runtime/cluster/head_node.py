"""The head node of a job with several hosts: it waits for the worker nodes and notices when one is lost or rejoins.

Both are read from Ray's list of nodes. runtime/cluster/hosts.py says how the hosts of a job work together.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.cluster.address import PORT, Presence
from runtime.cluster.machines import Machines
from runtime.container.layout import Container
from runtime.container.signals import Interrupted, StopRequest
from runtime.errors import PlatformError

GROUP = "group"  # label of a node: its instance group
_POLL_S = 0.1
_PROGRESS_S = 15.0
_VERDICT_S = 90.0  # Ray's takes at most 5 health checks of 10 s, 3 s apart
_PRESENCE_EVERY_S = 1.0
_ABSENT_AT_MOST_S = 30.0
_ANSWERS_WITHIN_S = 2.0


@dataclass(frozen=True)
class _Worker:
    """A worker node that is alive."""

    node_id: str
    address: tuple[str, int]
    cpus: int
    gpus: int
    group: str

    @property
    def answers(self) -> bool:
        """Whether its Ray accepts a connection."""
        try:
            socket.create_connection(self.address, timeout=_ANSWERS_WITHIN_S).close()
        except OSError:
            return False
        return True


class HeadNode:
    """Waits for the worker nodes, and tracks which of them are alive.

    Args:
        container: This host's container.
        stop: The request to stop, which ends every wait.
        note: Prints a line.
        list_nodes: Returns Ray's nodes, those that are dead included, as `ray.nodes` does.
        read_failures: Returns the hosts that could not join, each with the reason.
    """

    def __init__(
        self,
        container: Container,
        stop: StopRequest,
        note: Callable[[str], None],
        list_nodes: Callable[[], list[dict[str, Any]]],
        read_failures: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._container, self._stop, self._note = container, stop, note
        self._list_nodes, self._read_failures = list_nodes, read_failures
        self._others = container.hosts[1:]
        self._workers: dict[str, _Worker] = {}
        self._lost: set[str] = set()
        self._events: list[tuple[str, str]] = []

    def wait_for_workers(self, timeout_s: float) -> None:
        """Waits until every worker node has joined Ray's cluster.

        Args:
            timeout_s: How long to wait.

        Raises:
            PlatformError: Workers did not join in time, have ended, or could not start Ray; all of them are named.
            Interrupted: A stop was requested.
        """
        started = reported = time.monotonic()
        looked = 0.0
        presence, noted = Presence(), set[str]()
        while missing := sorted(set(self._others) - self._refresh().keys()):
            if self._stop.is_set:
                raise Interrupted
            self._note_joined(noted)
            now = time.monotonic()
            if failures := self._read_failures():
                raise _could_not_join(failures)
            if now - looked > _PRESENCE_EVERY_S:
                looked = now
                absent = [host for host in missing if presence.absent_s(host, now) > _ABSENT_AT_MOST_S]
                if absent:
                    raise _could_not_join(dict.fromkeys(absent, "it has ended; its log says why"))
            if now - started > timeout_s:
                raise PlatformError(
                    f"{', '.join(missing)}: not in Ray's cluster after {timeout_s:g} s; expected every host of "
                    f"resourceconfig.json ({', '.join(self._container.hosts)}) to connect to "
                    f"{self._container.current_host}, port {PORT}, and to join. See their logs, the security group's "
                    "rules between hosts, or raise rl.training.cluster_timeout_s."
                )
            if now - reported > _PROGRESS_S:
                reported = now
                self._note(f"waiting for {', '.join(missing)}: {now - started:.0f} of {timeout_s:g} s")
            time.sleep(_POLL_S)
        self._note_joined(noted)
        self._events.clear()
        machines = self.machines
        self._note(f"{machines.hosts} hosts, {machines.cpus} CPUs, {machines.gpus} GPUs")

    def _note_joined(self, noted: set[str]) -> None:
        for host in sorted(self._workers.keys() - noted):
            noted.add(host)
            worker = self._workers[host]
            of_group = f" of group {worker.group}" if worker.group else ""
            joined = f"{worker.cpus} CPUs, {worker.gpus} GPUs ({len(noted)} of {len(self._others)})"
            self._note(f"{host}{of_group} connected: {joined}")

    @property
    def machines(self) -> Machines:
        """What the hosts that are alive have.

        Ray lists a host that is gone as alive until several health checks have failed. This waits for its verdict, as a
        training that counts on such a host would wait for it in vain. A host that Ray has as alive for longer than that
        takes, and that still does not answer, is not counted.
        """
        deadline = time.monotonic() + _VERDICT_S
        while silent := sorted(host for host, worker in self._refresh().items() if not worker.answers):
            if self._stop.is_set:
                break
            if time.monotonic() > deadline:
                self._note(f"{', '.join(silent)}: no answer for {_VERDICT_S:g} s; continuing without")
                break
            time.sleep(_POLL_S)
        own, workers = self._container, [one for host, one in self._workers.items() if host not in silent]
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

    def take_events(self) -> list[tuple[str, str]]:
        """What happened since the last call: "host_lost" or "host_rejoined", and the host with the reason."""
        self._refresh()
        events, self._events = self._events, []
        return events

    def _refresh(self) -> dict[str, _Worker]:
        """Compares the worker nodes with those of the last call, and returns them.

        A host whose Ray has been restarted is another node of the same name.
        """
        nodes = self._list_nodes()
        by_id = {node["NodeID"]: node for node in nodes}
        found = {node["NodeName"]: _read_worker(node) for node in nodes if node["Alive"]}
        for host, worker in self._workers.items():
            node = by_id.get(worker.node_id)
            if node is not None and node["Alive"]:
                found[host] = worker
                continue
            self._lost.add(host)
            why = node["DeathReasonMessage"] if node is not None else ""
            self._events.append(("host_lost", f"{host}: {why or 'its node has ended'}"))
        workers = {host: found[host] for host in self._others if host in found}
        for host in sorted(self._lost & workers.keys()):
            self._lost.remove(host)
            self._events.append(("host_rejoined", f"{host}: it joined again"))
        self._workers = workers
        return workers


def _read_worker(node: Mapping[str, Any]) -> _Worker:
    has, labels = node["Resources"], node["Labels"]
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    return _Worker(node["NodeID"], address, int(has.get("CPU", 0)), int(has.get("GPU", 0)), labels.get(GROUP, ""))


def _could_not_join(failures: Mapping[str, str]) -> PlatformError:
    return PlatformError(
        "hosts that could not join: " + "; ".join(f"{h}: {why}" for h, why in sorted(failures.items()))
    )
