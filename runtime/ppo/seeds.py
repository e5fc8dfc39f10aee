"""Seeds of a training's parts: what each env runner begins with, and each start of a job."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.environments.spec import EnvSpec
from runtime.settings.schema import JobConfig

_MOST = 2**31  # of a seed with the number of an environment added, every generator takes it


def derive_seed(seed: int, *words: int) -> int:
    """A part's own seed: the job's where all words are 0, else one far from those of all other parts.

    Args:
        seed: The job's.
        words: What tells the part from others, as the number of its env runner.
    """
    if not any(words):
        return seed
    # With their number: a sequence of words is as one with zeros at its end.
    return int(np.random.SeedSequence((seed, len(words), *words)).generate_state(1)[0]) % _MOST


def seed_start(config: JobConfig, env: EnvSpec, *, steps: int) -> tuple[JobConfig, EnvSpec]:
    """Config and environment with the seed of a start of the job: one that resumes replays no episodes.

    Args:
        config: The job's.
        env: Its environment.
        steps: Environment steps before; 0 for the first start, which has the job's seed itself.
    """
    seed = derive_seed(config.algorithm.drawn_seed(), steps)
    if env.has_jobs_seed:
        env = replace(env, config={**env.config, "seed": seed})
    return config.replace({"config.seed": seed}), env
