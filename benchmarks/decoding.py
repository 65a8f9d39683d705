"""What does a JPEG cost until it is the pixels of a network's input?

    python -m benchmarks.decoding [--rounds 15] [--seconds 0.1]

One thread, processor time. *Plain* decodes all of the file with Pillow and then calls `resize` with
its defaults (bicubic, the whole image), which is what one writes first; *draft* is what the other
servers are measured with: Pillow, which has libjpeg decode at reduced scale. The ways take turns in
one process that keeps the memory it frees, as the service's decoding processes do; figures are
medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers.task import pillow
from benchmarks.reports import RESULTS, back_and_forth, median_ratio, write
from benchmarks.workloads import Decoder, photo, plain_pillow
from convoy.imaging import InputSpec, decode
from service.memory import reuse_freed_memory

OURS = "convoy"
WAYS: dict[str, Decoder] = {"plain": plain_pillow, "draft": pillow, OURS: decode}
# Width and height of the photo, side of the input.
CASES = (
    (32, 32, 32),
    (500, 375, 32),
    (500, 375, 224),
    (1600, 1200, 224),
    (4000, 3000, 32),
    (4000, 3000, 224),
)


@dataclass(frozen=True)
class Row:
    """One photo to one size; microseconds of processor time an image, by way and round."""

    width: int
    height: int
    side: int
    microseconds: dict[str, list[float]]

    def times_ours(self, way: str) -> float:
        """What another way costs over what ours does: median of the ratios within each round."""
        return median_ratio(self.microseconds[way], self.microseconds[OURS])


def cost(way: Decoder, data: bytes, spec: InputSpec, seconds: float) -> float:
    """Median microseconds of an image, repeated for about so many seconds."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        start = time.thread_time()
        way(data, spec)
        found.append((time.thread_time() - start) * 1e6)
    return statistics.median(found)


def measure(width: int, height: int, side: int, rounds: int, seconds: float) -> Row:
    """All ways in turn."""
    data, spec = photo(width, height), InputSpec(height=side, width=side, channels=3)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds):
        for name in back_and_forth(list(WAYS), number):
            found[name].append(cost(WAYS[name], data, spec, seconds))
    return Row(width, height, side, found)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    others = [name for name in WAYS if name != OURS]
    heads = " | ".join(f"{name}, us | over {OURS}" for name in others)
    lines = [
        f"| JPEG | input | {OURS}, us | {heads} |",
        f"|---|--:|{'--:|' * (2 * len(others) + 1)}",
    ]
    for row in rows:
        cells = [f"{statistics.median(row.microseconds[OURS]):,.0f}"]
        for name in others:
            cells += [
                f"{statistics.median(row.microseconds[name]):,.0f}",
                f"{row.times_ours(name):.2f}",
            ]
        lines.append(f"| {row.width}x{row.height} | {row.side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, write Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each measurement, about")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    reuse_freed_memory()
    rows = [measure(*case, options.rounds, options.seconds) for case in CASES]
    text = f"{options.rounds} interleaved rounds of about {options.seconds:g} s or one image"
    write(options.out, "decoding", f"{text}\n\n{table(rows)}", [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
