"""All corruptions by name."""

from __future__ import annotations

import difflib

from hf_rws._choices import CORRUPTIONS
from hf_rws.corruptions import (
    blur,
    colour,
    frost,
    geometry,
    jpeg,
    noise,
    spatter,
    weather,
)
from hf_rws.corruptions.definition import Corruption
from hf_rws.errors import OptionError, warn

_BY_NAME = {
    corruption.name: corruption
    for corruption in (
        noise.gaussian_noise,
        noise.shot_noise,
        noise.impulse_noise,
        blur.defocus_blur,
        blur.glass_blur,
        blur.motion_blur,
        blur.zoom_blur,
        weather.snow,
        frost.frost,
        weather.fog,
        colour.brightness,
        colour.contrast,
        geometry.elastic_transform,
        geometry.pixelate,
        jpeg.jpeg_compression,
        noise.speckle_noise,
        blur.gaussian_blur,
        spatter.spatter,
        colour.saturate,
    )
}


def find(name: str) -> Corruption:
    """The corruption called `name`.

    Raises:
        OptionError: There is none; the message suggests the closest and lists all.
    """
    if isinstance(name, str) and name in _BY_NAME:
        return _BY_NAME[name]
    close = difflib.get_close_matches(str(name), CORRUPTIONS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"Unknown corruption {name!r}.{hint} Known: {', '.join(CORRUPTIONS)}.")


def available() -> tuple[str, ...]:
    """The corruptions that can be used here: all but frost, and frost where its pictures are."""
    return tuple(name for name in CORRUPTIONS if name != "frost" or frost.has_pictures())


def all_names() -> tuple[str, ...]:
    """What "all" stands for: all that can be used here, with a warning if frost is left out."""
    names = available()
    if len(names) < len(CORRUPTIONS):
        text = "frost is left out: its pictures are not installed (pip install 'hf-rws[frost]')."
        warn(text)
    return names
