"""The folder of a signature: its two files read as one state, also after a save that was killed."""

import hashlib
import warnings
from contextlib import suppress
from pathlib import Path

from hf_rws._files import UNFINISHED, read_bytes
from hf_rws.errors import IntegrityError, RWSError
from hf_rws.signature.config import CONFIG_NAME, LARGEST_CONFIG, WEIGHTS_NAME, SignatureConfig, parse_config

_LARGEST_WEIGHTS = 2**32  # bytes: all weights of the largest timm models at 8 bits


def read_folder(folder: Path, where: str) -> tuple[SignatureConfig, bytes, int]:
    """The config of a saved signature, its weight file, and the size of its config.json in bytes.

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
    text = read_bytes(folder / CONFIG_NAME, f"{where} {CONFIG_NAME}", limit=LARGEST_CONFIG)
    weights = read_bytes(folder / WEIGHTS_NAME, f"{where} {WEIGHTS_NAME}", limit=_LARGEST_WEIGHTS)
    sha256 = hashlib.sha256(weights).hexdigest()
    config, expected = parse_config(text, f"{where} {CONFIG_NAME}")
    if sha256 == expected:
        return config, weights, len(text)
    for path in sorted(folder.glob(f"{UNFINISHED}*/{CONFIG_NAME}")):
        with suppress(RWSError):
            name = f"{where} {path.parent.name}/{CONFIG_NAME}"
            text = read_bytes(path, name, limit=LARGEST_CONFIG)
            config, found = parse_config(text, name)
            if found == sha256:
                warnings.warn(
                    f"{where}: a save was cut off; save what is loaded there again to finish it", stacklevel=5
                )
                return config, weights, len(text)
    raise IntegrityError(
        f"{where} {WEIGHTS_NAME}: sha256 is {sha256}, config.json says {expected}; the file is damaged or of another "
        "version. Fetch it again with force_download=True, or restore the folder"
    )
