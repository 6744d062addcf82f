"""Pushing exactly the files that the library wrote, as one commit."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from huggingface_hub import CommitInfo, CommitOperationAdd, constants
from huggingface_hub import errors as hub_errors

from hf_rws import cards
from hf_rws._files import LARGEST_TEXT, README_NAME, is_file, read_text
from hf_rws._progress import bars_as_ours
from hf_rws._transport import calls, repos
from hf_rws._transport.downloading import download
from hf_rws._transport.exchange import ask_json, post
from hf_rws._transport.ids import COMMIT, REPO_ID, REVISION, Location
from hf_rws._transport.watching import watched
from hf_rws.errors import AccessError, IntegrityError, NetworkError, NotFoundError, OptionError, RWSError

_SLOWEST_UPLOAD = 50_000  # bytes per second: a commit of n bytes may take n / _SLOWEST_UPLOAD seconds longer


def push_folder_files(
    repo_id: str,
    folder: str | os.PathLike[str],
    filenames: Sequence[str],
    *,
    repo_type: Literal["model", "dataset"] = "model",
    instead: Mapping[str, str] | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    tag: str | None = None,
    relicensed: bool = False,
) -> CommitInfo:
    """Push exactly these files of a folder as one commit; the repo is made if needed.

    No commit is made if nothing has changed, and no pull request is opened if one of this user is open that has these
    very files: a push whose answer was lost can simply be run again. If somebody else commits in the meantime, the push
    fails and changes nothing. A README.md that the repo has keeps its text; its metadata and results are brought up to
    date (`cards.merge_card`). That of a dataset stays as it is.

    Args:
        repo_id: "user/name".
        folder: Where the files are.
        filenames: Their names, in the folder and in the repo.
        repo_type: What the repo holds.
        instead: Texts that are pushed in place of those of files.
        private: Visibility of a repo that is made now; for one that exists, what it must be.
        token: A token with write access; None for the one logged in with.
        revision: Branch to push to, made if needed.
        create_pr: Open a pull request instead of pushing to the branch.
        commit_message: First line of the commit; "Upload with hf_rws" if None.
        tag: Tag to put on the commit.
        relicensed: The license that the README.md here names replaces the one that the repo's README.md names.

    Returns:
        The commit; the present head, of the branch or of the open pull request, if nothing has changed.

    Raises:
        OptionError: A bad id, file name, revision or tag, a tag that names another commit, or a repo of the other
            visibility.
        NotFoundError: A file is missing, or the repo is not there for this token.
        AccessError: No token, a wrong one, or one that may not write there.
        NetworkError: No connection, no answer in time, or a failing Hub.
        FormatError: The README of the repo cannot be read, or the Hub refuses the new one.
        RWSError: The repo changed while it was being pushed to.
    """
    where = replace(destination(repo_id, revision, create_pr=create_pr, tag=tag), repo_type=repo_type)
    files = _files_to_push(Path(folder), filenames)
    head = _head(where, token, private=private)
    if private is not None and head.private is not None and head.private != private:
        visibility = "private" if head.private else "public"
        raise OptionError(f"{where.id} exists and is {visibility}: change that in its settings, or leave out private=")
    contents: dict[str, str | bytes] = {name: os.fspath(file) for name, file in files.items()}
    contents |= {name: text.encode() for name, text in (instead or {}).items()}
    if README_NAME in files and README_NAME in head.files and repo_type == "dataset":
        del contents[README_NAME]
    elif README_NAME in files and README_NAME in head.files:
        contents[README_NAME] = _merged_readme(where, head.commit, files[README_NAME], token, relicensed)
    if create_pr and (proposed := _proposed(where, contents, token)):
        return proposed
    commit = _commit(
        where,
        contents,
        token,
        seconds=calls.TIME_LIMIT + sum(file.stat().st_size for file in files.values()) / _SLOWEST_UPLOAD,
        commit_message=commit_message or "Upload with hf_rws",
        create_pr=create_pr,
        parent_commit=head.commit,
    )
    if tag is not None:
        _put_tag(where, tag, commit, token)
    return commit


def destination(repo_id: str, revision: str | None, *, create_pr: bool, tag: str | None) -> Location:
    if not isinstance(repo_id, str) or not REPO_ID.fullmatch(repo_id):
        raise OptionError(f"{repo_id!r} is no Hub id to push to: give user/name")
    for name in (revision, tag):
        if name is not None and (not REVISION.fullmatch(name) or COMMIT.fullmatch(name)):
            raise OptionError(f"{name!r} cannot be the name of a branch or tag")
    if create_pr and (tag is not None or revision not in (None, "main")):
        raise OptionError("a pull request is made against main and cannot be tagged: leave out revision and tag")
    return Location("hub", repo_id, revision)


def _files_to_push(folder: Path, filenames: Sequence[str]) -> dict[str, Path]:
    if not filenames:
        raise OptionError("no file to push: name at least one")
    files = {}
    for filename in filenames:
        parts = PurePosixPath(filename).parts
        if not parts or "\\" in filename or any(part.startswith((".", "/")) for part in parts):
            raise OptionError(f"{filename!r} is not pushed: names are relative, and no part of them starts with a dot")
        file = folder / filename
        if os.path.islink(file):
            raise OptionError(f"{filename!r} is a link and is not pushed: put the file itself into the folder")
        if not is_file(file):
            raise NotFoundError(f"there is no file {filename!r} in {os.fspath(folder)!r}")
        if not os.access(file, os.R_OK):
            raise AccessError(f"{filename!r} in {os.fspath(folder)!r} may not be read")
        files[filename] = file
    return files


def _head(where: Location, token: bool | str | None, *, private: bool | None) -> repos.Repo:
    """The branch to push to; the repo and the branch are made if there are none."""
    try:
        return repos.look(where, token=token)
    except NotFoundError as error:
        branch = where.revision or "main"
        if branch.startswith("refs/"):
            raise
        repo_is_there = isinstance(error.__cause__, hub_errors.RevisionNotFoundError)
    if not repo_is_there:
        _make_repo(where, token, private=private)
    if branch != "main":
        with _if_it_is_not_there():
            post(where, f"{repos.api_path(where)}/branch/{quote(branch, safe='')}", token=token, json={})
    return repos.look(where, token=token)


def _make_repo(where: Location, token: bool | str | None, *, private: bool | None) -> None:
    owner, _, name = where.id.rpartition("/")
    asked = {"name": name, "organization": owner, "type": where.repo_type}
    if private is not None:
        asked["visibility"] = "private" if private else "public"
    with _if_it_is_not_there():
        made = ask_json(where, "/api/repos/create", method="POST", token=token, json=asked)
        if not isinstance(made.get("url"), str):
            raise NetworkError(f"{where}: the answer broke (it has no url). Check HF_ENDPOINT, and try again")


@contextmanager
def _if_it_is_not_there() -> Iterator[None]:
    """Something is to be made, and is there already: that is no error."""
    try:
        yield
    except RWSError as error:
        if calls.status_of(error) != 409 or "conflicting operation" in str(error):  # another repo is being made
            raise


def _commit(
    where: Location, contents: Mapping[str, str | bytes], token: bool | str | None, *, seconds: float, **options: Any
) -> CommitInfo:
    """Make the commit. Made again after its answer was lost, it finds its files there, or is refused for another's."""
    api = calls.client(token)

    def commit() -> CommitInfo:
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
        with bars_as_ours("huggingface_hub"):
            return api.create_commit(where.id, added, repo_type=where.repo_type, revision=where.revision, **options)

    try:
        with watched() as make:
            made = calls.ask(lambda: make(commit), where, token=token, seconds=seconds, once=options["create_pr"])
    except RWSError as error:
        if calls.status_of(error) not in (409, 412):
            raise
        raise RWSError(
            f"{where} changed while it was being pushed to, and nothing was pushed: push again"
        ) from error.__cause__
    if not isinstance(made.oid, str) or not COMMIT.fullmatch(made.oid):
        raise IntegrityError(f"{where}: {made.oid!a:.80} is no commit; the server is no Hub. Check HF_ENDPOINT")
    return made


