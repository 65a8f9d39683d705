"""JPEG and back for a whole batch in tensor operations, so that a GPU need not wait for libjpeg.

The steps are those of the standard's baseline with 4:2:0 colour, rounded where libjpeg rounds.
Huffman coding loses nothing and is left out.

ITU-T T.81, "Digital Compression and Coding of Continuous-Tone Still Images", 1992; the tables of
its annex K; T.871 (JFIF) for the colours.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 8
"""Of a block, in pixels."""
MIDDLE = 128.0

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * SIDE,) * 4,
)
"""Quantisation steps at quality 50 by vertical and horizontal frequency, annex K.1."""

TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def through_jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """What is left of uint8 images (B, C, H, W), C 1 or 3, by quality from 1 to 100, (B)."""
    height, width = images.shape[2:]
    pixels = images.float()
    if images.shape[1] == 1:
        return _coded(pixels, LUMA, quality)[:, :, :height, :width].to(torch.uint8)
    ycc = _mix(pixels, TO_YCC)
    ycc[:, 1:] += MIDDLE
    ycc.round_()
    luma = _coded(ycc[:, :1], LUMA, quality)[:, :, :height, :width]
    chroma = _coded(_halved(ycc[:, 1:]), CHROMA, quality)
    chroma = chroma[:, :, : math.ceil(height / 2), : math.ceil(width / 2)]
    chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear").round_()
    chroma = chroma[:, :, :height, :width] - MIDDLE
    return _bytes(_mix(torch.cat((luma, chroma), dim=1), TO_RGB)).to(torch.uint8)


def _coded(planes: Tensor, table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Planes (B, C, H, W) through their blocks' quantised frequencies, padded to whole blocks."""
    count, channels, height, width = planes.shape
    planes = F.pad(planes, (0, -width % SIDE, 0, -height % SIDE), mode="replicate")
    blocks = planes.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE) - MIDDLE  # (B, C, h, w, 8, 8)
    cosines = _cosines().to(planes.device)
    steps = _steps(table, quality.to(planes.device))[:, None, None, None]
    levels = (cosines @ blocks @ cosines.T / steps).round_()
    blocks = cosines.T @ (levels * steps) @ cosines
    return _bytes(blocks.transpose(3, 4).reshape(count, channels, *planes.shape[2:]) + MIDDLE)


def _halved(planes: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; a half is rounded up in every other column, without bias."""
    planes = F.pad(planes, (0, planes.shape[3] % 2, 0, planes.shape[2] % 2), mode="replicate")
    means = F.avg_pool2d(planes, 2)
    odd = torch.arange(means.shape[3], device=means.device) % 2
    return (means + (1 + odd) / 4).floor_()


def _steps(table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Quantisation steps (B, 8, 8), scaled as libjpeg does for a quality (B)."""
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    base = torch.tensor(table, device=quality.device)
    return ((base * percent[:, None, None] + 50) // 100).clamp(1, 255).float()


@cache
def _cosines() -> Tensor:
    """The orthonormal DCT-II, (8, 8): times a column of pixels, the column's frequencies."""
    frequency, pixel = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    waves = torch.cos((2 * pixel + 1) * frequency * (math.pi / (2 * SIDE)))
    waves[0] /= math.sqrt(2.0)
    return waves / 2


def _mix(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Every pixel's channels times the matrix."""
    return torch.einsum("ij,bjhw->bihw", torch.tensor(matrix, device=images.device), images)


def _bytes(values: Tensor) -> Tensor:
    return values.round_().clamp_(0.0, 255.0)
