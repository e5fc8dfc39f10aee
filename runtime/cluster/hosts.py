"""The hosts of a training job: Ray on the head node, which the worker nodes join."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runtime.cluster.connection import find_own_address
from runtime.cluster.head_node import Head
from runtime.cluster.machines import Machines
from runtime.cluster.session import OBJECT_STORE_BYTES, list_nodes, prepare_environment, ray_session, require_token
from runtime.cluster.worker_node import run_worker_node
from runtime.container.layout import Container
from runtime.container.signals import SUPPORTING, StopRequest
from runtime.errors import UserError
from runtime.outputs.console import Reporter


def refuse_several_hosts(container: Container, what: str) -> None:
    """Refuses a job on several hosts that would use only one.

    Args:
        container: This host's container.
        what: What the job does, as a verb.

    Raises:
        UserError: There are several hosts.
    """
    if len(container.hosts) > 1:
        raise UserError(
            f"resourceconfig.json: got the hosts {', '.join(container.hosts)}; expected one, as a job that {what} uses "
            "one alone. Set instance_count to 1."
        )


def is_secondary(extras: Mapping[str, Any]) -> bool:
    """Whether this job is the CPU half of two that were one training in 2020, which the other half now does alone.

    Args:
        extras: The job's hyperparameters that are not `rl.…`.
    """
    kind = extras.get("rl_cluster_type")
    if kind is None and not extras.get("rl_num_instances_secondary"):
        return False
    sys.stderr.write(
        f"smrl: rl_cluster_type {kind or 'primary'}: hosts of two jobs do not find each other any more; one job has "
        "GPU and CPU hosts today, by instance_groups. "
        + ("Nothing to do here.\n" if kind == "secondary" else "This job trains on its own hosts.\n")
    )
    return kind == "secondary"


def support_head_node(container: Container, stop: StopRequest, *, timeout_s: float) -> None:
    """Lends this worker node's CPUs and GPUs to the head node until its job has ended.

    Args:
        container: This host's container.
        stop: The request to stop.
        timeout_s: How long to try to connect to the head node.

    Raises:
        PlatformError: The head node was not found, or is lost.
    """
    stop.begin(SUPPORTING)
    prepare_environment()
    require_token(container.token)
    note = Reporter().note
    run_worker_node(container, stop, timeout_s=timeout_s, object_store_bytes=OBJECT_STORE_BYTES, note=note)


@dataclass(frozen=True)
class Hosts:
    """The hosts of a training job, which may be lost and rejoin.

    Attributes:
        machines: Returns what they have at this moment.
        take_events: Returns what happened since the last call: "host_lost" or "host_rejoined", and the host with the
            reason.
    """

    machines: Callable[[], Machines] = lambda: Machines(1)
    take_events: Callable[[], list[tuple[str, str]]] = list


@contextlib.contextmanager
def ray_hosts(
    container: Container,
    *,
    reporter: Reporter,
    stop: StopRequest,
    timeout_s: float,
    ray_options: Mapping[str, Any] | None,
) -> Iterator[Hosts]:
    """Runs Ray on this host, joined by the worker nodes if there are any, for the length of a block.

    Args:
        container: This host's container.
        reporter: Prints a line for each worker node that connects.
        stop: The request to stop.
        timeout_s: How long to wait for the worker nodes.
        ray_options: Arguments of ray.init that a launcher script asked for.

    Raises:
        PlatformError: A worker node did not join.
        Interrupted: A stop was requested before all of them had joined.
    """
    own, address = Machines(container.num_cpus, container.num_gpus), None
    if len(container.hosts) > 1:
        own = replace(own, reserved_cpus=1)
        require_token(container.token)
        address = find_own_address(container)
    # Ray ends before the worker nodes do: it would take their exit for processes that died.
    with contextlib.ExitStack() as last, contextlib.ExitStack() as first:
        cpus = own.free_cpus[0]
        session = ray_session(num_cpus=cpus, num_gpus=own.gpus, overrides=ray_options, address=address, stop=stop)
        with stop:
            ray_address = first.enter_context(session)
        if address is None:
            yield Hosts(lambda: own)
            return
        head = last.enter_context(Head(container, address, ray_address, reporter.note, list_nodes))
        head.wait_for_workers(timeout_s, stop)
        yield Hosts(lambda: head.machines, head.take_events)
