"""Whether the modules that every request passes through are compiled (setup.py)."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec


def is_compiled() -> bool:
    """Whether they are; imports none of them."""
    found = find_spec("service.carrier")
    return found is not None and str(found.origin).endswith(tuple(EXTENSION_SUFFIXES))
