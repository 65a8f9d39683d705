"""`convoy classify`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from convoy.client.errors import ClientError, InvalidRequest
from convoy.client.sync import ImageClient
from convoy.client.types import Model
from convoy.commands.output import CsvWriter, JsonWriter, Progress, TableWriter, Writer
from convoy.commands.paths import expand


def run(args: argparse.Namespace) -> int:
    """Print a row per image. Returns: 1 where one failed."""
    paths = expand(args.paths)
    with ImageClient(
        args.server,
        model=args.model,
        version=args.model_version,
        priority=args.priority,
        timeout=args.timeout,
    ) as client:
        model = client.get_model()
        if args.top_k > len(model.labels):
            raise InvalidRequest(
                f"--top-k {args.top_k}: {model.name} has {len(model.labels)} classes"
            )
        return _classify(client, paths, args.top_k, _writer(args, paths, model))


def _classify(client: ImageClient, paths: list[str], top_k: int, writer: Writer) -> int:
    failed = 0
    progress = Progress(len(paths), sys.stderr)
    with closing(client.classify_stream(paths, top_k=top_k)) as outcomes:
        for done, (path, outcome) in enumerate(zip(paths, outcomes, strict=True), 1):
            failed += isinstance(outcome, ClientError)
            progress.clear()
            writer.write(path, outcome)
            progress.update(done)
    progress.clear()
    if failed:
        print(f"convoy: {failed} of {len(paths)} images failed", file=sys.stderr)
    return 1 if failed else 0


def _writer(args: argparse.Namespace, paths: list[str], model: Model) -> Writer:
    if args.json:
        return JsonWriter(sys.stdout)
    if args.csv:
        return CsvWriter(sys.stdout, top_k=args.top_k)
    return TableWriter(sys.stdout, paths=paths, labels=model.labels)
