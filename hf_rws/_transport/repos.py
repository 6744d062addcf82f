"""What the Hub says of repos, their pull requests and its users, checked before it is used."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from huggingface_hub.utils import validate_repo_id

from hf_rws._transport import calls
from hf_rws._transport.exchange import ask_json
from hf_rws._transport.ids import COMMIT, NAME, Location
from hf_rws.errors import IntegrityError, NetworkError

_MOST_DISCUSSIONS = 1000  # that are looked through for an open pull request


@dataclass(frozen=True)
class Repo:
    """A commit of a repo.

    Attributes:
        commit: 40 hex digits.
        private: Whether only some may see it; None if the Hub does not say.
        files: By their names: git's id of the content, and the sha256 of what is kept outside of git; None where the
            Hub does not say.
    """

    commit: str
    private: bool | None
    files: Mapping[str, tuple[str | None, str | None]]


def api_path(where: Location) -> str:
    """The path of a repo in the Hub's interface; OptionError if it cannot be one's id."""
    calls.ask(lambda: validate_repo_id(where.id), where)
    return f"/api/{where.repo_type}s/{where.id}"


def look(where: Location, *, token: bool | str | None = None, hashes: bool = False) -> Repo:
    """The commit that a revision names.

    Args:
        where: A repo on the Hub.
        token: As in huggingface_hub.
        hashes: Ask for those of the files, too.

    Raises:
        IntegrityError: The answer names no commit.
        RWSError: As `ask_json` raises them.
    """
    revision = "" if where.revision is None else f"/revision/{quote(where.revision, safe='')}"
    said = ask_json(where, api_path(where) + revision, token=token, params={"blobs": True} if hashes else None)
    commit, private, siblings = said.get("sha"), said.get("private"), said.get("siblings")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise IntegrityError(f"{where}: {commit!a:.80} is no commit; the server is no Hub. Check HF_ENDPOINT")
    return Repo(commit, private if isinstance(private, bool) else None, dict(_files(siblings)))


def _files(siblings: Any) -> Iterator[tuple[str, tuple[str | None, str | None]]]:
    for file in siblings if isinstance(siblings, list) else ():
        if isinstance(file, dict) and isinstance(name := file.get("rfilename"), str):
            lfs = file.get("lfs")
            yield name, (_text(file.get("blobId")), _text(lfs.get("sha256")) if isinstance(lfs, dict) else None)


def whoami(where: Location, token: bool | str | None) -> str:
    """The name of the user whose token it is; `where` is what error messages name."""
    said = ask_json(where, "/api/whoami-v2", token=True if token is None else token)  # it must be there
    name = said.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise NetworkError(f"{where}: the answer broke ({name!a:.80} is no user's name). Check HF_ENDPOINT")
    return name


def pull_requests(where: Location, author: str, *, token: bool | str | None = None) -> Iterator[tuple[int, str]]:
    """Number and title of the open pull requests of a user; of more than `_MOST_DISCUSSIONS` only the latest."""
    params: dict[str, Any] = {"type": "pull_request", "status": "open", "author": author}
    seen: set[int] = set()
    for page in range(_MOST_DISCUSSIONS):
        said = ask_json(where, api_path(where) + "/discussions", token=token, params={**params, "p": page})
        found, count = said.get("discussions"), said.get("count")
        ones = [one for one in found if _is_discussion(one)] if isinstance(found, list) else []
        new = {one["num"]: one["title"] for one in ones if one["num"] not in seen}
        yield from new.items()
        seen.update(new)
        if not new or not isinstance(count, int) or not len(seen) < min(count, _MOST_DISCUSSIONS):
            return


def _is_discussion(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("num")) is int and isinstance(value.get("title"), str)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
