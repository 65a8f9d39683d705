"""`convoy bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import cycle, islice
from typing import Any

import numpy as np

from convoy.client.base import LONGEST_TIMEOUT, as_version
from convoy.client.channel import MAX_MESSAGE_BYTES
from convoy.client.errors import InvalidRequest
from convoy.client.inputs import Shape, read_image
from convoy.client.sync import ImageClient
from convoy.commands.load import Load, run_load
from convoy.commands.paths import expand
from convoy.commands.report import summarise, to_text
from convoy.v1 import image_classifier_pb2 as pb

# Enough different images that no cache on the way can answer for the model.
_NOISE_IMAGES = 64
_MAX_TOTAL_BYTES = 2**30


def run(args: argparse.Namespace) -> int:
    """Print the report. Returns: 1 where a request failed."""
    images = _images(args)
    load = Load(
        target=args.server,
        rate=args.rate,
        concurrency=args.concurrency,
        duration=args.duration,
        requests=args.requests,
        timeout=min(args.timeout, LONGEST_TIMEOUT),
        streaming=args.streaming,
        seed=args.seed,
    )
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        samples = runner.run(run_load(load, _payloads(args, images)))
    report = summarise(samples, mode=_mode(args), rate=args.rate)
    print(json.dumps(asdict(report)) if args.json else to_text(report))
    return 1 if report.failed else 0


def _images(args: argparse.Namespace) -> list[pb.Image]:
    # The server is asked in any case: a wrong address or model ends the command here.
    with ImageClient(
        args.server, model=args.model, version=args.model_version, timeout=args.timeout
    ) as client:
        shape = client.get_model().input_shape
    return _read(expand(args.paths)) if args.paths else _noise(shape, args.seed)


def _noise(shape: Shape, seed: int) -> list[pb.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (_NOISE_IMAGES, *shape), np.uint8)
    return [read_image(one, shape) for one in pixels]


def _read(paths: list[str]) -> list[pb.Image]:
    images, total = [], 0
    for path in paths:
        try:
            image = read_image(path, None)
        except InvalidRequest as error:
            raise InvalidRequest(error.detail, source=path) from None
        total += len(image.encoded)
        if total > _MAX_TOTAL_BYTES:
            raise InvalidRequest(f"these images have over {_MAX_TOTAL_BYTES:,} bytes; give fewer")
        images.append(image)
    return images


def _payloads(args: argparse.Namespace, images: list[pb.Image]) -> list[bytes]:
    """Serialise requests in which every image occurs."""
    size = args.images_per_request
    _check_size(size, size * min(image.ByteSize() for image in images))
    supply = cycle(images)
    version, label = as_version(args.model_version)
    payloads = [
        pb.ClassifyRequest(
            model=args.model or "",
            version=version,
            version_label=label,
            images=list(islice(supply, size)),
        ).SerializeToString()
        for _ in range(math.ceil(len(images) / size))
    ]
    _check_size(size, max(map(len, payloads)))
    return payloads


def _check_size(images: int, size: int) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise InvalidRequest(
            f"--images-per-request {images}: {size:,} bytes; at most {MAX_MESSAGE_BYTES:,}"
        )


def _mode(args: argparse.Namespace) -> str:
    kind = "streaming" if args.streaming else "unary"
    loop = f"{args.rate:g}/s open loop" if args.rate else f"{args.concurrency} in closed loop"
    return f"{loop}, {kind}, {args.images_per_request} images per request"


def loop_factory() -> Callable[[], Any] | None:
    """The faster event loop, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
