"""Fits the number of env runners and learners to the hosts' CPUs and GPUs."""

from __future__ import annotations

from typing import Any

from runtime.cluster.machines import Machines
from runtime.errors import UserError
from runtime.rllib.settings import RLlibSettings
from runtime.settings.schema import JobConfig


def fit_processes(config: JobConfig, machines: Machines) -> tuple[dict[str, Any], list[str]]:
    """Fits the processes of a job to its hosts.

    Returns:
        Settings to change, by their path below rl.training; and a note of each change.

    Raises:
        UserError: More GPUs are asked for than there are.
    """
    settings = RLlibSettings.of(config)
    changes: dict[str, Any] = {}
    notes: list[str] = []
    runners = settings.num_env_runners
    most = most_runners(settings, machines)
    if isinstance(runners, int) and runners > most:
        changes["config.num_env_runners"] = most
        notes.append(f"{runners} env runners asked for, {most} used: {_describe_cpus(machines)}")
    if runners == 0 and machines.hosts > 1:
        notes.append("rl.training.config.num_env_runners is 0: the other hosts have nothing to do")
    return changes | _fit_gpus(config, machines, notes), notes


def _fit_gpus(config: JobConfig, machines: Machines, notes: list[str]) -> dict[str, Any]:
    """Configures the learners for the GPUs that are available."""
    settings = RLlibSettings.of(config)
    gpus = settings.num_gpus_per_learner
    changes: dict[str, Any] = {}
    if gpus > machines.gpus and machines.are_fewer:
        changes["config.num_gpus_per_learner"] = float(machines.gpus)
        notes.append(f"{gpus:g} GPUs asked for, {machines.gpus} used: hosts have been lost")
    elif gpus > machines.gpus:
        source = config.sources["config.num_gpus_per_learner"]
        raise UserError(
            f"rl.training.config.num_gpus_per_learner: got {gpus:g} from {source}; expected at most "
            f"{machines.gpus}, the GPUs that there are. Leave it out, or choose an instance with GPUs."
        )
    if machines.gpus and "num_gpus_per_learner" not in settings.given():
        changes["config.num_gpus_per_learner"] = 1.0
    if machines.gpus and not machines.own_gpus and not settings.num_learners:
        changes["config.num_learners"] = 1
        notes.append("learning in a process of its own, on a host with a GPU, as the first host has none")
    return changes


def _describe_cpus(machines: Machines) -> str:
    if machines.hosts == 1:
        return f"this machine has {machines.cpus} CPUs"
    return f"{machines.hosts} hosts have {machines.cpus} CPUs, of which the first host learns on one"


def most_runners(settings: RLlibSettings, machines: Machines) -> int:
    """Counts the remote env runners that Ray can place; it would wait forever for any more."""
    of_learner = settings.num_cpus_per_learner
    if of_learner is None:  # as RLlib has it
        of_learner = 0 if settings.num_gpus_per_learner else 1
    learners = settings.num_learners * of_learner
    each = settings.num_cpus_per_env_runner or 1e-9
    free = sorted(machines.free_cpus)
    return max(0, sum(int(cpus / each) for cpus in free[:-1]) + int((free[-1] - learners) / each))
