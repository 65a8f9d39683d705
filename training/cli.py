"""The command `convoy-train`: fit a network, export it, measure a bundle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convoy.arguments import count, whole
from convoy.console import complain, run_command
from convoy.errors import ConvoyError
from training.bundle_commands import add_compare, add_data, add_evaluate, add_report
from training.import_command import add_import
from training.interrupts import termination_interrupts

if TYPE_CHECKING:
    from convoy.bundle import Bundle

NAME = "convoy-train"
BAD_INPUT = 2
INTERRUPTED = 130  # as a shell reports SIGINT, and here for SIGTERM too


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(NAME, lambda: _run(argv), unwritable=BAD_INPUT)


def _run(argv: Sequence[str] | None) -> int:
    arguments = make_parser().parse_args(argv)
    try:
        with termination_interrupts():
            code: int | None = arguments.command(arguments)
    except ConvoyError as error:
        complain(NAME, str(error))
        return BAD_INPUT
    except ModuleNotFoundError as error:
        complain(NAME, f"{error.name} is missing: pip install '.[train]'")
        return BAD_INPUT
    except OSError as error:
        if error.filename is None:  # of the output, perhaps
            raise
        complain(NAME, f"{error.filename}: {error.strerror}")
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return code or 0


def make_parser() -> argparse.ArgumentParser:
    """The command line, without anything heavy behind it."""
    parser = argparse.ArgumentParser(
        prog=NAME, description="Train image classifiers and write model bundles."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_fit(commands.add_parser("fit", help="train a network and export it"))
    _add_export(commands.add_parser("export", help="write a bundle from a run's best epoch"))
    add_import(commands.add_parser("import", help="make a bundle of another's ONNX classifier"))
    add_evaluate(commands.add_parser("evaluate", help="measure a bundle on test images"))
    add_compare(commands.add_parser("compare", help="say whether a bundle is better than another"))
    add_report(commands.add_parser("report", help="make a bundle's page again"))
    _add_preview(commands.add_parser("preview", help="draw training images and augmented ones"))
    _add_summary(commands.add_parser("summary", help="print a network layer by layer"))
    _add_runs(commands.add_parser("runs", help="list the runs of a folder"))
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_fit)
    _add_recipe(parser)
    _add_outputs(parser)
    parser.add_argument(
        "--run", "--run-dir", type=Path, metavar="DIR",
        help="the run's folder (torchrun understands only the longer name)",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on with the run of --run")
    parser.add_argument(
        "--workers", type=whole, metavar="N",
        help="processes that prepare batches (default: none where the images fit into memory, "
        "unless they are changed one by one beside a GPU)",
    )  # fmt: skip
    parser.add_argument("--download", action="store_true", help="fetch the data set if missing")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a shipped recipe's name or the path of a TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change one key of the recipe; may be repeated",
    )  # fmt: skip


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_export)
    parser.add_argument("run", type=Path, help="the run's folder")
    _add_outputs(parser)
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32",
        help="arithmetic of the network: fp16 halves the file, int8 quarters it and is faster",
    )  # fmt: skip


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument(
        "--models", type=Path, metavar="DIR", default=Path("models"),
        help="where the bundle goes, as NAME/VERSION (default: models)",
    )  # fmt: skip
    parser.add_argument("--name", help="the bundle's name (default: the run's, else the recipe's)")
    parser.add_argument(
        "--golden", type=Path, metavar="DIR",
        help="folder of image files to prove the bundle with (default: eight test images)",
    )  # fmt: skip


def _add_preview(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_preview)
    _add_recipe(parser)
    add_data(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="a PNG file")
    parser.add_argument("--images", type=count, default=8, help="rows (default: 8)")
    parser.add_argument("--versions", type=count, default=6, help="of each (default: 6)")
    parser.add_argument("--download", action="store_true", help="fetch the data set if missing")


def _add_summary(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_summary)
    _add_recipe(parser)
    parser.add_argument(
        "--classes", type=count, metavar="N",
        help="how many, where only the images know (default: 2)",
    )  # fmt: skip


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_runs)
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", default=Path("runs"))
    parser.add_argument(
        "--sort", metavar="KEY", default="started",
        help="a column's name; best or newest first (default: started)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for machines")


def _fit(arguments: argparse.Namespace) -> None:
    from training.fit import fit

    if (bundle := fit(arguments)) is not None:
        _show(bundle)


def _export(arguments: argparse.Namespace) -> None:
    from training.datasets import open_source, split_training
    from training.export import export_run
    from training.runs import Run

    run = Run.open(arguments.run)
    source = open_source(run.recipe, arguments.data or Path(run.environment["data"]))
    bundle = export_run(
        run, source, split_training(source, run.recipe), arguments.models,
        name=arguments.name, golden=arguments.golden, precision=arguments.precision,
    )  # fmt: skip
    _show(bundle)


def _preview(arguments: argparse.Namespace) -> None:
    from training.datasets import open_source
    from training.datasets.location import find_data
    from training.preview import write_preview
    from training.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    data = find_data(
        recipe.source, arguments.data,
        within=recipe.collection_folder, download=arguments.download,
    )  # fmt: skip
    source = open_source(recipe, data, download=arguments.download)
    images, versions = arguments.images, arguments.versions
    write_preview(source, recipe, arguments.out, images=images, versions=versions)
    print(arguments.out)


def _summary(arguments: argparse.Namespace) -> None:
    from training.recipe import load_recipe
    from training.summary import describe_summary, summarise_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    layers = summarise_recipe(recipe, arguments.classes)
    print(describe_summary(layers, mirrored=recipe.mirror_averaging))


def _runs(arguments: argparse.Namespace) -> None:
    from training.listing import describe_runs, list_runs

    rows = list_runs(arguments.folder, sort=arguments.sort)
    print(json.dumps(rows, indent=2) if arguments.json else describe_runs(rows))


def _show(bundle: Bundle) -> None:
    from training.evaluate import describe_totals
    from training.speed import describe_speed

    for quality in bundle.manifest.quality:
        print(describe_totals(quality))
    print(describe_speed(bundle.manifest.speed))
    print(bundle.path)


if __name__ == "__main__":
    raise SystemExit(main())
