"""CPUs, GPUs and memory within a container's limits, by either version of cgroups."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import psutil
import pytest

from runtime.container.hardware import count_cpus, count_gpus, count_oom_kills, measure_free_memory, measure_memory

TOTAL = psutil.virtual_memory().total
ALL_CPUS = len(os.sched_getaffinity(0))


def make_cgroup(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000000 100000"}, ALL_CPUS),
        ({"cpu.max": "max 100000"}, ALL_CPUS),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, ALL_CPUS),
        ({}, ALL_CPUS),
    ],
)
def test_cpus_are_limited_by_the_quota(files: dict[str, str], cpus: int, tmp_path: Path) -> None:
    assert count_cpus(make_cgroup(tmp_path, files)) == cpus


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({"memory.events": "low 0\nhigh 0\nmax 31\noom 2\noom_kill 2\noom_group_kill 0"}, 2),
        ({"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3"}, 3),
        ({"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0"}, 0),  # kernels before 4.13
        ({}, 0),
    ],
)
def test_kills_for_memory_are_counted(files: dict[str, str], kills: int, tmp_path: Path) -> None:
    assert count_oom_kills(make_cgroup(tmp_path, files)) == kills


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": str(2**28), "memory.current": str(2**27)}, 2**28),
        ({"memory.max": "max", "memory.current": str(2**27)}, None),
        ({"memory/memory.limit_in_bytes": str(2**28), "memory/memory.usage_in_bytes": str(2**27)}, 2**28),
        # What version 1 shows without a limit.
        ({"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "4096"}, None),
        ({}, None),
    ],
)
def test_memory_is_limited_by_the_cgroup(files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    cgroup = make_cgroup(tmp_path, files)
    assert measure_memory(cgroup) == (TOTAL if limit is None else limit)
    if limit is None:
        assert 0 < measure_free_memory(cgroup) <= TOTAL
    else:
        assert measure_free_memory(cgroup) == 2**27


def test_gpus_are_counted_by_the_toolkit_or_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SM_NUM_GPUS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus() == 0
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A10G (UUID: GPU-1)'\necho 'GPU 1: A10G (UUID: GPU-2)'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert count_gpus() == 2
    monkeypatch.setenv("SM_NUM_GPUS", "4")
    assert count_gpus() == 4
