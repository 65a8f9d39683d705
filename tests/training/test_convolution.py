"""Convolution and max-pooling written out in NumPy, held against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import ROOT

Array = NDArray[np.float64]

PADDINGS = {"zero": "constant", "replicate": "edge"}
"""The ways of treating borders, by NumPy's names."""

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)
EDGES = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], float)


def windows(x: Array, size: int, stride: int) -> Array:
    """(C, H, W) to (C, H', W', size, size): every place where a window fits."""
    return sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def convolve(
    x: Array, kernels: Array, biases: Array, *, stride: int = 1, padding: int = 0,
    borders: str = "zero",
) -> Array:  # fmt: skip
    """(D, H, W) with kernels (K, D, F, F) to (K, H', W'): a dot product at every place.

    As in every network, the kernel is not turned around: strictly, this is cross-correlation.
    """
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)), PADDINGS[borders])  # type: ignore[call-overload]
    places = windows(x, kernels.shape[-1], stride)
    sides = places.shape[1:3]
    answer = np.empty((len(kernels), *sides))
    for k, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        for row, column in np.ndindex(*sides):
            answer[k, row, column] = (places[:, row, column] * kernel).sum() + bias
    return answer


def max_pool(x: Array, size: int, stride: int) -> Array:
    """(C, H, W) to (C, H', W')."""
    answer: Array = windows(x, size, stride).max(axis=(3, 4))
    return answer


def photo() -> Array:
    """A photo of the examples in grey, (1, 60, 80)."""
    image = Image.open(ROOT / "examples" / "photos" / "horse.jpg").convert("L").resize((80, 60))
    return np.asarray(image, float)[None]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("padding", "borders"), [(0, "zero"), (2, "zero"), (2, "replicate")])
def test_convolution_of_random_numbers(stride: int, padding: int, borders: str) -> None:
    random = np.random.default_rng(0)
    x, kernels = random.normal(size=(3, 13, 11)), random.normal(size=(4, 3, 5, 5))
    biases = random.normal(size=4)
    ours = convolve(x, kernels, biases, stride=stride, padding=padding, borders=borders)
    conv = torch.nn.Conv2d(
        3, 4, 5, stride, padding, dtype=torch.float64,
        padding_mode="zeros" if borders == "zero" else "replicate",
    )  # fmt: skip
    conv.load_state_dict({"weight": torch.tensor(kernels), "bias": torch.tensor(biases)})
    np.testing.assert_allclose(ours, conv(torch.tensor(x)[None])[0].detach(), atol=1e-12)
    assert ours.shape[1:] == tuple(1 + (side - 5 + 2 * padding) // stride for side in (13, 11))


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (4, 4)])
def test_max_pooling_of_random_numbers(size: int, stride: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 13, 11))
    theirs = F.max_pool2d(torch.tensor(x)[None], size, stride)[0]
    np.testing.assert_array_equal(max_pool(x, size, stride), theirs)


@pytest.mark.parametrize("kernel", [SOBEL, SOBEL.T, EDGES], ids=["across", "down", "edges"])
def test_edge_kernels_on_a_photo(kernel: Array) -> None:
    ours = convolve(photo(), kernel[None, None], np.zeros(1))
    theirs = F.conv2d(torch.tensor(photo())[None], torch.tensor(kernel)[None, None])[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    # The weights sum to 0: brightness alone leaves no trace, edges do.
    brighter = convolve(photo() + 50.0, kernel[None, None], np.zeros(1))
    np.testing.assert_allclose(brighter, ours, atol=1e-9)
    assert np.abs(ours).max() > 100


def test_sobel_finds_the_side_of_an_edge() -> None:
    step = np.zeros((1, 5, 6))
    step[:, :, 3:] = 1.0  # dark on the left, light on the right
    across = convolve(step, SOBEL[None, None], np.zeros(1))[0]
    assert across.tolist() == [[0, 4, 4, 0]] * 3
    assert not convolve(step, SOBEL.T[None, None], np.zeros(1)).any()
