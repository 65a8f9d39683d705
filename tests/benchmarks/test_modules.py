"""Every benchmark can be started: nobody runs them all, and what one imports may have moved."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import benchmarks

# What these import is in environments of their own: servers, and clients that clash with ours.
ELSEWHERE = re.compile(r"benchmarks\.peers\.apps\.(\w+_app|triton_model|(http|oip)_\w+)")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")
    if not ELSEWHERE.fullmatch(module.name)
]


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(name)
