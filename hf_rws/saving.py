"""Files that belong together: a save that is killed at any moment leaves the old ones or the new ones to load."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hf_rws.errors import FormatError
from hf_rws.format import CONFIG_NAME, SignatureConfig, parse_config

_UNFINISHED = ".saving-"  # folders of saves that are going on, or were killed


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, which is made if needed.

    All are complete, in a hidden folder beside them, before the first takes its place; then they do so in the order
    given. What a kill keeps from its place stays in the hidden folder, where `killed_save` finds it.

    Raises:
        OSError: The folder cannot be written to, or the disk is full; then nothing has changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as temporary:
        for name, content in contents.items():
            Path(temporary, name).write_bytes(content)
        for name in contents:
            Path(temporary, name).replace(folder / name)


def killed_save(folder: Path, sha256: str, where: str) -> tuple[SignatureConfig, str] | None:
    """The config of weights that a save had put in their place when it was killed, as `parse_config` gives it.

    Args:
        folder: Holds the weights.
        sha256: That of the weights: a config that does not name it is not theirs.
        where: What to call the folder in messages.
    """
    for path in sorted(folder.glob(f"{_UNFINISHED}*/{CONFIG_NAME}")):
        with suppress(FormatError, OSError):
            found = parse_config(path.read_bytes(), f"{where} {path.parent.name}/{CONFIG_NAME}")
            if found[1] == sha256:
                warnings.warn(f"{where}: a save was killed; save what is loaded there again to finish it", stacklevel=5)
                return found
    return None
