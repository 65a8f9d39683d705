"""Tests of the memory that a training keeps, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from training.memory import keep_freed_memory

if {keep}:
    keep_freed_memory()
np.ones(2**25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    """How many pages the kernel has to provide for 256 MiB that were freed just before."""
    program = FAULTS.format(keep=keep)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the setting")
def test_memory_that_was_freed_costs_no_page_faults() -> None:
    assert page_faults(keep=True) < 10 < page_faults(keep=False)
