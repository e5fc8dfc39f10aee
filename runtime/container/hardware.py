"""The CPUs, GPUs and memory that this process may use, by the machine and by its container's limits.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_NVIDIA_SMI_TIMEOUT_S = 20


def count_cpus(cgroup: Path = _CGROUP) -> int:
    """Counts CPUs by affinity and cgroup quota; SM_NUM_CPUS counts the host's and is wrong in a limited container.

    Args:
        cgroup: Mount point of the cgroup file system.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if not quota:  # cgroup v1
        quota, period = _read(cgroup / "cpu/cpu.cfs_quota_us"), _read(cgroup / "cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit():  # "max" or -1 where there is no limit
        count = min(count, max(1, int(quota) // int(period)))
    return count


def count_gpus() -> int:
    """Counts GPUs: as SageMaker's toolkit did (SM_NUM_GPUS), or as NVIDIA's driver lists them without a toolkit."""
    counted = os.environ.get("SM_NUM_GPUS")
    if counted is not None:
        return int(counted) if counted.isdigit() else 0
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no driver, no GPU
        command = ["nvidia-smi", "--list-gpus"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True)
        return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return 0


def measure_memory(cgroup: Path = _CGROUP) -> float:
    """Measures the memory in bytes that this process may use, limited by the machine and the cgroup.

    Args:
        cgroup: Mount point of the cgroup file system.
    """
    return min(float(psutil.virtual_memory().total), _memory_limit(cgroup))


def measure_free_memory(cgroup: Path = _CGROUP) -> float:
    """Measures the memory in bytes that is still free, limited by the machine and the cgroup.

    Args:
        cgroup: Mount point of the cgroup file system.
    """
    used = _read(cgroup / "memory.current") or _read(cgroup / "memory/memory.usage_in_bytes")
    return min(float(psutil.virtual_memory().available), _memory_limit(cgroup) - float(used or 0))


def count_oom_kills(cgroup: Path = _CGROUP) -> int:
    """Processes of this cgroup that the kernel has killed as they needed more memory than the limit.

    Args:
        cgroup: Where the cgroup file system is mounted.
    """
    text = _read(cgroup / "memory.events") or _read(cgroup / "memory/memory.oom_control")
    counts = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    return int(counts.get("oom_kill", 0))


def _memory_limit(cgroup: Path) -> float:
    limit = _read(cgroup / "memory.max") or _read(cgroup / "memory/memory.limit_in_bytes")
    return float(limit) if limit.isdigit() else math.inf


def _read(path: Path) -> str:
    """Reads a cgroup's file; empty if this version of cgroups does not have it."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
