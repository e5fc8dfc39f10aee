"""The hosts of a training job: Ray on the head node, which the worker nodes join.

SageMaker starts the same program on every host and does no more. The first of the sorted names is the head node. Its
first act is to start Ray at a fixed port (session.py), which then runs until its process ends. Each worker node retries
`ray start` at that port (worker_node.py, ray_process.py), and ends with exit code 0 once the head node is gone: how the
job has ended is for the head node's exit code to say.

What happens when something is lost, and where:
- An env runner: RLlib continues without it and Ray restarts it; ppo/faults.py counts both, and sends it the weights.
- A worker node: head_node.py reads it from Ray's list of nodes and ppo/faults.py counts it; its env runners are
  restarted on the others, where they have CPUs left. The worker node itself restarts Ray, and so joins again, for as
  long as it finds the head node.
- The learner's process, or all env runners: ppo/loop.py raises LostError, and ppo/restart.py starts the training again
  from its last checkpoint, on the hosts that are there at this moment.
- The head node: the worker nodes end. A job that is started again resumes from the last checkpoint.
- A host before all have met: a worker node that fails says so in Ray's key-value store, by `reporting_failure`. The
  port of a head node that fails is closed again. A container whose name no longer resolves has ended.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.cluster.address import PORT, find_own_address
from runtime.cluster.head_node import HeadNode
from runtime.cluster.machines import Machines
from runtime.cluster.session import (
    OBJECT_STORE_BYTES,
    list_nodes,
    prepare_environment,
    ray_session,
    read_failures,
    require_token,
    start_until_exit,
    without_ray,
    write_failure,
)
from runtime.cluster.worker_node import connect_to_head, run_worker_node
from runtime.container.layout import Container
from runtime.container.signals import SUPPORTING, Interrupted, StopRequest
from runtime.errors import UserError
from runtime.outputs.console import Reporter

_RESERVED_CPUS = 1  # of the head node's, for learning
_REPORT_WITHIN_S = 60.0


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


def start_head_node(container: Container, stop: StopRequest, ray_options: Mapping[str, Any] | None) -> None:
    """Starts Ray for the worker nodes to join; it runs until this process ends.

    Args:
        container: This host's container, that of the head node.
        stop: The request to stop.
        ray_options: Arguments of ray.init that a launcher script asked for.

    Raises:
        PlatformError: This host has no address that the others reach, or Ray's port is taken.
        UserError: The script has started Ray itself.
    """
    prepare_environment()
    require_token(container.token)
    start_until_exit(
        address=find_own_address(container),
        num_cpus=container.num_cpus - _RESERVED_CPUS,
        num_gpus=container.num_gpus,
        overrides=ray_options,
        stop=stop,
    )


@contextlib.contextmanager
def reporting_failure(container: Container, stop: StopRequest) -> Iterator[None]:
    """Tells the head node when this worker node fails in a block, so that it does not wait for this host.

    Args:
        container: This host's container.
        stop: The request to stop, which ends the search for the head node.
    """
    try:
        yield
    except Exception as error:
        if not container.is_master:
            _report_failure(container, stop, str(error) or type(error).__name__)
        raise


def _report_failure(container: Container, stop: StopRequest, reason: str) -> None:
    prepare_environment()
    require_token(container.token)
    # Whatever fails here, the host fails for the reason that it has already.
    with contextlib.suppress(Exception, Interrupted):
        connect_to_head(container, stop, _REPORT_WITHIN_S, lambda line: None).close()
        write_failure(f"{container.hosts[0]}:{PORT}", container.current_host, reason)


def support_head_node(container: Container, stop: StopRequest, *, timeout_s: float) -> None:
    """Lends this worker node's CPUs and GPUs to the head node until its job has ended.

    Args:
        container: This host's container.
        stop: The request to stop.
        timeout_s: How long to try to connect to the head node.

    Raises:
        PlatformError: The head node was not found or runs another job, or Ray does not stay up here.
        Interrupted: A stop was requested before the head node was found.
    """
    stop.begin(SUPPORTING)
    prepare_environment()
    require_token(container.token)
    note = Reporter().note
    connection = connect_to_head(container, stop, timeout_s, note)
    with reporting_failure(container, stop):
        run_worker_node(container, stop, connection, object_store_bytes=OBJECT_STORE_BYTES, note=note)


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
    needs_ray: Callable[[Machines], bool],
) -> Iterator[Hosts]:
    """Runs Ray on this host for the length of a block; with several hosts it runs already, and the others join.

    Args:
        container: This host's container.
        reporter: Prints a line for each worker node that connects.
        stop: The request to stop.
        timeout_s: How long to wait for the worker nodes.
        ray_options: Arguments of ray.init that a launcher script asked for.
        needs_ray: Whether the job starts processes by Ray on one host of these CPUs and GPUs; without any, Ray is not
            started, which takes two seconds.

    Raises:
        PlatformError: A worker node did not join.
        Interrupted: A stop was requested before all of them had joined.
    """
    if len(container.hosts) > 1:
        others = container.hosts[1:]
        reporter.show_phase("waiting for hosts")
        head = HeadNode(container, stop, reporter.note, list_nodes, lambda: read_failures(others))
        head.wait_for_workers(timeout_s)
        yield Hosts(lambda: head.machines, head.take_events)
        return
    own = Machines(container.num_cpus, container.num_gpus)
    if not needs_ray(own):
        with without_ray():
            yield Hosts(lambda: own)
        return
    reporter.show_phase("starting Ray")
    with contextlib.ExitStack() as session:
        with stop:
            session.enter_context(ray_session(num_cpus=own.cpus, num_gpus=own.gpus, overrides=ray_options, stop=stop))
        yield Hosts(lambda: own)
