"""Images of a split on a device, batch by batch, each under its corruption."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from hf_rws._at_once import by_area, free_memory
from hf_rws.corruptions import corrupt
from hf_rws.corruptions.mixing import change_groups, equal_shares
from hf_rws.data.sets import ImageSet

_KEPT_SHARE = 0.25  # of the free memory, that finished images may take for the whole run
_KEPT_BYTES = 2**30  # and at most, on a CPU: 350,000 images of 32 px, 7,000 of 224 px
_BLOCK_BYTES = 2**26  # of images that are made at once: corruptions are slow on a few, and a mixture divides them


class Pixels:
    """The images of a split under corruptions, with several each image under one of them, in equal shares.

    The draws of an image depend on its number in its share and on the seed, so all is the same whether images are made
    once, where memory holds them all, or as they are used.

    Attributes:
        block: How many images are well made at once.

    Args:
        split: The images; may be memory-mapped.
        device: Where they are wanted.
        names: Of the corruptions; none leaves the images as they are.
        severity: Of the corruptions, 1 to 5.
        seed: Of the shares and of the corruptions' draws.
        keep: Whether they are wanted more than once: all are made now, then, where memory holds them.
    """

    def __init__(
        self,
        split: ImageSet,
        device: torch.device,
        names: Sequence[str] = (),
        severity: int = 5,
        *,
        seed: int = 0,
        keep: bool = True,
    ) -> None:
        self._split, self._device, self._names = split, device, names
        self._change = partial(corrupt, severity=severity, seed=seed)
        self.block = max(1, _BLOCK_BYTES // max(1, split.images[:1].nbytes))
        self._share, self._number = torch.zeros(len(split), dtype=torch.int64), torch.arange(len(split))
        if len(names) > 1:
            shares = equal_shares(len(split), len(names), torch.Generator().manual_seed(seed))
            for share, rows in enumerate(shares):
                self._share[rows], self._number[rows] = share, torch.arange(len(rows))
        self._kept = self._whole() if keep and self._is_worth_keeping() else None

    def __call__(self, rows: Tensor) -> Tensor:
        """The images of some rows, uint8 of shape (len(rows), 3, H, W) on the device."""
        return self._made(rows) if self._kept is None else self._kept[rows.to(self._device)]

    def __iter__(self) -> Iterator[ImageSet]:
        """All of them in order, as many at a time as go through a network at once."""
        for first in range(0, len(self._split), by_area(self._split.images.shape, self._device)):
            where = slice(first, first + by_area(self._split.images.shape, self._device))
            yield replace(self._split.subset(where), images=self._slice(where))

    def _is_worth_keeping(self) -> bool:
        """Whether all of them fit comfortably; images as they are on the same device are there already."""
        if not self._names and self._split.images.device.type == self._device.type:
            return False
        most = _KEPT_SHARE * free_memory(self._device)
        return self._split.images.nbytes <= (min(most, _KEPT_BYTES) if self._device.type == "cpu" else most)

    def _whole(self) -> Tensor:
        whole = torch.empty(self._split.images.shape, dtype=torch.uint8, device=self._device)
        for first in range(0, len(whole), self.block):
            where = slice(first, first + self.block)
            whole[where] = self._made(where)
        return whole

    def _slice(self, where: slice) -> Tensor:
        return self._made(where) if self._kept is None else self._kept[where]

    def _made(self, rows: Tensor | slice) -> Tensor:
        images = self._split.images[rows].to(self._device)
        if not self._names:
            return images
        share, number = self._share[rows], self._number[rows]
        if len(self._names) == 1:
            return self._change(images, self._names[0], index=number)
        groups = ((share == kind).nonzero().flatten() for kind in range(len(self._names)))
        return change_groups(
            images,
            [
                (group, partial(self._change, name=name, index=number[group]))
                for group, name in zip(groups, self._names, strict=True)
            ],
        )
