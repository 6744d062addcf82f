"""All corruptions by name, and the words for several."""

from __future__ import annotations

import difflib
from typing import TypeVar

from hf_rws._choices import ALL, BAR, CORRUPTIONS, UNSEEN
from hf_rws.corruptions import (
    bar_marks,
    bar_noise,
    bar_warps,
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

_Names = TypeVar("_Names")

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
        bar_noise.blue_noise_sample,
        bar_marks.checkerboard_cutout,
        bar_marks.inverse_sparkles,
        bar_warps.pinch_and_twirl,
        bar_warps.ripple,
        bar_noise.brownish_noise,
        bar_warps.circular_motion_blur,
        bar_marks.lines,
        bar_marks.sparkles,
        bar_warps.transverse_chromatic_abberation,
        bar_warps.caustic_refraction,
        bar_noise.perlin_noise,
        bar_noise.plasma_noise,
        bar_noise.cocentric_sine_waves,
        bar_noise.single_frequency_greyscale,
    )
}


def find(name: str) -> Corruption:
    """The corruption called `name`.

    Raises:
        OptionError: There is none; the message suggests the closest and lists all.
    """
    if isinstance(name, str) and name in _BY_NAME:
        return _BY_NAME[name]
    close = difflib.get_close_matches(str(name), _BY_NAME, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"Unknown corruption {name!r}.{hint} Known: {', '.join(_BY_NAME)}.")


def available() -> tuple[str, ...]:
    """Those of `CORRUPTIONS` that can be used here: all but frost, and frost where its pictures are."""
    return tuple(name for name in CORRUPTIONS if name != "frost" or frost.has_pictures())


def _all_names() -> tuple[str, ...]:
    """What "all" stands for: all that can be used here, with a warning if frost is left out."""
    names = available()
    if len(names) < len(CORRUPTIONS):
        text = "frost is left out: its pictures are not installed (pip install 'hf-rws[frost]')."
        warn(text)
    return names


def spelled_out(names: _Names) -> _Names | tuple[str, ...]:
    """What "all" and "bar" stand for; anything else as it is."""
    if isinstance(names, str) and names in (ALL, UNSEEN):
        return _all_names() if names == ALL else BAR
    return names
