"""How many processors this process may use, which in a container is not what the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_MOUNT = Path("sys/fs/cgroup")


def processor_count(root: Path = Path("/")) -> int:
    """Processors that this process can keep busy: at least 1, and 2 for a quota of 1.5.

    The least of what its affinity and the CPU quotas of its cgroup and of those around it allow.
    `root` is the folder that holds `proc` and `sys`.
    """
    quotas = [math.ceil(quota) for quota in _quotas(root)]
    return max(1, min([_affinity(), *quotas]))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """CPU quotas in processors, of cgroups v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`)."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mount = root / _MOUNT / controllers
            # In a container the path may be that of the host, and the container's own folder be
            # the mount itself: what is not there says nothing.
            group = PurePosixPath(path.lstrip("/"))
            for folder in (group, *group.parents):
                yield from _quota(mount / folder, v2=not controllers)


def _quota(folder: Path, *, v2: bool) -> Iterator[float]:
    files = ("cpu.max",) if v2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    with suppress(OSError, ValueError):  # no such file, or "max": no quota
        quota, period = (
            int(part) for file in files for part in (folder / file).read_text().split()
        )
        if quota > 0 and period > 0:
            yield quota / period
