"""The folder of a signature: its two files read as one state, also after a save that was killed."""

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hf_rws._files import LARGEST_JSON, LARGEST_SIGNATURE, UNFINISHED, locked, read_bytes
from hf_rws.errors import IntegrityError, RWSError, warn
from hf_rws.signature.config import CONFIG_NAME, WEIGHTS_NAME, SignatureConfig, parse_config

_TRIES = 10  # where a folder cannot be locked
_PAUSE = 0.05  # seconds between them


@dataclass(frozen=True)
class _Saved:
    """The files of a signature, which belong together.

    Attributes:
        config: What config.json says.
        config_nbytes: Its size.
        weights: The content of signature.safetensors.
    """

    config: SignatureConfig
    config_nbytes: int
    weights: bytes


def read_folder(folder: Path, where: str) -> _Saved:
    """Read a saved signature, as one whole, whatever saves into the same folder meanwhile or was killed there.

    A save that was cut off between the two files has left the new config in a hidden folder: then it is read there.

    Args:
        folder: Holds the files.
        where: What to call it in errors.

    Raises:
        NotFoundError: A file is missing.
        AccessError: One cannot be read.
        FormatError: The config is none.
        IntegrityError: The weight file is not the one that the config was written with.
    """
    saved, sha256, expected = _read(folder, where)
    if sha256 == expected:
        return saved
    for _ in range(_TRIES):
        with locked(folder) as held:  # until who saves there has finished
            saved, sha256, expected = _read(folder, where)
            if sha256 == expected:
                return saved
            if left := _cut_off(folder, where, sha256):
                warn(
                    f"{where}: a save was cut off; save what is loaded there again to finish it",
                )
                return _Saved(*left, saved.weights)
        if held:
            break
        time.sleep(_PAUSE)
    raise IntegrityError(
        f"{where} {WEIGHTS_NAME}: sha256 is {sha256}, config.json says {expected}; the file is damaged or of another "
        "version. Fetch it again with force_download=True, or restore the folder"
    )


def _read(folder: Path, where: str) -> tuple[_Saved, str, str]:
    """What stands there, the sha256 of the weights, and what it should be."""
    text = read_bytes(folder / CONFIG_NAME, f"{where} {CONFIG_NAME}", limit=LARGEST_JSON)
    weights = read_bytes(folder / WEIGHTS_NAME, f"{where} {WEIGHTS_NAME}", limit=LARGEST_SIGNATURE)
    config, expected = parse_config(text, f"{where} {CONFIG_NAME}")
    return _Saved(config, len(text), weights), hashlib.sha256(weights).hexdigest(), expected


def _cut_off(folder: Path, where: str, sha256: str) -> tuple[SignatureConfig, int] | None:
    """The config that a save has left and that was written with these weights, and its size."""
    names: list[str] = []
    with suppress(OSError):  # may be entered, but not listed
        names = sorted(os.listdir(folder))
    for name in names:
        if name.startswith(UNFINISHED):
            where_left = f"{where} {name}/{CONFIG_NAME}"
            with suppress(RWSError):  # left by someone else, or unfinished
                text = read_bytes(folder / name / CONFIG_NAME, where_left, limit=LARGEST_JSON)
                if sha256.encode() in text:
                    config, found = parse_config(text, where_left)
                    if found == sha256:
                        return config, len(text)
    return None
