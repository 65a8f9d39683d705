"""How many processors a process may use, by folders laid out as the kernel shows cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convoy.processors import processor_count

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
V1 = "5:memory:/\n4:cpu,cpuacct:/docker/1f\n1:cpuset:/\n"
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A folder with `proc/self/cgroup`, and `files` below `sys/fs/cgroup`."""
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": groups, **texts}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}),
        ("0::/\n", {"cpu.max": "100000 100000\n"}),
        ("0::/pod/app\n", {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "100000 100000\n"}),
        ("0::/pod/app\n", {"pod/app/cpu.max": "9 10\n", "pod/cpu.max": "9000000 10\n"}),
        ("0::/docker/1f\n", {"cpu.max": "20000 100000\n"}),
        (
            V1,
            {
                f"cpu,cpuacct/docker/1f/{QUOTA}": "100000\n",
                f"cpu,cpuacct/docker/1f/{PERIOD}": "100000\n",
            },
        ),
        (V1, {f"cpu,cpuacct/{QUOTA}": "50000\n", f"cpu,cpuacct/{PERIOD}": "100000\n"}),
    ],
    ids=["v2 half", "v2 one", "v2 parent", "v2 own", "v2 host path", "v1", "v1 host path"],
)
def test_a_quota_of_one_processor_or_less_is_one(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    assert processor_count(machine(tmp_path, groups, files)) == 1


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("", {}),
        ("0::/\n", {}),
        ("0::/\n", {"cpu.max": "max 100000\n"}),
        ("0::/\n", {"cpu.max": "99999900000 100000\n"}),
        ("0::/\n", {"cpu.max": "garbage\n"}),
        ("3:memory:/\n", {f"memory/{QUOTA}": "1\n", f"memory/{PERIOD}": "1\n"}),
        ("3:cpu:/\n", {f"cpu/{QUOTA}": "-1\n", f"cpu/{PERIOD}": "100000\n"}),
    ],
    ids=["no cgroups", "no file", "v2 max", "v2 large", "v2 garbage", "v1 memory", "v1 none"],
)
def test_without_a_quota_all_processors_count(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    assert processor_count(machine(tmp_path, groups, files)) == ALL


def test_a_machine_without_cgroups_has_all_its_processors(tmp_path: Path) -> None:
    assert processor_count(tmp_path) == ALL


@pytest.mark.skipif(ALL < 2, reason="needs two processors")
def test_part_of_a_processor_counts_as_a_whole_one(tmp_path: Path) -> None:
    assert processor_count(machine(tmp_path, "0::/\n", {"cpu.max": "150000 100000\n"})) == 2


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= processor_count() <= ALL
