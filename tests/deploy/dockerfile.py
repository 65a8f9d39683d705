"""Reads a Dockerfile as far as the tests need it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One FROM and what follows it."""

    image: str
    steps: tuple[tuple[str, str], ...]
    """(instruction, arguments)."""

    def all(self, instruction: str) -> list[str]:
        """The arguments of every such instruction, in order."""
        return [arguments for name, arguments in self.steps if name == instruction]

    @property
    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        pairs = (pair for line in self.all("ENV") for pair in shlex.split(line))
        return dict(pair.split("=", 1) for pair in pairs)


def read_dockerfile(path: Path) -> list[Stage]:
    """The stages in order; comments are left out and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    steps = [(name, arguments) for name, _, arguments in (line.partition(" ") for line in lines)]
    steps = [step for step in steps if step[0]]
    starts = [at for at, (name, _) in enumerate(steps) if name == "FROM"]
    return [
        Stage(steps[start][1].split()[0], tuple(steps[start + 1 : end]))
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]
