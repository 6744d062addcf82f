"""Collections of repos on the Hub."""

import json
import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import constants

from hf_rws._transport import calls
from hf_rws._transport.exchange import ask_json, post
from hf_rws._transport.ids import Location
from hf_rws.errors import NetworkError, RWSError

_SLUG = re.compile(r"[\w.-]+/[\w.-]+")


def collect(title: str, namespace: str, repo_ids: Sequence[str], *, private: bool, token: bool | str | None) -> str:
    """The URL of a collection that holds these model repos, which is made if needed.

    Args:
        title: A collection of this title is taken if the namespace has one.
        namespace: User or organisation.
        repo_ids: What it is to hold; it may hold more.
        private: Visibility of a collection that is made now.
        token: A token with write access; None for the one logged in with.

    Raises:
        RWSError: As `ask_json` raises them.
    """
    where = Location("hub", f"the collection {title!r}")
    asked = {"title": title, "namespace": namespace, "private": private}
    try:
        made = ask_json(where, "/api/collections", method="POST", token=token, json=asked)
        slug = _slug(where, made)
    except RWSError as error:
        if calls.status_of(error) != 409:
            raise
        slug = _slug(where, json.loads(getattr(error.__cause__, "response").content))  # noqa: B009
        made = ask_json(where, f"/api/collections/{slug}", token=token)
    items = made.get("items")
    there = {item.get("id") for item in items if isinstance(item, dict)} if isinstance(items, list) else set()
    for repo_id in (repo_id for repo_id in repo_ids if repo_id not in there):
        try:
            item = {"item": {"id": repo_id, "type": "model"}}
            post(where, f"/api/collections/{slug}/items", token=token, json=item)
        except RWSError as error:
            if calls.status_of(error) != 409:  # it is in it
                raise
    return f"{constants.ENDPOINT}/collections/{slug}"


def _slug(where: Location, said: dict[str, Any]) -> str:
    slug = said.get("slug")
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug) or ".." in slug:
        raise NetworkError(f"{where}: the answer broke ({slug!a:.80} is no collection). Check HF_ENDPOINT")
    return slug
