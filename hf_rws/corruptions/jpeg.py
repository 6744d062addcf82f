"""JPEG compression: what Pillow's encoder and decoder do to an image, bit for bit.

Large images on the CPU go through Pillow itself, which is faster there. All others never become a file: only the lossy
steps are done, colour conversion, 4:2:0 subsampling, the integer DCT, quantization, and back with "fancy" upsampling,
in the integer arithmetic of the Independent JPEG Group's reference, to which libjpeg-turbo keeps. Integers are held in
floats wide enough to be exact.

Constants: hendrycks/robustness, make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py; ITU-T T.81, annex K.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hf_rws.corruptions.definition import CIFAR, IMAGENET, TINY_IMAGENET, Corruption, Draws
from hf_rws.corruptions.filters import on_device
from hf_rws.corruptions.images import interleaved, suit_pillow

_JPEG_QUALITY = {CIFAR: (80, 65, 58, 50, 40), TINY_IMAGENET: (65, 58, 50, 40, 25), IMAGENET: (25, 18, 15, 10, 7)}

_LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# In 16-bit fixed point: RGB to Y, Cb, Cr and what they are rounded with.
_TO_YCC = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
_YCC_OFFSETS = (2**15, (128 << 16) + 2**15 - 1, (128 << 16) + 2**15 - 1)
_RED_CR, _GREEN_CB, _GREEN_CR, _BLUE_CB = 91881, -22554, -46802, 116130


def _jpeg(images: Tensor, draws: Draws, quality: int) -> Tensor:
    if suit_pillow(images):
        return _with_pillow(images, quality)
    return _without_file(images.contiguous(), quality)


def _with_pillow(images: Tensor, quality: int) -> Tensor:
    """Write (N, C, H, W) uint8 images as files and read them back, on the CPU."""
    pixels = interleaved(images)
    result = np.empty_like(pixels)
    for image, place in zip(pixels, result, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
        place[...] = np.asarray(Image.open(file)).reshape(place.shape)
    return torch.from_numpy(result).permute(0, 3, 1, 2)


def _without_file(images: Tensor, quality: int) -> Tensor:
    """The same by arithmetic, on any device: float32 levels, to be clipped."""
    if images.shape[1] == 1:
        return _through_blocks(images.float(), _steps(_LUMA_STEPS, quality))
    height, width = images.shape[2:]
    luma, chroma = _to_ycc(images)
    luma = _through_blocks(luma, _steps(_LUMA_STEPS, quality))
    chroma = _through_blocks(_halve(chroma), _steps(_CHROMA_STEPS, quality))[..., : (width + 1) // 2]
    return _to_rgb(luma, _double(chroma)[..., :height, :width])


def _to_ycc(images: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) to Y (N, 1, H, W) and Cb, Cr (N, 2, H, W)."""
    red, green, blue = images.to(torch.int32).split(1, 1)
    planes = [
        (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2]).add_(offset) >> 16
        for weights, offset in zip(_TO_YCC, _YCC_OFFSETS, strict=True)
    ]
    return planes[0].float(), torch.cat(planes[1:], 1).float()


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    blueness, redness = (chroma.to(torch.int32) - 128).split(1, 1)
    red = (redness * _RED_CR).add_(2**15) >> 16
    green = (blueness * _GREEN_CB).add_(redness, alpha=_GREEN_CR).add_(2**15) >> 16
    blue = (blueness * _BLUE_CB).add_(2**15) >> 16
    return torch.cat((red, green, blue), 1).float().add_(luma)


