"""`convoy models`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from convoy.client.control import ModelControl
from convoy.client.errors import InvalidRequest
from convoy.client.sync import ImageClient
from convoy.client.types import Model
from convoy.commands.output import print_table

TOKEN_VARIABLE = "CONVOY_CONTROL_TOKEN"
LIST_SECONDS, CHANGE_SECONDS = 10.0, 300.0

_HEADER = (
    "model",
    "version",
    "role",
    "default",
    "input",
    "classes",
    "precision",
    "provider",
    "accuracy",
)


def run(args: argparse.Namespace) -> int:
    """Print a row per model, or do what was asked."""
    if args.action is not None:
        return _change(args)
    if args.model_version is not None:
        raise InvalidRequest("models: --model-version is for promote")
    with ImageClient(args.server, timeout=args.timeout or LIST_SECONDS) as client:
        models = client.list_models()
    if args.json:
        for model in models:
            print(json.dumps(asdict(model)))
    else:
        print_table([_HEADER, *map(_row, models)], sys.stdout)
    return 0


def _change(args: argparse.Namespace) -> int:
    """Tell the server to load, unload, promote or roll back a model."""
    if args.name is None:
        raise InvalidRequest(f"models {args.action}: name the model")
    if args.model_version is not None and args.action != "promote":
        raise InvalidRequest(f"models {args.action}: --model-version is for promote")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise InvalidRequest(f"models {args.action}: put the server's token into {TOKEN_VARIABLE}")
    with ModelControl(args.server, token, timeout=args.timeout or CHANGE_SECONDS) as control:
        if args.action == "promote":
            state = control.promote(args.name, args.model_version)
        else:
            state = getattr(control, args.action)(args.name)
    if args.json:
        print(json.dumps(asdict(state)))
    elif state.live_version is None:
        print(f"{state.model}: not served any more")
    else:
        print(
            f"{state.model}: version {state.live_version} answers; "
            f"loaded: {', '.join(map(str, state.versions))}"
        )
    return 0


def _row(model: Model) -> tuple[str, ...]:
    accuracy = "" if model.test_accuracy is None else f"{model.test_accuracy:.2%}"
    if model.test_accuracy_interval is not None:
        low, high = (100 * bound for bound in model.test_accuracy_interval)
        accuracy += f" ({low:.2f}-{high:.2f})"
    return (
        model.name,
        " ".join([str(model.version), *model.version_labels]),
        model.role,
        "yes" if model.is_default else "",
        f"{model.height}x{model.width}x{model.channels}",
        str(len(model.labels)),
        model.precision,
        model.provider.removesuffix("ExecutionProvider"),
        f"{accuracy} {model.test_split or ''}".strip(),
    )
