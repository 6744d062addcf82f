"""Digests of weights: is this the base that a signature was made from, are these the very same values?"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from hf_rws.layers import (
    head_names,
)

_FINGERPRINT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def weights_digest(model: nn.Module) -> str:
    """sha256 of all weights and statistics but the head's: two models with the same one start from the same point."""
    head = head_names(model)
    return digest((name, value) for name, value in model.state_dict().items() if name not in head)


def fingerprint(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """A cheap digest of weights for telling whether a base is the one that a signature was made from.

    At most 4,096 evenly spaced values of each tensor enter, cast to each dtype that a base may be kept in. It is no
    security measure.

    Args:
        tensors: Floating-point tensors by state-dict name.

    Returns:
        A hex digest for each dtype of "float32", "float16" and "bfloat16".
    """
    samples = _Samples(tensors)
    return {str(dtype).removeprefix("torch."): samples.digest_as(dtype) for dtype in _FINGERPRINT_DTYPES}


def has_fingerprint(tensors: Mapping[str, Tensor], recorded: Mapping[str, str]) -> bool:
    """Whether `recorded` is the fingerprint of these weights, or of the weights that they were rounded from.

    A digest counts only for a dtype that holds the values without rounding: float32 for a float32 model, float16 for
    one in float16 or restored from a file in float16.
    """
    samples = _Samples(tensors)
    for dtype in _FINGERPRINT_DTYPES:
        known = recorded.get(str(dtype).removeprefix("torch."))
        if known is not None and samples.fit(dtype) and known == samples.digest_as(dtype):
            return True
    return False


class _Samples:
    """Evenly spaced values of each tensor, in the order of names, in one piece on the CPU."""

    def __init__(self, tensors: Mapping[str, Tensor], count: int = 4096) -> None:
        self._names = sorted(tensors)
        flat = [tensors[name].detach().flatten() for name in self._names]
        parts = [values[:: max(1, -(-len(values) // count))] for values in flat]
        self._sizes = list(map(len, parts))
        self._values = torch.cat([part.to(parts[0].device) for part in parts]).cpu() if parts else torch.empty(0)

    def fit(self, dtype: torch.dtype) -> bool:
        """Whether the dtype holds them without rounding."""
        return torch.equal(self._values.to(dtype).to(self._values.dtype), self._values)

    def digest_as(self, dtype: torch.dtype) -> str:
        """What `digest` gives for each tensor's values in this dtype, cut."""
        sha256, start, raw = hashlib.sha256(), 0, self._values.to(dtype).view(torch.uint8).numpy().data
        for name, size in zip(self._names, self._sizes, strict=True):
            stop = start + size * dtype.itemsize
            sha256.update(f"{name} {dtype} ({size},)\n".encode())
            sha256.update(raw[start:stop])
            start = stop
        return sha256.hexdigest()[:32]


def digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 of tensors with their names, dtypes and shapes, in the order given."""
    digest = hashlib.sha256()
    for name, value in named:
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
