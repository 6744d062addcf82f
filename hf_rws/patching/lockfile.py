"""The lockfile of a patched model: which base, which signatures and which scales make it again, bit for bit.

A lockfile is a small JSON object. `model.rws.lockfile()` gives it, `load_patched(lockfile=...)` takes it, as a mapping
or as a file. Every part carries a digest of its values, so a model that is not the same is never built without notice.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_rws._files import read_json
from hf_rws._transport.ids import Location
from hf_rws.errors import FormatError, IntegrityError, NotFoundError, OptionError
from hf_rws.fingerprints import digest
from hf_rws.signature.config import LIBRARY_NAME
from hf_rws.signature.signature import Signature

LOCKFILE_NAME = "lockfile.json"
_LOCKFILE_VERSION = "1.0"

_KINDS = ("hub", "local", "name")
_MOST_SIGNATURES = 1_000


@dataclass(frozen=True)
class _Part:
    """The base or one signature of a lockfile.

    Attributes:
        sha256: Digest of its values: of all clean weights of a base, of a signature's weight file.
        kind: As in `Location`: "hub", "local" (a folder) or "name" (a timm name); None if nobody knows where it is.
        id: "user/name", the folder or the timm name.
        revision: The commit on the Hub.
        name: What a signature is called on the model.
        scale: Its scale.
    """

    sha256: str
    kind: str | None = None
    id: str | None = None
    revision: str | None = None

    name: str = ""
    scale: float = 1.0

    @property
    def source(self) -> str | Path | None:
        """Its id as the functions that load take it; None if nobody knows where it is."""
        if self.id is None or self.kind is None:
            return None
        return Path(self.id) if self.kind == "local" else f"hf-hub:{self.id}" if self.kind == "hub" else self.id

    def check(self, found: str, what: str) -> None:
        """IntegrityError unless `found` is the digest."""
        if found != self.sha256:
            raise IntegrityError(
                f"{what} is not the one of the lockfile: its values have the digest {found[:12]}, the lockfile says "
                f"{self.sha256[:12]}. Either it has changed since, or the model had when the lockfile was taken"
            )


@dataclass(frozen=True)
class Lockfile:
    """A lockfile that has been read and checked."""

    base: _Part
    signatures: tuple[_Part, ...]


def write_lockfile(
    base: Location | None,
    clean: Mapping[str, Tensor],
    signatures: Mapping[str, Signature],
    scales: Mapping[str, float],
) -> dict[str, Any]:
    """The lockfile of a patched model, as a JSON object.

    Args:
        base: Where the base was loaded from, with the commit of a Hub repo; None if it was given as a model.
        clean: All its tensors as they are without signatures, by state-dict name.
        signatures: What is attached, by name.
        scales: Their scales, by name.

    Raises:
        OptionError: A signature was made in memory.
    """
    homeless = [name for name, signature in signatures.items() if signature.origin is None]
    if homeless:
        raise OptionError(
            f"{', '.join(map(repr, homeless))}: made in memory, so a lockfile cannot say where to find it; save or "
            "push it, then add it by its id"
        )
    return {
        "format_version": _LOCKFILE_VERSION,
        "library_name": LIBRARY_NAME,
        "base": {"sha256": digest(sorted(clean.items())), **_place(base)},
        "signatures": [
            {"name": name, "scale": scales[name], "sha256": signature.sha256, **_place(signature.origin)}
            for name, signature in signatures.items()
        ],
    }


def read_lockfile(source: Mapping[str, Any] | str | Path) -> Lockfile:
    """Read a lockfile.

    Args:
        source: The JSON object, a file, or a folder that holds lockfile.json. Relative folders that a file names are
            looked for beside it.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is no lockfile, or a newer one than this version reads.
        AccessError: It cannot be read.
        OptionError: It is neither a mapping nor a path.
    """
    if isinstance(source, Mapping):
        return _parse(source, "the lockfile", Path())
    if not isinstance(source, (str, Path)):
        raise OptionError(f"a lockfile is a mapping, a file or a folder with a {LOCKFILE_NAME}, got {source!r:.80}")
    path = Path(source)
    if os.path.isdir(path):
        path = path / LOCKFILE_NAME
    try:
        content = read_json(path, str(path))
    except NotFoundError as error:
        raise NotFoundError(f"there is no lockfile {str(path)!r}") from error
    return _parse(content, str(path), path.parent)


def _place(location: Location | None) -> dict[str, Any]:
    if location is None:
        return {}
    revision = {} if location.revision is None else {"revision": location.revision}
    return {"kind": location.kind, "id": location.id, **revision}


def _parse(content: Any, where: str, folder: Path) -> Lockfile:
    if not isinstance(content, Mapping) or not isinstance(content.get("signatures"), list | tuple):
        raise FormatError(f"{where}: not a lockfile; model.rws.lockfile() gives one")
    version = content.get("format_version")
    if not isinstance(version, str) or version.split(".")[0] != _LOCKFILE_VERSION.split(".")[0]:
        raise FormatError(
            f"{where}: format_version {version!r} is not one that this hf-rws reads ({_LOCKFILE_VERSION}); if it is "
            "newer, upgrade: pip install -U hf-rws"
        )
    if len(content["signatures"]) > _MOST_SIGNATURES:
        raise FormatError(f"{where}: lists {len(content['signatures']):,} signatures; {_MOST_SIGNATURES:,} are read")
    entries = enumerate(content["signatures"])
    signatures = tuple(_Part(**_signature(entry, f"{where}: signature {i}", folder)) for i, entry in entries)
    names = [part.name for part in signatures]
    if len(set(names)) != len(names):
        raise FormatError(f"{where}: two signatures have the same name")
    return Lockfile(_Part(**_part(content.get("base"), f"{where}: base", folder)), signatures)


def _part(entry: Any, where: str, folder: Path) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("sha256"), str):
        raise FormatError(f"{where}: must be an object with a sha256, got {type(entry).__name__}")
    kind, id, revision = (entry.get(key) for key in ("kind", "id", "revision"))
    if kind is None and id is None:
        return {"sha256": entry["sha256"]}
    if kind not in _KINDS or not isinstance(id, str) or not isinstance(revision, str | None):
        raise FormatError(f"{where}: kind must be one of {_KINDS}, id and revision strings, got {entry!r:.200}")
    return {
        "sha256": entry["sha256"],
        "kind": kind,
        "id": str(folder / id) if kind == "local" else id,
        "revision": revision,
    }


def _signature(entry: Any, where: str, folder: Path) -> dict[str, Any]:
    part = _part(entry, where, folder)
    name, scale = entry.get("name"), entry.get("scale")
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not isinstance(name, str) or not name or not number or not abs(scale) <= sys.float_info.max:
        raise FormatError(f"{where}: needs a name and a finite scale, got {name!r:.80} and {scale!r:.80}")
    return {**part, "name": name, "scale": float(scale)}