def _merged_readme(where: Location, commit: str, fresh: Path, token: bool | str | None, relicensed: bool) -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        path = download(where, commit, Path(temporary).resolve(), README_NAME, largest=LARGEST_TEXT, token=token)
        name = f"{where} {README_NAME}"
        existing = read_text(path, name)
    text = fresh.read_text(encoding="utf-8")
    return cards.merge_card(existing, text, relicensed=relicensed, where=name).encode()


def _proposed(where: Location, contents: Mapping[str, str | bytes], token: bool | str | None) -> CommitInfo | None:
    """The head of an open pull request of this user that has these very files; None if there is none."""

    @cache
    def hashes(name: str) -> tuple[str, str]:
        return _hashes(contents[name])

    def has(files: Mapping[str, tuple[str | None, str | None]], name: str) -> bool:
        git, sha256 = files.get(name, (None, None))
        return git == hashes(name)[0] if sha256 is None else sha256 == hashes(name)[1]

    for number, title in repos.pull_requests(where, repos.whoami(where, token), token=token):
        there = repos.look(replace(where, revision=f"refs/pr/{number}"), token=token, hashes=True)
        if all(has(there.files, name) for name in contents):
            url = f"{constants.ENDPOINT}/{where.id}"
            return CommitInfo(
                commit_url=f"{url}/commit/{there.commit}",
                commit_message=title,
                commit_description="",
                oid=there.commit,
                pr_url=f"{url}/discussions/{number}",
            )
    return None


def _hashes(content: str | bytes) -> tuple[str, str]:
    """The id in git and the sha256 of a content, or of that of the file of this name; of any size."""
    with BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
        nbytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        git, sha256 = hashlib.sha1(b"blob %d\0" % nbytes), hashlib.sha256()
        while chunk := file.read(2**20):
            git.update(chunk)
            sha256.update(chunk)
    return git.hexdigest(), sha256.hexdigest()


def _put_tag(where: Location, tag: str, commit: CommitInfo, token: bool | str | None) -> None:
    with _if_it_is_not_there():
        post(where, f"{repos.api_path(where)}/tag/{commit.oid}", token=token, json={"tag": tag})
    tagged = repos.look(replace(where, revision=tag), token=token).commit
    if tagged != commit.oid:
        raise OptionError(
            f"{where.id} is pushed as {commit.oid[:7]}, but its tag {tag!r} names {tagged[:7]} already: choose another "
            f"tag, or delete that one"
        )
