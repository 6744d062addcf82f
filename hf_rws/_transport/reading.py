"""Fetching files of one commit through the Hub's cache."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import (
    _CACHED_NO_EXIST,
    constants,
    hf_hub_download,
    is_offline_mode,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import tqdm

from hf_rws._transport.calls import LIBRARY, ask, client
from hf_rws._transport.ids import COMMIT, SHA256, Location
from hf_rws._version import __version__
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
        OptionError: No file names, or `force_download` without the Hub.
        NotFoundError: No such folder, repo, revision or file.
        AccessError: A private or gated repo, or a wrong token; or the cache cannot be written.
        NetworkError: No connection, no answer within `calls.TIME_LIMIT` seconds, a failing Hub, or offline and not in
            the cache.
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
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
    commit = _resolve(where, cache, token=token, offline=offline)
    get = partial(download, where, commit, cache, token=token, offline=offline, force=force_download)
    for filename in filenames:
        folder = get(filename)
    absent = (NotFoundError, NetworkError) if offline else (NotFoundError,)
    for filename in optional:
        with suppress(*absent):
            get(filename)
    return Fetched(folder, where.id, commit)


def _in_folder(folder: Path, filenames: Sequence[str]) -> Fetched:
    missing = [filename for filename in filenames if not (folder / filename).is_file()]
    if missing:
        raise NotFoundError(f"the folder {os.fspath(folder)!r} has no {' and no '.join(missing)}")
    return Fetched(folder, None, None)


def _resolve(where: Location, cache: Path, *, token: bool | str | None, offline: bool) -> str:
    """The commit that a revision names; where the Hub cannot be asked, the one that it named when it last was."""
    api = client(token)

    def commit(offline: bool) -> str:
        call = partial(api.resolve_revision, where.id, revision=where.revision, cache_dir=cache)
        return ask(lambda: call(local_files_only=offline).resolved, where, token=token)

    try:
        found = commit(offline)
    except NetworkError as error:
        try:
            found = commit(offline=True)
        except NetworkError:
            raise error from error.__cause__
    if not COMMIT.fullmatch(found):
        raise IntegrityError(f"{where}: {found!r} is no commit; the cache's refs are damaged or the server is no Hub")
    return found


def download(
    where: Location,
    commit: str,
    cache: Path,
    filename: str,
    *,
    token: bool | str | None = None,
    offline: bool = False,
    force: bool = False,
) -> Path:
    """Put one file of one commit into the cache; returns the folder of that commit."""
    known = try_to_load_from_cache(where.id, filename, cache_dir=cache, revision=commit)
    if known is _CACHED_NO_EXIST and not force:
        raise NotFoundError(f"{where} has no file {filename!r}")
    bar, alive = _signs_of_life(cache / repo_folder_name(repo_id=where.id, repo_type="model") / "blobs")
    path = ask(
        lambda: hf_hub_download(
            where.id,
            filename,
            revision=commit,
            token=token,
            cache_dir=cache,
            local_files_only=offline,
            force_download=force,
            tqdm_class=bar,
            library_name=LIBRARY,
            library_version=__version__,
        ),
        where,
        file=filename,
        token=token,
        alive=alive,
    )
    folder = _snapshot(Path(path), filename, commit, where)
    if (known is None or force) and not _is_what_was_announced(Path(path)):
        Path(path).resolve().unlink(missing_ok=True)  # or it would be taken from the cache for ever
        Path(path).unlink(missing_ok=True)
        raise IntegrityError(f"{where} ({filename}): damaged on the way from the Hub. Try again")
    return folder


def _snapshot(path: Path, filename: str, commit: str, where: Location) -> Path:
    """The folder of a commit in the cache that holds `path`, made sure of.

    The client takes the name of the commit and the place of the content from headers of the server.
    """
    folder = path.parents[filename.count("/")]
    content = Path(os.path.normpath(path.parent / os.readlink(path))) if path.is_symlink() else None
    if folder.name != commit or (content is not None and content.parent != folder.parents[1] / "blobs"):
        raise IntegrityError(
            f"{where}: the server answered for {filename!r} with another commit, or with a place outside the cache. "
            f"Check HF_ENDPOINT"
        )
    return folder


def _is_what_was_announced(path: Path) -> bool:
    """Whether a file in the cache has the hash that the Hub announced: its ETag, which the cache names contents by."""
    content = path.resolve()
    if not content.is_file():
        return False  # another process found it damaged
    hashes: list[Any] = []
    if SHA256.fullmatch(content.name):
        hashes = [hashlib.sha256()]
    elif COMMIT.fullmatch(content.name):  # git's id of a blob; a plain sha1 comes from mirrors
        hashes = [hashlib.sha1(b"blob %d\0" % content.stat().st_size), hashlib.sha1()]
    with content.open("rb") as file:
        while hashes and (chunk := file.read(2**20)):
            for hash in hashes:
                hash.update(chunk)
    return not hashes or content.name in [hash.hexdigest() for hash in hashes]


def _signs_of_life(blobs: Path) -> tuple[type[tqdm], Callable[[], object]]:
    """A progress bar, and a function whose result changes as long as a download goes on.

    The bar sees what the client receives. The sizes of unfinished files also tell that another process downloads the
    same file, while we wait for its lock.
    """
    updates = 0

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            nonlocal updates
            updates += 1
            return super().update(n)

    def alive() -> object:
        try:
            return updates, {file.name: file.stat().st_size for file in os.scandir(blobs)}
        except OSError:  # no such folder yet, or a file that has just been renamed
            return updates, {}

    return Bar, alive