def _halve(planes: Tensor) -> Tensor:
    """Mean of 2 x 2 pixels, rounded down and up in turn from column to column.

    Edges are replicated, before halving to full blocks on the right, but only to full pixels at the bottom.
    """
    height, width = planes.shape[2:]
    planes = functional.pad(planes, (0, -width % 16, 0, height % 2), mode="replicate")
    rows = planes[:, :, ::2] + planes[:, :, 1::2]
    bias = torch.arange(rows.shape[3] // 2, device=planes.device) % 2 + 1
    return (rows[..., ::2] + rows[..., 1::2]).add_(bias).mul_(0.25).floor_()


def _double(planes: Tensor) -> Tensor:
    """Enlarge to twice the size: each new pixel takes 3/4 from the nearest old one and 1/4 from the next, both ways."""
    count, channels, height, width = planes.shape
    padded = functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    result = planes.new_empty(count, channels, height, 2, width, 2)
    for y in (0, 1):
        rows = padded[:, :, 2 * y : 2 * y + height] + 3 * padded[:, :, 1:-1]
        for x in (0, 1):
            torch.add(rows[..., 2 * x : 2 * x + width], rows[..., 1:-1], alpha=3, out=result[:, :, :, y, :, x])
            result[:, :, :, y, :, x] += 8 - x
    return result.mul_(1 / 16).floor_().view(count, channels, 2 * height, 2 * width)


def _through_blocks(planes: Tensor, steps: np.ndarray) -> Tensor:
    """DCT of 8 x 8 blocks, quantization, and back: (N, C, H, W) float32 of 0..255 in and out."""
    count, channels, height, width = planes.shape
    down, across = -height % 8, -width % 8
    padded = functional.pad(planes, (0, across, 0, down), mode="replicate").sub_(128)
    blocks = padded.view(-1, (height + down) // 8, 8, (width + across) // 8, 8)
    # To (row in block, column in block, blocks): products with a long last dimension.
    samples = blocks.permute(2, 4, 0, 1, 3).reshape(8, 8, -1)
    forward, step = (on_device(array, planes.device) for array in (_dct_matrix(), steps[..., None]))

    # float32 holds these products, and is faster on a CPU; on a GPU the caller may have allowed TF32, which does not
    first = forward.float() if planes.device.type == "cpu" else forward
    coefficients = _descale(first @ samples.to(first.dtype), 11).to(forward.dtype)
    coefficients = _descale((forward @ coefficients.view(8, -1)).view(samples.shape), 15)
    quantized = coefficients.abs().div_(8).add_(step / 2).div_(step).floor_()
    restored = quantized.mul_(step).copysign_(coefficients)

    restored = _descale((forward.mT @ restored.view(8, -1)).view(samples.shape), 11)
    restored = _descale(forward.mT @ restored, 18).add_(128).clamp_(0, 255).float()
    restored = restored.view(8, 8, blocks.shape[0], blocks.shape[1], blocks.shape[3]).permute(2, 3, 0, 4, 1)
    return restored.reshape(count, channels, height + down, width + across)[..., :height, :width]


def _descale(values: Tensor, bits: int) -> Tensor:
    """Divide integers by 2**bits, halves rounded up, in place."""
    return values.mul_(2.0**-bits).add_(0.5).floor_()


@lru_cache(maxsize=1)
def _dct_matrix() -> np.ndarray:
    """(8, 8) float64: the forward DCT of the reference in 13-bit fixed point, sqrt(8) times the orthonormal one."""
    s = np.eye(8, dtype=np.int64)
    mirror_sums, mirror_differences = s[:4] + s[:3:-1], s[:4] - s[:3:-1]
    outer, inner = mirror_sums[0] - mirror_sums[3], mirror_sums[1] - mirror_sums[2]
    even = (mirror_sums[0] + mirror_sums[3], mirror_sums[1] + mirror_sums[2])
    shared = 4433 * (outer + inner)
    d7, d6, d5, d4 = mirror_differences
    z5 = 9633 * (d4 + d6 + d5 + d7)
    z1, z2, z3, z4 = -7373 * (d4 + d7), -20995 * (d5 + d6), z5 - 16069 * (d4 + d6), z5 - 3196 * (d5 + d7)
    rows = (
        8192 * (even[0] + even[1]),
        12299 * d7 + z1 + z4,
        shared + 6270 * outer,
        25172 * d6 + z2 + z3,
        8192 * (even[0] - even[1]),
        16819 * d5 + z2 + z4,
        shared - 15137 * inner,
        2446 * d4 + z1 + z3,
    )
    return np.stack(rows).astype(np.float64)


@lru_cache(maxsize=32)
def _steps(table: tuple[tuple[int, ...], ...], quality: int) -> np.ndarray:
    """Quantization steps at a quality from 1 to 100, (8, 8) float64."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((np.array(table) * percent + 50) // 100).clip(1, 255).astype(np.float64)


jpeg_compression = Corruption("jpeg_compression", _JPEG_QUALITY, _jpeg, any_layout=True)
