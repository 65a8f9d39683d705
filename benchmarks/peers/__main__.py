"""Other servers beside this one, the same files, photos and load, side by side in one run.

    make bench-peers      (or: python -m benchmarks.peers [--rounds N] [--seconds S] [--only NAME])

Triton (its own binary, python backend), Mosec, MLServer, LitServe and Ray Serve, each in an
environment of its own under .cache/peers, which this command makes; one that cannot be installed is
left out, with the reason. All run the same ONNX files in the same ONNX Runtime and decode with the
same Pillow calls; only this service decodes its own way. Each batches dynamically and is tried with
a few settings before, per workload; the fastest is measured.

Rounds are interleaved, and every measurement starts its server anew: nobody idles beside the one
that is measured. Before and after each load a real client holds the answer against bare ONNX
Runtime. The load comes from a C client (h2load) on the same processors; it reads no gRPC status, so
failed calls are counted by the size of the answers. Figures are medians of the rounds.

`application` is a Python program with 64 coroutines that send one image each through the stock
client: convoy.AsyncImageClient, tritonclient.grpc.aio, aiohttp.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.h2load import require_h2load
from benchmarks.peers.environments import Unavailable
from benchmarks.peers.measure import Round, measure, measure_bare
from benchmarks.peers.peer import Peer
from benchmarks.peers.report import document, table
from benchmarks.peers.servers import PEERS, Ours, fronts
from benchmarks.peers.task import Setting, Task, WrongAnswer
from benchmarks.processes import heed_sigterm
from benchmarks.reports import RESULTS, back_and_forth, write
from benchmarks.workloads import workloads

WORKLOADS = 3  # of those that `make bench` has: raw and JPEG to the small CNN, JPEG to ResNet-18
TRIAL_SECONDS = 1.0

Rounds = dict[str, list[Round]]


def install(names: list[str]) -> tuple[list[Peer], dict[str, str]]:
    """The peers of these names, and why the others are left out."""
    found: list[Peer] = []
    missing = {}
    for kind in PEERS:
        if kind.name in names:
            try:
                found.append(kind())
            except Unavailable as reason:
                missing[kind.name] = str(reason)
    return found, missing


def fastest(peer: Peer, task: Task, seconds: float) -> Setting:
    """Try its settings for a moment each."""
    tried = peer.settings()
    if len(tried) == 1:
        return tried[0]
    rates = [measure(peer, task, one, seconds, clients=False).rate for one in tried]
    return tried[rates.index(max(rates))]


def compare(
    peers: list[Peer], task: Task, rounds: int, seconds: float
) -> tuple[Rounds, dict[str, Setting], dict[str, str]]:
    """Measure one workload. Returns: rounds and settings by name, and who failed at it, and how."""
    found: Rounds = defaultdict(list)
    chosen: dict[str, Setting] = {}
    failed: dict[str, str] = {}

    def attempt(peer: Peer) -> None:
        try:
            if peer.name not in chosen:
                chosen[peer.name] = fastest(peer, task, min(TRIAL_SECONDS, seconds))
            else:
                found[peer.name].append(
                    measure(peer, task, chosen[peer.name], seconds, clients=True)
                )
        except (SystemExit, WrongAnswer, subprocess.SubprocessError) as error:
            failed[peer.name] = str(error)
            print(f"{task.load.name}: {peer.name}: {error}", file=sys.stderr, flush=True)

    for number in range(rounds + 1):  # the first only chooses settings
        if number:
            for bare in task.bare():
                found[bare.name].append(measure_bare(bare, seconds))
        for peer in back_and_forth(peers, number):
            if peer.name not in failed:
                attempt(peer)
    return found, chosen, failed


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [kind.name for kind in PEERS]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load, about")
    parser.add_argument("--only", action="append", choices=names, help="default: all")
    parser.add_argument("--workloads", type=int, default=WORKLOADS, help="the first so many")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.only = options.only or names
    return options


def main() -> None:
    """Install, measure, write Markdown and JSON."""
    from benchmarks.bundles import write_bundles  # PyTorch: slow to import

    options = parse()
    require_h2load()
    heed_sigterm()
    peers, missing = install(options.only)
    peers += [Ours(front) for front in fronts()]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        loads = workloads()[: options.workloads]
        bundles = {
            name: write_bundles(Path(folder, name), [name])[name]
            for name in {load.network for load in loads}
        }
        for load in loads:
            task = Task(load, bundles[load.network])
            results[load.name] = compare(peers, task, options.rounds, options.seconds)
            print(table({load.name: results[load.name]}), flush=True)
    versions = {peer.name: peer.version for peer in peers}
    text, found = document(results, versions, missing, options.rounds, options.seconds)
    write(options.out, "cpu-peers", text, found)


if __name__ == "__main__":
    main()
