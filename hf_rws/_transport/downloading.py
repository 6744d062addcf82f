"""One file of one commit, from the Hub into its cache: what the server says is checked before anything is written.

The client's own download takes names of files in the cache from the server's headers, unchecked. So only its requests
and its transfer by Xet are used here. The cache keeps its layout, which other libraries share:
`blobs/ETAG`, linked from `snapshots/COMMIT/NAME`; `.no_exist/COMMIT/NAME`; `.locks/REPO/ETAG.lock` beside the repo.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name, xet_get
from huggingface_hub.utils import WeakFileLock, XetFileData, are_progress_bars_disabled, tqdm

from hf_rws._progress import bar, bars_are_drawn
from hf_rws._transport import calls
from hf_rws._transport.calls import AnswerError, Progress
from hf_rws._transport.exchange import headers, opened, pieces
from hf_rws._transport.ids import COMMIT, SHA256, Location
from hf_rws._version import __version__
from hf_rws.errors import FormatError, IntegrityError

_ETAG = re.compile(r"[A-Za-z0-9_-]{1,128}")  # becomes the name of a file
_AS_A_DOWNLOAD = {"X-HF-Download-Counter": "1"}  # as the client's own downloads are counted


@dataclass(frozen=True)
class _Announced:
    """What the server says of a file before it sends it, checked.

    Attributes:
        etag: Names the content; its hash, on the Hub.
        size: In bytes; None if it is not said yet.
        url: Where it is.
        trusted: Whether that server may see the token.
        xet: What the client needs to transfer it by Xet, if that is possible.
    """

    etag: str
    size: int | None
    url: str
    trusted: bool
    xet: XetFileData | None


class _Arriving(Progress):
    """A file that is being received.

    What other processes have of the same content counts as progress, too: we wait for their lock.

    Attributes:
        path: The unfinished copy in the cache, which is named as the client names its own; None before it is known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None

    def copy_of(self, blob: Path) -> Path:
        """Where to put what comes of a content: beside it, in every try at the same place."""
        if self.path is None or self.path.name.partition(".")[0] != blob.name:
            self.drop()
            self.path = blob.with_name(f"{blob.name}.{secrets.token_hex(4)}.incomplete")
        return self.path

    def drop(self) -> None:
        """Take away what is not finished."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def nbytes(self) -> int:
        total, ours = super().nbytes(), self.path
        if ours is not None:
            for path in ours.parent.glob(f"{ours.name.partition('.')[0]}.*.incomplete"):
                with suppress(OSError):  # it has just been renamed
                    total += path.stat().st_size if path != ours else 0
        return total

    def bar(self) -> type[tqdm]:
        """A progress bar that tells us what it shows."""
        advance = self.advance

        class Bar(tqdm):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options if bars_are_drawn() else options | {"disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                advance(int(n or 0))
                return super().update(n)

        return Bar


def storage_of(cache: Path, where: Location) -> Path:
    """The folder of a repo in the cache; OptionError if it cannot be a repo's id."""
    return calls.ask(lambda: cache / repo_folder_name(repo_id=where.id, repo_type="model"), where)


def remember(storage: Path, revision: str, commit: str) -> None:
    """Note in the cache which commit a revision names, for later without network; left out where that fails."""
    path = storage / "refs" / revision
    with suppress(OSError):
        if not path.is_file() or path.read_bytes() != commit.encode():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
            temporary.write_text(commit)
            temporary.replace(path)


