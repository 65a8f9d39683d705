"""The subcommand `convoy-train import`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError

if TYPE_CHECKING:
    from training.onnx_wrap import Preprocessing

PHOTOS = Path("examples") / "photos"


def add_import(parser: argparse.ArgumentParser) -> None:
    """`convoy-train import`."""
    parser.set_defaults(command=_import)
    parser.add_argument("model", type=Path, help="the ONNX file")
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="FILE", help="a label a line, in order"
    )
    parser.add_argument("--name", help="the bundle's name (default: the file's)")
    parser.add_argument(
        "--models", type=Path, metavar="DIR", default=Path("models"),
        help="where the bundle goes, as NAME/VERSION (default: models)",
    )  # fmt: skip
    _add_preprocessing(parser)
    parser.add_argument("--output", metavar="NAME", help="which output, where there are several")
    parser.add_argument(
        "--scores", choices=("auto", "logits", "probabilities"), default="auto",
        help="what the output is (default: told by its values)",
    )  # fmt: skip
    parser.add_argument("--multi-label", action="store_true", help="any number of labels an image")
    parser.add_argument("--description", default="", help="what it is for, and what not")
    parser.add_argument("--license", metavar="SPDX", help="terms that the weights are under")
    parser.add_argument(
        "--golden", type=Path, metavar="DIR", default=PHOTOS,
        help=f"folder of image files to prove the bundle with (default: {PHOTOS})",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="images to measure it on, one folder per label"
    )


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=int, nargs="+", metavar="PIXELS", required=True,
        help="the network's input: one side, or height and width",
    )  # fmt: skip
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="(default: 3)")
    parser.add_argument("--layout", choices=("nchw", "nhwc"), default="nchw")
    parser.add_argument("--bgr", action="store_true", help="blue comes first")
    parser.add_argument(
        "--scale", type=float, default=255.0, metavar="X",
        help="pixels are divided by it, before --mean and --std (default: 255)",
    )  # fmt: skip
    parser.add_argument(
        "--mean", type=float, nargs="+", default=[0.0], metavar="X",
        help="subtracted: one for all channels, or each in the network's order (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--std", type=float, nargs="+", default=[1.0], metavar="X",
        help="then divided by, likewise (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--resize", type=int, metavar="PIXELS",
        help="photos' shorter side, scaled, before the middle is cut out (default: --size)",
    )  # fmt: skip
    parser.add_argument(
        "--stretch", action="store_true", help="squeeze photos to the size instead of cutting them"
    )
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")


def _import(arguments: argparse.Namespace) -> None:
    from training.datasets.location import find_data
    from training.evaluate import describe_totals
    from training.importer import Wanted, import_model, read_labels
    from training.speed import describe_speed

    wanted = Wanted(
        name=arguments.name or arguments.model.stem,
        labels=read_labels(arguments.labels),
        multi_label=arguments.multi_label,
        scores=arguments.scores,
        output=arguments.output,
        description=arguments.description,
        license=arguments.license,
    )
    data = None if arguments.data is None else find_data("folder", arguments.data)
    bundle, difference = import_model(
        arguments.model, wanted, _preprocessing(arguments),
        arguments.models, arguments.golden, data,
    )  # fmt: skip
    manifest = bundle.manifest
    print(f"at most {difference:.2g} from the original, {len(manifest.labels):,} labels")
    if manifest.max_batch_size == 1:
        print("its answers hold for single images only: it will be served at batch 1",
              file=sys.stderr)  # fmt: skip
    for quality in manifest.quality:
        print(describe_totals(quality))
    print(describe_speed(manifest.speed))
    print(bundle.path)


def _preprocessing(arguments: argparse.Namespace) -> Preprocessing:
    from pydantic import ValidationError

    from convoy.imaging import InputSpec
    from training.onnx_wrap import Preprocessing

    if len(arguments.size) > 2 or min(arguments.size) < 1:
        raise TrainingError("--size: give one side, or height and width, in pixels")
    height, width = arguments.size[0], arguments.size[-1]
    resize = arguments.resize or min(height, width)
    if resize < min(height, width) or (arguments.resize and arguments.stretch):
        raise TrainingError("--resize must be at least --size, and does not go with --stretch")
    try:
        spec = InputSpec(
            height=height, width=width, channels=arguments.channels,
            resize="stretch" if arguments.stretch else "center-crop",
            crop_fraction=min(height, width) / resize, interpolation=arguments.interpolation,
        )  # fmt: skip
    except ValidationError as error:
        raise TrainingError(f"--size: {error.errors()[0]['msg']}") from None
    for option in ("mean", "std"):
        count = len(getattr(arguments, option))
        if count not in (1, spec.channels):
            raise TrainingError(f"--{option}: {count} numbers for {spec.channels} channels")
    if not all(map(math.isfinite, (arguments.scale, *arguments.mean, *arguments.std))):
        raise TrainingError("--scale, --mean and --std must be finite numbers")
    if 0.0 in (arguments.scale, *arguments.std):
        raise TrainingError("--scale and --std divide: they cannot be 0")
    return Preprocessing(
        spec, arguments.layout, arguments.bgr, arguments.scale,
        tuple(arguments.mean), tuple(arguments.std),
    )  # fmt: skip
