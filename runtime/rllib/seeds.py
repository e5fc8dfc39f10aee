"""The seeds of a training: one for each env runner, and one for each start of the job; and PyTorch's own seeding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from runtime.environments.spec import EnvSpec
from runtime.settings.schema import JobConfig

_SEED_LIMIT = 2**31  # leaves room to add the number of an environment, for generators that take 32 bits


def derive_seed(seed: int, *words: int) -> int:
    """Derives a seed that is independent of all others derived from the same one.

    Args:
        seed: The job's seed.
        words: Numbers that identify the use of the seed, as an env runner's; where all are 0, it is the job's seed.
    """
    if not any(words):
        return seed
    # The count is part of the entropy, as SeedSequence ignores zeros at the end.
    return int(np.random.SeedSequence((seed, len(words), *words)).generate_state(1)[0]) % _SEED_LIMIT


def seed_start(config: JobConfig, env: EnvSpec, *, steps: int) -> tuple[JobConfig, EnvSpec]:
    """Seeds a start of the job, so that a job that resumes does not replay the episodes it began with.

    Args:
        config: The job's settings.
        env: The job's environment.
        steps: Environment steps taken before this start; 0 for the first one, which uses the job's seed itself.

    Returns:
        Config and environment with the seed of this start.
    """
    seed = derive_seed(config.algorithm.drawn_seed(), steps)
    if env.has_jobs_seed:
        env = replace(env, config={**env.config, "seed": seed})
    return config.replace({"config.seed": seed}), env


@contextlib.contextmanager
def without_dynamo() -> Iterator[None]:
    """Keeps PyTorch from importing its compiler in a block that seeds, which takes a second of every start.

    `torch.use_deterministic_algorithms`, which RLlib calls for a seed, imports it only to set an option of it (PyTorch
    2.13); `torch.set_deterministic_debug_mode` does the rest of the same.
    """
    before = torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms = _use_deterministic_algorithms
    try:
        yield
    finally:
        torch.use_deterministic_algorithms = before


def _use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    when_asked = "warn" if warn_only else "error"
    torch.set_deterministic_debug_mode(when_asked if mode else "default")
