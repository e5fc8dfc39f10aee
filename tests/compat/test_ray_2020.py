"""`ray.init` as scripts of 2020 call it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from runtime.compat.ray_2020 import patch


def test_arguments_that_ray_has_dropped_are_left_out_and_ours_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    """`_temp_dir` and `_node_ip_address` are keywords that Ray's own signature does not name."""
    given: dict[str, Any] = {}

    def init(address: str | None = None, *, num_cpus: int | None = None, **kwargs: Any) -> None:
        given.update(kwargs, num_cpus=num_cpus)

    ray = ModuleType("ray")
    ray.init = init  # type: ignore[attr-defined]  # a module in the place of Ray's
    patch(ray)
    ray.init(num_cpus=2, redis_max_memory=1, _temp_dir="/tmp/ray")
    assert given == {"num_cpus": 2, "_temp_dir": "/tmp/ray", "include_dashboard": False}
    assert capsys.readouterr().err == "smrl: ray.init no longer takes redis_max_memory; left out\n"
