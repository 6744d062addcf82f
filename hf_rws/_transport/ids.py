"""What an id means: a folder, a repo on the Hub, or a bare name."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hf_rws.errors import NotFoundError, OptionError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
REPO_ID = re.compile(rf"{NAME.pattern}/\w[\w.-]*", re.ASCII)
REVISION = re.compile(  # what git allows as a ref
    r"(?![/.-]|@\Z)(?!.*(\.\.|//|@\{|/\.|\.lock/))[^\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]+(?<![/.])(?<!\.lock)"
)
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")

_FORMS = "give a folder, a Hub id (user/name, hf-hub:user/name, user/name@revision) or a timm model name"


@dataclass(frozen=True)
class Location:
    """Where a base or a signature is.

    Attributes:
        kind: "local" (a folder), "hub" (a repo on the Hub) or "name" (no folder and no repo id: a timm model name).
        id: The folder's path, "user/name" or the name; without prefix and revision.
        revision: Branch, tag or commit that was asked for; None means the default branch.
        repo_type: What a repo on the Hub holds.
    """

    kind: Literal["local", "hub", "name"]
    id: str
    revision: str | None = None
    repo_type: Literal["model", "dataset"] = field(default="model", repr=False)

    @property
    def path(self) -> Path | None:
        """The folder, if it is one."""
        return Path(self.id) if self.kind == "local" else None

    @property
    def repo_id(self) -> str | None:
        """The repo's "user/name", if it is one."""
        return self.id if self.kind == "hub" else None

    @property
    def name(self) -> str:
        """The last component, e.g. "rws-fog": what a signature is called unless its user says otherwise."""
        return Path(self.id).resolve().name if self.kind == "local" else self.id.rpartition("/")[2]

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


def parse_id(id: str | os.PathLike[str], *, revision: str | None = None) -> Location:
    """Tell what an id means: an existing folder wins, then `hf-hub:user/name`, then `user/name`, then a bare name.

    Nothing is asked of the Hub: whether a repo exists shows when it is fetched.

    Args:
        id: Folder, Hub id or timm name; Hub ids and names may end in `@revision`.
        revision: The revision, if it is not in the id.

    Raises:
        OptionError: The id is none of these, two revisions contradict each other, or a folder is given one.
        NotFoundError: The id can only be a folder, and there is none.

    Example:
        >>> parse_id("user/rws-fog@v1.0")
        Location(kind='hub', id='user/rws-fog', revision='v1.0')
        >>> parse_id("resnet50.a1_in1k").kind
        'name'
    """
    if not isinstance(id, (str, os.PathLike)):
        raise OptionError(f"a {type(id).__name__} is no id: {_FORMS}")
    text = os.fspath(id)
    if os.path.isdir(text):
        return _folder(text, revision)
    if isinstance(id, os.PathLike) or os.path.exists(text):
        raise NotFoundError(f"{text!r} is a file, not a folder" if os.path.exists(text) else f"no folder {text!r}")
    base, at, suffix = text.partition("@")
    if (at and not suffix) or (suffix and revision not in (None, suffix)):
        raise OptionError(f"{text!r} with revision={revision!r} does not say which revision to take: give one")
    revision = suffix or revision
    if os.path.isdir(base):
        return _folder(base, revision)
    if revision is not None and not REVISION.fullmatch(revision):
        raise OptionError(f"{revision!r} cannot be a revision: give a branch, a tag or a commit")
    repo = base.removeprefix("hf-hub:")
    if REPO_ID.fullmatch(repo):
        return Location("hub", repo, revision)
    if NAME.fullmatch(repo):
        return Location("name" if repo == base else "hub", repo, revision)
    if repo == base and ("/" in base or os.sep in base):
        raise NotFoundError(f"there is no folder {text!r}, and it is no Hub id: {_FORMS}")
    raise OptionError(f"{text!r} is no id: {_FORMS}")


def _folder(path: str, revision: str | None) -> Location:
    if revision is not None:
        raise OptionError(f"{path!r} is a folder here, without revisions; for the repo on the Hub write hf-hub:{path}")
    return Location("local", path)
