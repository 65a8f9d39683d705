"""What a network looks at, worked out of its ONNX graph alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.metrics import Probabilities
from training.report.graph import Graph, Values
from training.report.pictures import (
    Map,
    Pixels,
    colour,
    enlarge,
    mark,
    overlay,
    resize,
    shrink,
    strip,
)

SHOWN_FILTERS = 64
SHOWN_LAYERS = 12
SHOWN_MAPS = 8
"""In a row, which a phone still shows."""
SHOWN_PHOTOS = 6

STRONGEST_LAYERS = 3
STRONGEST_FILTERS = 4
SEARCHED_PIXELS = 1_000_000
"""Of the test images that are searched for the strongest: about 1,000 of 32 x 32."""
LEAST_SEARCHED = 100

OCCLUDED_PIXELS = 5_000_000
"""Of all variants of the photos with a part hidden: 100 of 224 x 224."""
MOST_PLACES, FEWEST_PLACES = 9, 4
"""Of the grey patch along each side."""
PATCH_SHARE = 0.25
"""Side of the patch, where there are many places: hides a part, not the thing."""
LEAST_DROP = 0.1
"""Full colour is never for less than that: a photo that nothing harms stays pale."""

Predict = Callable[[NDArray[np.uint8]], Probabilities]


@dataclass(frozen=True, slots=True)
class Row:
    """Pictures side by side as one, with a line about them."""

    caption: str
    picture: str
    """A data URI."""


class Peaks(NamedTuple):
    """Where filters answer most to each of some images."""

    answers: Values
    """[N, F], the highest."""
    places: NDArray[np.int64]
    """[N, F], of it in the map, row by row."""
    size: tuple[int, int]
    """Of the maps."""


class Occluder(NamedTuple):
    """A grey patch that is moved over a photo."""

    places: int
    """Along each side."""
    height: int
    width: int
    """In pixels."""


def first_filters(graph: Graph, image: Pixels) -> Row | None:
    """The filters that read the pixels; grey is 0. None where there are none to read."""
    layer = next((layer for layer in graph.layers if layer.weights is not None), None)
    if layer is None:
        return None
    filters = graph.filters(layer, image)
    if filters.ndim != 4:
        return None
    count, channels, height, width = filters.shape
    shown = filters[:SHOWN_FILTERS].transpose(0, 2, 3, 1)  # (F, kh, kw, C)
    if channels not in (1, 3):
        shown = shown.mean(axis=3, keepdims=True)
    highest = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
    # From 28 to 228: not as bright as the white between the filters.
    pixels = (128 + 100 * shown / np.maximum(highest, 1e-12)).round().astype(np.uint8)
    tiles = [enlarge(tile, 16) for tile in pixels]
    left_out = f", the first {len(tiles)}" if count > len(tiles) else ""
    caption = f"{layer.title}: {count} filters of {height} x {width} pixels{left_out}"
    return Row(caption, strip(tiles, columns=16))


def feature_maps(graph: Graph, image: Pixels) -> list[Row]:
    """The liveliest maps after each convolution and pooling, or after some of them."""
    layers = [graph.layers[place] for place in _spread(len(graph.layers), SHOWN_LAYERS)]
    rows = []
    for layer, result in zip(layers, graph.run(layers, image[None]) if layers else (), strict=True):
        if result.ndim != 4 or result[0, 0].size == 1:
            continue
        maps = result[0]
        order = np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:SHOWN_MAPS]
        tiles = [
            enlarge(colour(shrink(one, 48), "viridis", one.min(), one.max()), 24)
            for one in maps[np.sort(order)]
        ]
        count, height, width = maps.shape
        rows.append(
            Row(f"{layer.title}: {count} maps of {height} x {width}", strip(tiles, SHOWN_MAPS))
        )
    return rows


def strongest_images(graph: Graph, images: NDArray[np.uint8]) -> list[Row]:
    """The images that some filters of early, middle and late convolutions answer most to."""
    affordable = SEARCHED_PIXELS // (images.shape[1] * images.shape[2])
    searched = images[_spread(len(images), max(affordable, LEAST_SEARCHED))]
    convolutions = [layer for layer in graph.layers if layer.convolves]
    layers = [convolutions[place] for place in _spread(len(convolutions), STRONGEST_LAYERS)]
    if not layers:
        return []
    batches = [[_peaks(maps) for maps in found] for found in graph.run_batches(layers, searched)]
    rows = []
    for layer, found in zip(layers, zip(*batches, strict=True), strict=True):
        height, width = found[0].size
        if height * width == 1:
            continue
        answers = np.concatenate([one.answers for one in found])
        places = np.concatenate([one.places for one in found])
        # Filters that answer to few images have most to say.
        choosy = np.argsort(answers.mean(axis=0) - answers.max(axis=0), kind="stable")
        for index in choosy[:STRONGEST_FILTERS]:
            best = np.argsort(-answers[:, index], kind="stable")[:SHOWN_PHOTOS]
            tiles = [_framed(searched[row], places[row, index], (height, width)) for row in best]
            rows.append(Row(f"{layer.title}, filter {index}", strip(tiles, SHOWN_PHOTOS)))
    return rows


def occlusions(predict: Predict, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Row]:
    """Photos beside what hiding each place costs the most probable label.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section 4.2.
    """
    rows = []
    for image, answer in zip(images, predict(images), strict=True):
        label = int(answer.argmax())
        heat = occlusion(predict, image, label)
        strength = max(float(np.abs(heat).max()), LEAST_DROP)
        coloured = np.broadcast_to(image, (*image.shape[:2], 3))
        tiles = [resize(coloured), resize(overlay(image, heat, strength))]
        rows.append(Row(f"{labels[label]} {answer[label]:.0%}", strip(tiles, 2)))
    return rows


def occluder(height: int, width: int) -> Occluder:
    """The grey patch for images of a size: large ones take longer, so fewer and larger patches."""
    affordable = OCCLUDED_PIXELS // (SHOWN_PHOTOS * height * width)
    places = min(max(isqrt(affordable), FEWEST_PLACES), MOST_PLACES)
    share = max(PATCH_SHARE, 1.5 / places)  # patches overlap, so that no place is left out
    return Occluder(places, max(1, int(height * share)), max(1, int(width * share)))


def occlusion(predict: Predict, image: Pixels, label: int) -> Map:
    """How much of a label's probability a grey patch costs on average where it lies, [H, W]."""
    height, width = image.shape[:2]
    patch = occluder(height, width)
    tops, lefts = (
        np.linspace(0, free, patch.places).astype(int)
        for free in (height - patch.height, width - patch.width)
    )
    places = [
        (slice(top, top + patch.height), slice(left, left + patch.width))
        for top in tops
        for left in lefts
    ]
    hidden = np.repeat(image[None], len(places), axis=0)
    grey = image.mean(axis=(0, 1)).round().astype(np.uint8)
    for one, place in zip(hidden, places, strict=True):
        one[place] = grey
    drops = predict(image[None])[0, label] - predict(hidden)[:, label]
    total, times = np.zeros(image.shape[:2]), np.zeros(image.shape[:2])
    for drop, place in zip(drops, places, strict=True):
        total[place] += drop
        times[place] += 1
    return total / np.maximum(times, 1)


def _peaks(maps: Values) -> Peaks:
    flat = maps.reshape(*maps.shape[:2], -1)
    size = (maps.shape[2], maps.shape[3]) if maps.ndim == 4 else (1, 1)
    return Peaks(flat.max(axis=2), flat.argmax(axis=2), size)


def _framed(image: Pixels, place: int, size: tuple[int, int]) -> Pixels:
    """An image with a frame around the place that a filter answers most to."""
    height, width = size
    row, column = divmod(place, width)
    share = max(0.2, 2 / max(height, width))
    return mark(resize(image), (row + 0.5) / height, (column + 0.5) / width, share)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of `count` places, evenly chosen, the first and the last among them."""
    return [int(place) for place in np.linspace(0, count - 1, min(count, most))]
