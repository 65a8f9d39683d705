"""`convoy models`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from convoy.client.sync import ImageClient
from convoy.client.types import Model
from convoy.commands.output import print_table

_HEADER = ("model", "version", "default", "input", "classes", "precision", "provider", "accuracy")


def run(args: argparse.Namespace) -> int:
    """Print a row per model."""
    with ImageClient(args.server, timeout=args.timeout) as client:
        models = client.list_models()
    if args.json:
        for model in models:
            print(json.dumps(asdict(model)))
    else:
        print_table([_HEADER, *map(_row, models)], sys.stdout)
    return 0


def _row(model: Model) -> tuple[str, ...]:
    accuracy = "" if model.test_accuracy is None else f"{model.test_accuracy:.2%}"
    if model.test_accuracy_interval is not None:
        low, high = (100 * bound for bound in model.test_accuracy_interval)
        accuracy += f" ({low:.2f}-{high:.2f})"
    return (
        model.name,
        str(model.version),
        "yes" if model.is_default else "",
        f"{model.height}x{model.width}x{model.channels}",
        str(len(model.labels)),
        model.precision,
        model.provider.removesuffix("ExecutionProvider"),
        f"{accuracy} {model.test_split or ''}".strip(),
    )
