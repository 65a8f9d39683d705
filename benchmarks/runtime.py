"""What ONNX Runtime's options do on the CPU, without a server.

    python -m benchmarks.runtime [--rounds 3] [--seconds 0.4]

One option at a time differs from what the service sets (`service/session.py`): threads, spinning,
the memory arena, the optimisation of the graph, the plan of the memory. Batches of 1, 8 and 32
images follow each other without a pause; *alone* is one image at a time, each 20 ms after the one
before, and its processor time holds what threads do in between. Rounds are interleaved; figures are
their medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.bundles import NETWORKS, write_bundles
from benchmarks.reports import RESULTS, back_and_forth, median_ratio, write
from convoy.bundle import INPUT_NAME, OUTPUT_NAME, Bundle
from convoy.processors import processor_count
from service.devices import CPU, Device
from service.session import ON_CPU, session_options

ALONE_SECONDS = 0.02
CASES = {"alone": (1, ALONE_SECONDS), "1": (1, 0.0), "8": (8, 0.0), "32": (32, 0.0)}
"""Images in a batch, and the pause before each, in seconds."""
ERRORS = 3  # ONNX Runtime's number for the level


@dataclass(frozen=True)
class Variant:
    """The service's options but for some attributes and entries of ort.SessionOptions."""

    name: str
    attributes: Mapping[str, object] = field(default_factory=dict)
    entries: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> ort.SessionOptions:
        """What a session is made with."""
        options = session_options(Device(CPU), processor_count())
        for name, value in self.attributes.items():
            setattr(options, name, value)
        for name, text in self.entries.items():
            options.add_session_config_entry(name, text)
        return options


@dataclass(frozen=True)
class Timing:
    """Milliseconds a batch: of the clock, the median, and of the processors, the mean."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """The rounds of one network, variant and case."""

    network: str
    variant: str
    case: str
    to_service: float
    """Wall time over that of the service's options: median of the ratios within each round."""
    rounds: list[Timing]

    def median(self, name: str) -> float:
        """That field's median over the rounds."""
        return float(statistics.median(getattr(one, name) for one in self.rounds))


def variants() -> list[Variant]:
    """The service's own options first."""
    most, level = processor_count(), ort.GraphOptimizationLevel
    own_memory = {"session.use_env_allocators": "0"}
    return [
        Variant("the service's"),
        *(
            Variant(f"{count} of {most} threads", {"intra_op_num_threads": count})
            for count in range(1, most)
        ),
        Variant("threads spin", entries={"session.intra_op.allow_spinning": "1"}),
        Variant("an arena of its own", entries=own_memory),
        Variant("no arena", {"enable_cpu_mem_arena": False}, own_memory),
        Variant("graph: basic", {"graph_optimization_level": level.ORT_ENABLE_BASIC}),
        Variant("graph: extended", {"graph_optimization_level": level.ORT_ENABLE_EXTENDED}),
        Variant("no memory pattern", {"enable_mem_pattern": False}),
    ]


def measure(bundle: Bundle, variant: Variant, seconds: float) -> dict[str, Timing]:
    """Each case for about `seconds`."""
    # One session at a time, which ends with this call: threads of another that spin would take the
    # processors from it, and count as its processor time.
    session = ort.InferenceSession(bundle.model_path, variant.options(), providers=list(ON_CPU))
    noise, found = np.random.default_rng(0), {}
    for case, (size, pause) in CASES.items():
        images = noise.integers(0, 256, (size, *bundle.manifest.input.shape), np.uint8)
        work = partial(session.run, [OUTPUT_NAME], {INPUT_NAME: images})
        found[case] = timing(work, seconds, pause)
    return found


def timing(work: Callable[[], object], seconds: float, pause: float) -> Timing:
    """Repeat for about `seconds`, and once before, which plans and takes the memory."""
    work()
    walls: list[float] = []
    cpu, end = time.process_time(), time.perf_counter() + seconds
    while not walls or time.perf_counter() < end:
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        work()
        walls.append(time.perf_counter() - start)
    spent = time.process_time() - cpu
    return Timing(statistics.median(walls) * 1e3, spent / len(walls) * 1e3)


def compare(bundle: Bundle, rounds: int, seconds: float) -> list[Row]:
    """All variants on one network."""
    tried = variants()
    found: dict[str, list[dict[str, Timing]]] = {one.name: [] for one in tried}
    for number in range(rounds):
        for one in back_and_forth(tried, number):
            found[one.name].append(measure(bundle, one, seconds))
    walls = {
        (name, case): [one[case].wall for one in same]
        for name, same in found.items()
        for case in CASES
    }
    own = tried[0].name
    return [
        Row(
            bundle.manifest.name,
            name,
            case,
            median_ratio(walls[name, case], walls[own, case]),
            [one[case] for one in same],
        )
        for name, same in found.items()
        for case in CASES
    ]


def table(rows: list[Row]) -> str:
    """The rows as Markdown, the cases of a network and variant side by side."""
    heads = [f"{case}: ms | CPU ms | ratio" for case in CASES]
    lines = [f"| network | options | {' | '.join(heads)} |", f"|---|---|{'--:|' * 3 * len(CASES)}"]
    for network, variant in dict.fromkeys((row.network, row.variant) for row in rows):
        cells = [
            f"{row.median('wall'):,.2f} | {row.median('cpu'):,.2f} | {row.to_service:.2f}"
            for row in rows
            if (row.network, row.variant) == (network, variant)
        ]
        lines.append(f"| {network} | {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, write Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement, about")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    ort.set_default_logger_severity(ERRORS)  # it warns of each entry that is set anew
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for bundle in write_bundles(Path(folder), NETWORKS).values():
            found = compare(bundle, options.rounds, options.seconds)
            print(table(found), flush=True)
            rows += found
    text = (
        f"{options.rounds} interleaved rounds of about {options.seconds:g} s; batches of 1, 8 and "
        "32 without a pause, and 1 alone; ratio: wall time over that of the service's options"
    )
    write(options.out, "cpu-runtime", f"{text}\n\n{table(rows)}", [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
