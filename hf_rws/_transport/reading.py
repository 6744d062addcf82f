"""Fetching files of one commit through the Hub's cache."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, constants, is_offline_mode, try_to_load_from_cache

from hf_rws._files import LARGEST_JSON, LARGEST_SIGNATURE, LARGEST_TEXT, README_NAME, is_file
from hf_rws._transport import calls, repos
from hf_rws._transport.downloading import download, remember, storage_of
from hf_rws._transport.ids import COMMIT, Location
from hf_rws.errors import IntegrityError, NetworkError, NotFoundError, OptionError


@dataclass(frozen=True)
class Fetched:
    """Files of one commit, on this machine.

    Attributes:
        folder: Holds the files.
        repo_id: "user/name" on the Hub; None for a local folder.
        revision: The commit (40 hex digits) that the files are of; None for a local folder.
    """

    folder: Path = field(repr=False)  # the cache is in the user's home
    repo_id: str | None
    revision: str | None


def fetch(
    where: Location,
    filenames: Sequence[str],
    *,
    optional: Sequence[str] = (),
    token: bool | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Fetched:
    """Get files of a folder, or of one commit of a repo.

    The revision is resolved to a commit first, so the files belong together even if the repo moves in between. What
    is in the cache already costs one request for the resolution, or none if the revision is a commit. What is
    downloaded must have the hash that the Hub announced.

    Args:
        where: A folder or a repo, from `parse_id`.
        filenames: Files that must be there, at least one.
        optional: Files to get if they are there.
        token: As in huggingface_hub: None for the one logged in with, False for none.
        cache_dir: Instead of the Hub's own cache.
        local_files_only: Do not ask the Hub; HF_HUB_OFFLINE has the same effect.
        force_download: Download even what is in the cache, to replace damaged files.

    Raises:
        OptionError: No file names, `force_download` without the Hub, or a `cache_dir` that can be no folder.
        NotFoundError: No such folder, repo, revision or file.
        AccessError: A private or gated repo, or a wrong token; or the cache cannot be written, or the folder not read.
        FormatError: A file is larger than any of its name that is read; a base's weights may have any size.
        NetworkError: No connection, no answer in time (see `download`), a failing Hub, or offline and not in the cache.
        IntegrityError: A file was damaged on the way, or the server names another commit than was asked for, or a
            place outside the cache.
    """
    if not filenames:
        raise OptionError(f"no file of {where} to fetch: name at least one")
    if where.path is not None:
        return _in_folder(where.path, filenames)
    if where.kind == "name":
        raise NotFoundError(f"there is no folder {where.id!r}, and it is no Hub id: those have the form user/name")
    offline = local_files_only or is_offline_mode()
    if offline and force_download:
        raise OptionError("force_download needs the Hub, but local_files_only or HF_HUB_OFFLINE is set")
    cache = _cache(cache_dir or constants.HF_HUB_CACHE)
    commit = _resolve(where, cache, token=token, offline=offline)

    def get(filename: str) -> Path:
        if not force_download and (folder := _cached(where, commit, cache, filename)):
            return folder
        if offline:
            raise calls.not_cached(where, filename)
        largest = _largest(filename)
        place = download(where, commit, cache, filename, largest=largest, token=token, force=force_download)
        return place.parents[filename.count("/")]

    for filename in filenames:
        folder = get(filename)
    absent = (NotFoundError, NetworkError) if offline else (NotFoundError,)
    for filename in optional:
        with suppress(*absent):
            get(filename)
    return Fetched(folder, where.id, commit)


def _cache(folder: str | os.PathLike[str]) -> Path:
    try:
        return Path(folder).expanduser().resolve()
    except (RuntimeError, ValueError, TypeError) as error:  # no such user, links in a circle; a name no folder can have
        raise OptionError(f"cache_dir={folder!r} cannot be a folder: {error}") from error


def _largest(filename: str) -> int | None:
    """How many bytes a file may have: what is read of it later; None for what can have any size."""
    if filename.endswith(".json"):
        return LARGEST_JSON
    return {README_NAME: LARGEST_TEXT, "signature.safetensors": LARGEST_SIGNATURE}.get(filename)


def _in_folder(folder: Path, filenames: Sequence[str]) -> Fetched:
    missing = [filename for filename in filenames if not is_file(folder / filename)]
    if missing:
        raise NotFoundError(f"the folder {os.fspath(folder)!r} has no {' and no '.join(missing)}")
    return Fetched(folder, None, None)


def _resolve(where: Location, cache: Path, *, token: bool | str | None, offline: bool) -> str:
    """The commit that a revision names; where the Hub cannot be asked, the one that it named when it last was."""
    storage, revision = storage_of(cache, where), where.revision or constants.DEFAULT_REVISION
    if COMMIT.fullmatch(revision):
        return revision
    if offline:
        return _remembered(where, storage / "refs" / revision)
    try:
        commit = repos.look(where, token=token).commit
    except NetworkError as error:
        try:
            return _remembered(where, storage / "refs" / revision)
        except NetworkError:
            raise error from error.__cause__
    remember(storage, revision, commit)
    return commit


def _remembered(where: Location, path: Path) -> str:
    """The commit that the cache holds for a revision."""
    try:
        with path.open("rb") as file:
            commit = file.read(100).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise calls.not_cached(where) from error
    if not COMMIT.fullmatch(commit):
        raise calls.not_cached(where)  # damaged: as if it were not there
    return commit


def _cached(where: Location, commit: str, cache: Path, filename: str) -> Path | None:
    """The folder of a commit in the cache, if that file is there; it must be a file of the cache's own.

    The client takes the place of a content from headers of the server.
    """
    known = try_to_load_from_cache(where.id, filename, cache_dir=cache, revision=commit)
    if known is _CACHED_NO_EXIST:
        raise NotFoundError(f"{where} has no file {filename!r}")
    if not isinstance(known, str):
        return None
    path = Path(known)
    folder = path.parents[filename.count("/")]
    content = Path(os.path.normpath(path.parent / os.readlink(path))) if path.is_symlink() else None
    if content is not None and content.parent != folder.parents[1] / "blobs":
        raise IntegrityError(
            f"{where}: {filename!r} is a link to a place outside the cache there. Delete the repo in the cache, and "
            f"check HF_ENDPOINT"
        )
    return folder
