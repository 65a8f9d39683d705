"""Rounds, and results as files: Markdown for people, JSON for programs.

Both say date, hardware, commit and command.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from benchmarks.processes import ROOT
from benchmarks.workloads import hardware
from training.runs import commit_of

T = TypeVar("T")

RESULTS = ROOT / "benchmarks" / "results"


def back_and_forth(contenders: Sequence[T], number: int) -> Sequence[T]:
    """In the order of that round, so that nobody always follows the same neighbour."""
    return contenders if number % 2 else contenders[::-1]


def median_ratio(ours: Sequence[float], theirs: Sequence[float], *, strict: bool = True) -> float:
    """Median of the ratios within each round: neighbours of a round share its noise.

    Both are by round. Unless `strict`, only the rounds that both have count.
    """
    pairs = zip(ours, theirs, strict=strict)
    return statistics.median(mine / other for mine, other in pairs)


def write(folder: Path, name: str, text: str, found: object) -> Path:
    """Print the text and write `<folder>/<date>-<name>.md` and `.json`.

    The name begins with the device where several can be measured. Returns: the path without its
    suffix.
    """
    now = datetime.now(UTC)
    module = Path(sys.argv[0]).relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    command = shlex.join(["python", "-m", module.removesuffix(".__main__"), *sys.argv[1:]])
    machine, commit = hardware(), commit_of(Path(__file__)) or "unknown"
    head = f"{now:%Y-%m-%d}, {machine}, commit {commit}\n\n    {command}\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y-%m-%d}-{name}"
    path.with_suffix(".md").write_text(f"{head}\n{text}\n")
    whole = {"date": f"{now:%Y-%m-%d}", "hardware": machine, "commit": commit}
    whole |= {"command": command, "found": found}
    path.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    print(f"{head}\n{text}\n\nwritten to {path}.md and .json")
    return path
