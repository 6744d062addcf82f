"""Corruptions as modules, for torchvision and timm pipelines and for training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from hf_rws._ambient import unaffected
from hf_rws._choices import ALL, SEVERITIES, UNSEEN
from hf_rws.corruptions.batch import check_parameter_set, check_severity, corrupt
from hf_rws.corruptions.filters import on_device
from hf_rws.corruptions.images import to_batch
from hf_rws.corruptions.mixing import change_groups
from hf_rws.corruptions.registry import find, spelled_out
from hf_rws.errors import OptionError

_RANDOM = "random"


class Corrupt(nn.Module):
    """One corruption as a transform.

    Randomness comes from torch's global generator of the images' device, as in torchvision's transforms:
    `torch.manual_seed` and the seeding of data loaders' workers govern it.

    ```python
    v2.Compose([v2.ToImage(), Corrupt("fog"), v2.ToDtype(torch.float32, scale=True)])
    ```

    Args:
        name: One of `CORRUPTIONS` or `BAR`.
        severity: 1 to 5.
        parameters: As for `corrupt`.

    Raises:
        OptionError: An unknown name, severity or parameter set.
    """

    def __init__(self, name: str, severity: int = 5, *, parameters: str = "auto"):
        super().__init__()
        self.name = find(name).name
        self.severity = check_severity(severity)
        self.parameter_set = check_parameter_set(parameters)

    def forward(self, images: Any, *others: Any) -> Any:
        """Corrupt images of any kind that `corrupt` takes; the same kind back, with `others` (labels) as they are."""
        generator = _global_generator(images.device if isinstance(images, Tensor) else torch.device("cpu"))
        changed = corrupt(images, self.name, self.severity, parameters=self.parameter_set, generator=generator)
        return (changed, *others) if others else changed

    def extra_repr(self) -> str:
        """Arguments, for the module's repr."""
        return f"{self.name!r}, severity={self.severity}"


class RandomCorrupt(nn.Module):
    """Gives each image a corruption drawn uniformly from several, or leaves it clean.

    Args:
        names: Of the corruptions; `"all"` for all of `CORRUPTIONS` that can be used here (without its pictures, frost
            is left out with a warning), `"bar"` for all of `BAR`; but grey images are given none of these that have no
            meaning for them.
        severity: 1 to 5, or `"random"`: uniform over 1 to 5, for each image.
        clean: Share of images that stay as they are, 0 to 1.
        parameters: As for `corrupt`.

    Raises:
        OptionError: An unknown name, severity or parameter set; no names; a share outside 0..1.
    """

    def __init__(
        self,
        names: str | Sequence[str] = ALL,
        severity: int | str = 5,
        *,
        clean: float = 0.0,
        parameters: str = "auto",
    ):
        super().__init__()
        self._whole_family = names in (ALL, UNSEEN)
        if not isinstance(names, Iterable) or (isinstance(names, str) and not self._whole_family):
            raise OptionError(f"names must be a list of corruptions, {ALL!r} or {UNSEEN!r}, not {names!r}.")
        if not isinstance(clean, int | float) or not 0 <= clean <= 1:
            raise OptionError(f"clean is a share from 0 to 1, not {clean!r}.")
        self.names = tuple(find(name).name for name in spelled_out(names))
        if not self.names:
            raise OptionError("names is empty: name at least one corruption.")
        self.severities = SEVERITIES if severity == _RANDOM else (check_severity(severity),)
        self.clean = clean
        self.parameter_set = check_parameter_set(parameters)

    @unaffected
    def forward(self, images: Any, *others: Any) -> Any:
        """Corrupt images of any kind that `corrupt` takes; the same kind back, with `others` (labels) as they are.

        Raises:
            OptionError: The images are grey, and one of the named corruptions has no meaning for them.
        """
        batch, back = to_batch(images)
        names = self._names_for(batch.shape[1])
        kinds = len(names) * len(self.severities)
        choices = torch.where(
            torch.rand(len(batch), dtype=torch.float32) < self.clean, kinds, torch.randint(kinds, (len(batch),))
        )
        groups = [
            (on_device((choices == choice).numpy().nonzero()[0], batch.device), partial(self._one, names, choice))
            for choice in choices.unique().tolist()
            if choice < kinds
        ]
        changed = back(change_groups(batch, groups))
        return (changed, *others) if others else changed

    def _names_for(self, channels: int) -> tuple[str, ...]:
        """What can be drawn for images of so many channels."""
        coloured = [name for name in self.names if channels == 1 and find(name).needs_colour]
        if coloured and not self._whole_family:
            raise OptionError(f"{', '.join(coloured)}: defined for colour images only; these have 1 channel.")
        return tuple(name for name in self.names if name not in coloured)

    def _one(self, names: Sequence[str], choice: int, images: Tensor) -> Tensor:
        name, severity = divmod(choice, len(self.severities))
        changed: Tensor = corrupt(
            images,
            names[name],
            self.severities[severity],
            parameters=self.parameter_set,
            generator=_global_generator(images.device),
        )
        return changed

    def extra_repr(self) -> str:
        """Arguments, for the module's repr."""
        return f"{self.names}, severities={self.severities}, clean={self.clean}"


def _global_generator(device: torch.device) -> Generator:
    if device.type == "cpu":
        return torch.default_generator
    if device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    raise OptionError(f"Corruptions as transforms run on cpu, cuda and mps, not on {device.type}.")
