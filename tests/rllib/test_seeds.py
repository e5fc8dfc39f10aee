from __future__ import annotations

import itertools

from runtime.rllib.seeds import derive_seed


def test_no_two_parts_of_a_job_have_one_seed() -> None:
    starts = [(steps,) for steps in range(50)]
    runners = [(worker, number) for worker in range(1, 20) for number in range(5)]
    seeds = [derive_seed(7, *words) for words in itertools.chain(starts, runners)]
    assert len(set(seeds)) == len(seeds)
    assert derive_seed(7, 0) == derive_seed(7, 0, 0) == 7
