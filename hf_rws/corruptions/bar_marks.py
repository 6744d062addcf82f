"""Marks on the image: a checkerboard's holes, lines, sparkles and their inverse (see `bar`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_rws.corruptions.bar import columns_of, level, pixels, published
from hf_rws.corruptions.definition import Corruption, Draws
from hf_rws.corruptions.filters import wide_float
from hf_rws.corruptions.randomness import RandomSource

_GREY = 128
_CELLS = 32  # a side of the board's table: in a square image, no two cells share an entry
_SPARKLES = 5
_FEWEST_RAYS, _MOST_RAYS = 50, 199
_REACHED = 4  # pixels across a line that it may touch


def _draw_board(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """The angle and the side of a cell as shares, and what decides about each cell."""
    return source.uniform(2), source.uniform(_CELLS * _CELLS)


def _checkerboard(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Some cells of one colour of a turned checkerboard become grey.

    The board is turned about the first pixel. As published, cells are told apart by coordinates cut towards 0, so the
    four around that pixel are one.
    """
    height, width = images.shape[2:]
    angle, side = columns_of(draws[0])
    angle, side = 2 * math.pi * angle, (0.1 + 0.15 * side) * min(height, width)
    rows, columns = pixels(height, width, images.device)
    down = (rows * angle.cos() + columns * angle.sin()).div_(side)
    along = (columns * angle.cos() - rows * angle.sin()).div_(side)
    of_colour = (down.floor() - along.floor()).remainder_(2).eq_(0)
    cells = down.trunc_().remainder_(_CELLS).mul_(_CELLS).add_(along.trunc_().remainder_(_CELLS))
    chosen = draws[1].lt(level(severity, 1)).gather(1, cells.flatten(1).long()).view(cells.shape)
    return torch.where(of_colour.bool().logical_and_(chosen)[:, None], _GREY, images)


def _line_count(height: int, width: int, severity: float) -> int:
    return int(level(severity, 1) * min(height, width))


