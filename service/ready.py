"""For programs that start `convoy-serve` as a process: when it answers, and where."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from service.errors import StartupError

Event = dict[str, Any]


def wait_until_ready(log: Iterable[str]) -> list[Event]:
    """Read the lines of its stderr up to the event `ready`, which names both addresses.

    Whoever calls must go on reading: a pipe that nobody reads stops the service once it is full.

    Returns: all events, `ready` the last; a line that is no JSON is the event of that name.
    Raises: StartupError with its last words, where it ends before.
    """
    events: list[Event] = []
    for line in log:
        events.append(json.loads(line) if line.startswith("{") else {"event": line.strip()})
        if events[-1]["event"] == "ready":
            return events
    raise StartupError(events[-1]["event"] if events else "it ended without a word")
