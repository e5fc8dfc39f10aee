"""Refuses settings that need more memory than the machine has, before anything is allocated.

Each is a lower bound: what passes may still not fit, what does not pass cannot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import Problems
from runtime.settings.schema import ROOT, JobConfig

_FLOAT = 4
# Columns of a step in a batch beside observation and action: probability, reward, advantage, value target.
_COLUMNS = 4
# Bytes of an environment with its wrappers: CartPole has 3.9 kB, Pendulum 4.3 kB.
_ENVIRONMENT = 2048
# Bytes of a process with RLlib and PyTorch: an env runner of CartPole has 360 MiB of its own.
_PROCESS = 256 * 2**20
# Copies of a weight in training: itself, its gradient, and Adam's two moments.
_WEIGHT = 4 * _FLOAT


@dataclass(frozen=True)
class Room:
    """The memory and CPUs of a job's hosts.

    Attributes:
        memory_bytes: Memory of each host, in bytes.
        cpus: CPUs of each host.
        hosts: Number of hosts.
    """

    memory_bytes: float
    cpus: int = 1
    hosts: int = 1


def check_sizes(values: Mapping[str, Any], sources: Mapping[str, str], problems: Problems, *, room: Room) -> None:
    """Notes every setting that needs more memory than there is.

    Args:
        values: Path below rl.training to value.
        sources: Path to the name of the source that set it.
        problems: Receives a problem for each such setting.
        room: Memory and CPUs of the hosts.
    """
    needed = {**_of_rollouts(values), **_of_network(values)}
    for path, needed_bytes in needed.items():
        _check(path, needed_bytes, room.memory_bytes, values, sources, problems)
    batch, epochs = values.get("config.train_batch_size", 0), values.get("config.num_epochs", 0)
    if batch * _step_bytes() <= room.memory_bytes:  # else it is the batch that does not fit
        # The order of the minibatches of every epoch; the larger of the two numbers is the one to reduce.
        larger = "config.num_epochs" if epochs > batch else "config.train_batch_size"
        _check(larger, epochs * batch * 8, room.memory_bytes, values, sources, problems)
    runners = values.get("config.num_env_runners")
    each = values.get("config.num_cpus_per_env_runner", 1)
    if isinstance(runners, int):
        started = min(runners, room.cpus * room.hosts / each) if each else runners
        _check("config.num_env_runners", started * _PROCESS, room.memory_bytes * room.hosts, values, sources, problems)


def check_batch(
    config: JobConfig,
    *,
    observation_size: int,
    action_size: int,
    room: Room,
    env_bytes: float = _ENVIRONMENT,
    stored_bytes: int = _FLOAT,
) -> None:
    """Checks a batch and a replay buffer, whose observations and actions are known, and an env runner's environments.

    Args:
        config: The job's settings.
        observation_size: Numbers in an observation.
        action_size: Numbers in an action.
        room: Memory of the hosts.
        env_bytes: Memory of one environment.
        stored_bytes: Bytes of each number of an observation in a replay buffer.

    Raises:
        UserError: One of them does not fit into the memory.
    """
    problems = Problems()
    path = "config.train_batch_size"
    values = config.values()
    steps = values.get(path, 0) / max(1, values.get("config.num_learners", 0))
    needed_bytes = steps * _step_bytes(observation_size, action_size)
    _check(path, needed_bytes, room.memory_bytes, values, config.sources, problems)
    path = "config.buffer_size"
    stored = min(values.get(path, 0), values.get("stop.timesteps_total") or math.inf)  # it fills as the job samples
    needed_bytes = stored * (observation_size * stored_bytes + _step_bytes(0, action_size))
    _check(path, needed_bytes, room.memory_bytes, values, config.sources, problems)
    path = "config.num_envs_per_env_runner"
    _check(path, values.get(path, 0) * env_bytes, room.memory_bytes, values, config.sources, problems)
    problems.raise_if_any()


def _step_bytes(observation_size: int = 1, action_size: int = 1) -> int:
    return _FLOAT * (observation_size + action_size + _COLUMNS)


def _of_rollouts(values: Mapping[str, Any]) -> dict[str, float]:
    learners = max(1, values.get("config.num_learners", 0))
    bytes_of_one = {
        "config.train_batch_size": _step_bytes() / learners,
        "config.buffer_size": _step_bytes(),
        "config.rollout_fragment_length": _step_bytes(),
        "config.model.max_seq_len": _step_bytes(),
        "config.num_envs_per_env_runner": _ENVIRONMENT,
        "config.episodes_per_iteration": _ENVIRONMENT,
    }
    return {path: values[path] * each for path, each in bytes_of_one.items() if isinstance(values.get(path), int)}


def _of_network(values: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for path in ("config.model.fcnet_hiddens", "config.model.head_fcnet_hiddens"):
        widths = [1, *(values.get(path) or []), 1]
        found[path] = _WEIGHT * sum(a * b for a, b in itertools.pairwise(widths))
    found["config.model.lstm_cell_size"] = _WEIGHT * 4 * (values.get("config.model.lstm_cell_size") or 0) ** 2
    channels = 1
    weights = 0
    for filters, kernel, *_ in values.get("config.model.conv_filters") or []:
        area = math.prod(kernel) if isinstance(kernel, list) else kernel**2
        weights += channels * filters * area
        channels = filters
    found["config.model.conv_filters"] = _WEIGHT * weights
    return found


def _check(
    path: str,
    needed_bytes: float,
    memory_bytes: float,
    values: Mapping[str, Any],
    sources: Mapping[str, str],
    problems: Problems,
) -> None:
    if needed_bytes <= memory_bytes:
        return
    problems.add(
        ROOT + path,
        values[path],
        sources.get(path, "the defaults"),
        expected=f"what fits into the memory of {_in_gib(memory_bytes)}; this takes {_in_gib(needed_bytes)} at least",
    )


def _in_gib(count: float) -> str:
    gib = count / 2**30
    return f"{gib:.3g} GiB" if gib < 1e6 else f"{gib:.1e} GiB"
