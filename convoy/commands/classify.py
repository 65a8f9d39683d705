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

DEFAULT_TOP_K = 2


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
        top_k = _top_k(args.top_k, model)
        return _classify(client, paths, top_k, _writer(args, paths, model, top_k))


def _top_k(asked: int | None, model: Model) -> int:
    classes = len(model.labels)
    if asked is None:
        return min(DEFAULT_TOP_K, classes)
    if asked > classes:
        raise InvalidRequest(f"--top-k {asked}: {model.name} has {classes} classes")
    return asked


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


def _writer(args: argparse.Namespace, paths: list[str], model: Model, top_k: int) -> Writer:
    if args.json:
        return JsonWriter(sys.stdout)
    if args.csv:
        return CsvWriter(sys.stdout, top_k=top_k)
    return TableWriter(sys.stdout, paths=paths, labels=model.labels)
