"""Files that belong together: a save that is cut off at any moment leaves the old ones or the new ones to load."""

import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from hf_rws.errors import FormatError
from hf_rws.format import CONFIG_NAME, SignatureConfig, parse_config

_UNFINISHED = ".saving-"  # folders of saves that are going on, or were killed


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, which is made if needed.

    All are complete, in a hidden folder beside them, before the first takes its place; then they do so in the order
    given. What is kept from its place, by a kill or an error, stays in the hidden folder, where `killed_save` finds it;
    the next save that is finished clears it away.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(dir=folder, prefix=_UNFINISHED))
    complete = False
    try:
        for name, content in contents.items():
            (temporary / name).write_bytes(content)
        complete = True
        for name in contents:
            (temporary / name).replace(folder / name)
    except BaseException:
        if not complete or all((temporary / name).exists() for name in contents):  # nothing has changed
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    for left in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


def killed_save(folder: Path, sha256: str, where: str) -> tuple[SignatureConfig, str] | None:
    """The config of weights that a save had put in their place when it was cut off, as `parse_config` gives it.

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