def download(
    where: Location,
    commit: str,
    cache: Path,
    filename: str,
    *,
    largest: int | None,
    token: bool | str | None = None,
    force: bool = False,
) -> Path:
    """Put one file of one commit into the cache; returns its place there, `snapshots/COMMIT/NAME`.

    It gets there only when it is whole and has the hash that the server announced, if that is one. After a break it
    goes on where it broke off. Of n bytes the transfer takes at most `calls.TIME_LIMIT + n / calls.SLOWEST` seconds.

    Args:
        where: What error messages name; a repo on the Hub.
        commit: 40 hex digits.
        cache: The cache; made if needed.
        filename: The file's name in the repo.
        largest: How many bytes it may have; None for any number.
        token: As in huggingface_hub.
        force: Receive it even if the cache has its content.

    Raises:
        NotFoundError: No such file, commit or repo.
        AccessError: A private or gated repo, or a wrong token; or the cache cannot be written, or has no room.
        FormatError: It is larger than that; nothing of it is received.
        NetworkError: The Hub cannot be reached, or what it says is broken.
        IntegrityError: The file was damaged on the way, or the server names another commit, or a place outside the
            cache.
    """
    storage, arriving = storage_of(cache, where), _Arriving()
    place = storage / "snapshots" / commit / filename

    def allow(nbytes: int) -> None:
        if largest is not None and nbytes > largest:
            raise FormatError(
                f"{where} ({filename}): is larger than the {largest:,} bytes that are read of such a file"
            )

    def get() -> None:
        announced = _announced(where, commit, storage, filename, token)
        allow(announced.size or 0)
        blob = storage / "blobs" / announced.etag
        lock = cache / ".locks" / storage.name / f"{announced.etag}.lock"
        for folder in (blob.parent, place.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        unfinished = arriving.copy_of(blob)
        with WeakFileLock(lock):  # who wants the same content waits for it
            if new := force or not _has_its_hash(blob, announced.etag):
                _receive(announced, unfinished, arriving, filename, token, allow)
                if not _has_its_hash(unfinished, announced.etag):
                    raise IntegrityError(f"{where} ({filename}): damaged on the way from the Hub. Try again")
                unfinished.replace(blob)
            _put(blob, place, cache, new=new)

    try:
        calls.ask(get, where, file=filename, token=token, progress=arriving)
    finally:
        arriving.drop()
    return place


# --- what is announced ---


def _announced(where: Location, commit: str, storage: Path, filename: str, token: bool | str | None) -> _Announced:
    url = hf_hub_url(where.id, filename, revision=commit)

    try:
        said = get_hf_file_metadata(
            url,
            token=token,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            library_name=calls.LIBRARY,
            library_version=__version__,
            headers=_AS_A_DOWNLOAD,
        )
    except hub_errors.RemoteEntryNotFoundError as error:
        if error.response.headers.get("X-Repo-Commit") == commit:
            _remember_absence(storage / ".no_exist" / commit / filename)
        raise
    location = urljoin(url, said.location)
    xet = said.xet_file_data
    if not said.commit_hash or not said.etag or (said.size is None and xet is not None) or (said.size or 0) < 0:
        raise calls.no_hub(where, filename)
    for wrong, what in (
        (said.commit_hash != commit, "another commit"),
        (not _ETAG.fullmatch(said.etag), "a place outside the cache"),
        (_server(location) is None, "an address that is not on the web"),
        (xet is not None and not SHA256.fullmatch(xet.file_hash), "a content that Xet cannot have"),
        (xet is not None and not _may_see_the_token(xet.refresh_route, url), "an address that must not see the token"),
    ):
        if wrong:
            raise IntegrityError(f"{where}: the server answered for {filename!r} with {what}. Check HF_ENDPOINT")
    if xet is None:
        return _Announced(said.etag, said.size, location, _may_see_the_token(location, url), None)
    by_xet = not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
    return _Announced(said.etag, said.size, url, True, xet if by_xet else None)


def _may_see_the_token(other: str, url: str) -> bool:
    """Whether it is the server that was asked, or the Hub, which a mirror may refer to."""
    return _server(other) in (_server(url), _server(constants.HUGGINGFACE_CO_URL_HOME))


def _server(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; None if it is no URL of the web."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):  # a port that is no number, a broken IPv6 address, another scheme
        return None
    return parts.scheme, parts.hostname or "", port


def _remember_absence(path: Path) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# --- receiving ---


def _receive(
    announced: _Announced,
    path: Path,
    arriving: _Arriving,
    filename: str,
    token: bool | str | None,
    allow: Callable[[int], None],
) -> None:
    """Fill the unfinished copy, or the rest of it; `allow` raises an error where its size is too large."""
    arriving.advance(0)  # given up while it waited for the lock
    if announced.size is not None and shutil.disk_usage(path.parent).free < announced.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sent = headers(token) | _AS_A_DOWNLOAD
    if announced.xet is not None:
        sent.pop("Accept-Encoding")
        xet_get(
            incomplete_path=path,
            xet_file_data=announced.xet,
            headers=sent,
            expected_size=announced.size,
            displayed_filename=filename,
            tqdm_class=arriving.bar(),
        )
        return
    if not announced.trusted:
        sent.pop("authorization", None)
    shown = not are_progress_bars_disabled("huggingface_hub.http_get")
    with bar(total=announced.size, unit="B", unit_scale=True, desc=filename[-40:], shown=shown) as counter:
        while True:
            before = _size(path)
            try:
                return _go_on(announced, path, arriving, sent, counter.update, allow)
            except Exception as error:
                if not calls.is_broken_connection(error) or _size(path) <= before:
                    raise
            time.sleep(0.1)


def _go_on(
    announced: _Announced,
    path: Path,
    progress: Progress,
    sent: dict[str, str],
    show: Callable[[int], object],
    allow: Callable[[int], None],
) -> None:
    """One request, for what is missing. A server that knows no ranges sends all again."""
    begin = _size(path)
    if begin and begin == announced.size:
        return
    rest = {"Range": f"bytes={begin}-"} if begin else {}
    options: dict[str, Any] = {"progress": progress, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
    with opened("GET", announced.url, {**sent, **rest}, **options) as response, path.open("ab") as file:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            begin = 0
            file.truncate(0)
        size = announced.size
        try:
            if size is None:
                size = begin + int(response.headers["Content-Length"])
                allow(size)
            for chunk in pieces(response, progress, size - begin):
                file.write(chunk)
                file.flush()
                show(len(chunk))
            if (came := file.seek(0, os.SEEK_END)) != size:
                raise AnswerError(f"{came:,} bytes came instead of {size:,}")
        except (AnswerError, KeyError, ValueError) as error:
            file.truncate(0)
            raise error if isinstance(error, AnswerError) else AnswerError("it does not say how large it is") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _has_its_hash(path: Path, etag: str) -> bool:
    """Whether a file is there and has the hash that the Hub announced: its ETag, if that is a hash."""
    if not path.is_file():
        return False
    hashes: list[Any] = []
    if SHA256.fullmatch(etag):
        hashes = [hashlib.sha256()]
    elif COMMIT.fullmatch(etag):  # git's id of a blob; a plain sha1 comes from mirrors
        hashes = [hashlib.sha1(b"blob %d\0" % path.stat().st_size), hashlib.sha1()]
    with path.open("rb") as file:
        while hashes and (chunk := file.read(2**20)):
            for hash in hashes:
                hash.update(chunk)
    return not hashes or etag in [hash.hexdigest() for hash in hashes]


def _put(blob: Path, place: Path, cache: Path, *, new: bool) -> None:
    """Make a content the file of a commit: by a link, or where there are none as a file of its own."""
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.new")
    if are_symlinks_supported(cache):
        temporary.symlink_to(os.path.relpath(blob, place.parent))
        temporary.replace(place)
    elif new:
        blob.replace(place)
    else:
        shutil.copyfile(blob, temporary)
        temporary.replace(place)
