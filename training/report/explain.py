"""What a network looks at, worked out of its ONNX graph alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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

PATCHES = 9
"""Places of the grey patch along each side."""
PATCH_SHARE = 0.25
"""Side of the patch: hides a part, not the thing."""
LEAST_DROP = 0.1
"""Full colour is never for less than that: a photo that nothing harms stays pale."""

Predict = Callable[[NDArray[np.uint8]], Probabilities]


@dataclass(frozen=True, slots=True)
class Row:
    """Pictures side by side as one, with a line about them."""

    caption: str
    picture: str
    """A data URI."""


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
    rows = []
    for place in _spread(len(convolutions), STRONGEST_LAYERS):
        layer = convolutions[place]
        (maps,) = graph.run([layer], searched)  # one at a time: together they may not fit
        if maps.ndim != 4 or maps[0, 0].size == 1:
            continue
        peaks = maps.max(axis=(2, 3))  # (N, F)
        # Filters that answer to few images have most to say.
        choosy = np.argsort(peaks.mean(axis=0) - peaks.max(axis=0), kind="stable")
        for index in choosy[:STRONGEST_FILTERS]:
            best = np.argsort(-peaks[:, index], kind="stable")[:SHOWN_PHOTOS]
            tiles = [_framed(searched[row], maps[row, index]) for row in best]
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


def occlusion(predict: Predict, image: Pixels, label: int) -> Map:
    """How much of a label's probability a grey patch costs on average where it lies, [H, W]."""
    sides = np.array(image.shape[:2])
    patch = np.maximum(1, (sides * PATCH_SHARE).astype(int))
    tops, lefts = (np.linspace(0, free, PATCHES).astype(int) for free in sides - patch)
    places = [
        (slice(top, top + patch[0]), slice(left, left + patch[1])) for top in tops for left in lefts
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


def _framed(image: Pixels, answers: Values) -> Pixels:
    """An image with a frame around the place that a filter answers most to."""
    height, width = answers.shape
    row, column = np.unravel_index(answers.argmax(), answers.shape)
    large = resize(image)
    share = max(0.2, 2 / max(height, width))
    return mark(large, (row + 0.5) / height, (column + 0.5) / width, share)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of `count` places, evenly chosen, the first and the last among them."""
    return [int(place) for place in np.linspace(0, count - 1, min(count, most))]
