"""The CPUs and GPUs of a job's hosts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machines:
    """The hosts of a job and what they have, at this moment.

    Attributes:
        cpus: CPUs of all hosts.
        gpus: GPUs of all hosts.
        hosts: How many hosts there are.
        cpus_elsewhere: CPUs of each worker node.
        gpus_elsewhere: GPUs of all worker nodes.
        reserved_cpus: CPUs withheld from Ray: one for learning if the job started on several hosts.
        are_fewer: Whether hosts are lost at this moment.
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
        """CPUs of the head node."""
        return self.cpus - sum(self.cpus_elsewhere)

    @property
    def own_gpus(self) -> int:
        """GPUs of the head node."""
        return self.gpus - self.gpus_elsewhere

    @property
    def free_cpus(self) -> list[int]:
        """CPUs of each host, head node first, that Ray's processes may use."""
        return [self.own_cpus - self.reserved_cpus, *self.cpus_elsewhere]