def _draw_lines(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """The angle and its variation, and for each line a row, a column and a turn, as shares."""
    return (source.uniform(2 + 3 * _line_count(*shape[1:], severity)),)


def _lines(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Grey antialiased lines, one after the other, levels truncated after each."""
    count, channels, height, width = images.shape
    number = _line_count(height, width, severity)
    shares = draws[0].to(wide_float(images.device))
    angle, variation = 2 * math.pi * shares[:, :1], 0.1 + 0.9 * shares[:, 1:2]
    row, column, turn = shares[:, 2:].view(count, number, 3).unbind(2)
    angle = angle + 2 * math.pi * variation * (turn - 0.5)
    reach = min(height, width)
    down, along = angle.cos() * reach, angle.sin() * reach
    row, column = row * height, column * width
    ends = [end.trunc() for end in (row - down, column - along, row + down, column + along)]
    places, shares = _covered(ends, height, width)
    canvas = torch.empty(count, channels, height * width + 1, device=images.device, dtype=torch.float32)
    canvas[:, :, :-1] = images.flatten(2)
    for place, share in zip(places.unbind(1), shares.unbind(1), strict=True):
        place = place[:, None].expand(-1, channels, -1)
        before = canvas.gather(2, place)
        canvas.scatter_(2, place, (_GREY - before).mul_(share[:, None]).add_(before).floor_())
    return canvas[:, :, :-1].view(images.shape)


def _covered(ends: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """What antialiased lines cover: 1 less the distance from the line, in the rectangle of its ends.

    That is what the walk of scikit-image's `line_aa`, which the published code calls, comes to.

    Args:
        ends: Four of shape (N, L), whole numbers: row and column of one end, row and column of the other.
        height: Of the image.
        width: Of the image.

    Returns:
        For each line the pixels, (N, L, P) int64, each once (but H * W for what is outside the image), and which share
        of each is covered, float32.
    """
    row, column, last_row, last_column = (end[..., None] for end in ends)
    down, along = last_row - row, last_column - column
    steep = down.abs() > along.abs()
    # Along the direction in which a line advances faster, u, all pixels; across it, v, those around the line.
    u0, u1 = torch.where(steep, row, column), torch.where(steep, last_row, last_column)
    v0, v1 = torch.where(steep, column, row), torch.where(steep, last_column, last_row)
    advance, drift = u1 - u0, v1 - v0
    u = torch.arange(max(height, width), device=row.device, dtype=row.dtype)
    nearest = (v0 + (u - u0) * (drift / advance)).floor_()
    v = torch.cat([nearest + i for i in range(1 - _REACHED // 2, 1 + _REACHED // 2)], 2)
    u = u.repeat(_REACHED)
    distance = ((u - u0) * drift - (v - v0) * advance).abs_() / torch.hypot(advance, drift)
    inside = (u - u0).mul_(u - u1).le_(0).mul_((v - v0).mul_(v - v1).le_(0))
    share = (1 - distance).clamp_(min=0).mul_(inside)
    y, x = torch.where(steep, u, v), torch.where(steep, v, u)
    within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return torch.where(within, y * width + x, height * width).long(), share.float()


def _draw_sparkles(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """For each centre its row, its column and the number of its rays, as shares, and the normal lengths of the rays."""
    return source.uniform(_SPARKLES, 3), source.normal(_SPARKLES, _MOST_RAYS + 1)


def _sparkles(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """Five white stars."""
    height, width = images.shape[2:]
    radius = level(severity, 0.1) * min(height, width)
    lengths = draws[1].mul(0.25).add_(1).mul_(radius).clamp_(min=1)
    left = torch.ones(len(images), height, width, device=images.device, dtype=torch.float32)
    for shares, rays in zip(draws[0].unbind(1), lengths.unbind(1), strict=True):
        row, column, count = columns_of(shares)
        left.mul_(1 - _star(row * height, column * width, count, rays, height, width, 1))
    return (images - torch.tensor(255.0)).mul_(left[:, None]).add_(255)


def _draw_inverse(source: RandomSource, shape: tuple[int, int, int], severity: float) -> Draws:
    """The centre's row and column, and the number of rays, as shares, and the normal lengths of the rays."""
    return source.uniform(3), source.normal(_MOST_RAYS + 1)


def _inverse_sparkles(images: Tensor, draws: Draws, severity: float) -> Tensor:
    """White but for one star."""
    height, width = images.shape[2:]
    lengths = draws[1].mul(0.25).add_(1).mul_(0.25 * min(height, width))
    row, column, count = columns_of(draws[0])
    row, column = (0.25 + 0.5 * row) * height, (0.25 + 0.5 * column) * width
    star = _star(row, column, count, lengths, height, width, level(severity, 65) / 50)
    return (images - torch.tensor(255.0)).mul_(star[:, None]).add_(255)


def _star(row: Tensor, column: Tensor, share: Tensor, rays: Tensor, height: int, width: int, power: float) -> Tensor:
    """How bright a star makes each pixel: by the squared ratio of its ray's length to its distance.

    Args:
        row: (N, 1, 1), of the centre.
        column: The same.
        share: (N, 1, 1) in [0, 1), which decides about the number of rays.
        rays: (N, 200) float32, lengths; between two rays they are interpolated.
        height: Of the image.
        width: Of the image.
        power: Of the ratio.

    Returns:
        (N, H, W) float32 in [0, 1].
    """
    count = _FEWEST_RAYS + ((1 + _MOST_RAYS - _FEWEST_RAYS) * share).floor()
    y, x = pixels(height, width, rays.device)
    y, x = y - row, x - column
    place = torch.atan2(x, y).add_(math.pi).mul_(count / (2 * math.pi))
    first = place.floor()
    part = place.sub_(first).float()
    first = first.long().flatten(1)
    last = count[:, 0].long()
    wrapped = torch.cat((rays, rays[:, :2]), 1)
    wrapped.scatter_(1, torch.cat((last, last + 1), 1), rays[:, :2])
    lengths = wrapped.gather(1, first).view(part.shape)
    lengths.lerp_(wrapped.gather(1, first.add_(1)).view(part.shape), part)
    ratio = lengths.square_().div_((y * y + x * x).add_(1e-4).float())
    if power != 1:
        ratio = ratio.to(place.dtype).pow_(power).float()
    return (1 - (part - 0.5).square_()).mul_(ratio).clamp_(max=1)


checkerboard_cutout = Corruption(
    "checkerboard_cutout", published((1, 2, 3, 4, 5), (2, 3, 4, 5, 6)), _checkerboard, _draw_board
)
lines = Corruption("lines", published((0.5, 1, 1.5, 2, 2.5)), _lines, _draw_lines)
sparkles = Corruption("sparkles", published((0.7, 3.5, 5.6, 6.3, 7), (1, 2, 3, 5, 6)), _sparkles, _draw_sparkles)
inverse_sparkles = Corruption(
    "inverse_sparkles", published((1, 1.5, 2.5, 4.5, 5), (1, 2, 4, 9, 10)), _inverse_sparkles, _draw_inverse
)
