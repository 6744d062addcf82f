"""What a signature is distilled against: a corruption, several, or anything else that changes images."""

from typing import TypeAlias

from torch import Generator, Tensor

from hf_rws.corruptions.mixing import Mixture


class Pairs:
    """Corrupted images that were taken together with the clean ones; it has the attributes of a `Mixture`.

    Args:
        corrupted: uint8 (N, 3, H, W), the i-th belongs to the i-th clean image.
        name: What to call the corruption.
    """

    def __init__(self, corrupted: Tensor, name: str):
        self.names: tuple[str, ...] = (name,)
        self.severity: int | None = None
        self._corrupted = corrupted

    def __len__(self) -> int:
        return len(self._corrupted)

    def __call__(self, images: Tensor, rows: Tensor, generator: Generator) -> Tensor:
        """The partners of the images of `rows`."""
        return self._corrupted[rows].to(images.device)


Corrupter: TypeAlias = Mixture | Pairs
