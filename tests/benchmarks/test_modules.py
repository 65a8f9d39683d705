"""Every benchmark can be started: nobody runs them all, and what one imports may have moved."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import benchmarks

# They import the servers that they run in, each in an environment of its own.
ELSEWHERE = "benchmarks.peers.apps."
MODULES = [
    module.name
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")
    if not module.name.startswith(ELSEWHERE)
]


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(name)
