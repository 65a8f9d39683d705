"""Limits that every front sets, each in the words of its own library."""

from __future__ import annotations

# Calls at once before a front itself refuses any: far more than the queues of the models take, so
# that it is admission that refuses, with a reason and a pushback.
MAX_CALLS = 20_000
