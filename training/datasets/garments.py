"""Pairs of articles of clothing, composed of Fashion-MNIST: several labels at once."""

from __future__ import annotations

import numpy as np

from convoy.imaging import InputSpec
from training.datasets.base import Labelled
from training.datasets.idx import FashionMnist

SEED = 0
"""Of the pairing: the set is the same for every run, whatever the recipe's seed."""


class Garments(FashionMnist):
    """30,000 pictures of 28 x 56 pixels, two articles side by side; labelled with both.

    Every image of Fashion-MNIST is in one picture, and its test images are in test pictures.
    """

    spec = InputSpec(height=28, width=56, channels=1)

    def _read(self, *, train: bool, download: bool = False) -> Labelled:
        return pair(super()._read(train=train, download=download), len(self.labels))


def pair(single: Labelled, classes: int) -> Labelled:
    """Two by two at random, images [N, H, W, C] to [N/2, H, 2*W, C] and labels [N] to [N/2, K]."""
    order = np.random.default_rng(SEED).permutation(len(single) // 2 * 2).reshape(-1, 2)
    left, right = order.T
    images = np.concatenate([single.images[left], single.images[right]], axis=2)
    labels = np.zeros((len(order), classes), np.uint8)
    np.put_along_axis(labels, single.labels[order], 1, axis=1)
    return Labelled(images, labels)
