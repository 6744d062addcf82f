"""Tokens, repos that are not for everybody, revisions and repos that come and go."""

import pytest

from hf_rws.errors import (
    AccessError,
    NotFoundError,
)
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.samples import CARD, FILES, MANY, NAMES, PUSHED, REPO, SHA, contents, folder_fixture, push  # noqa: F401
from tests.hub.server import OTHER, READ, WRITE


def test_every_refusal_has_words_of_its_own(hub, folder):
    hub.commit(REPO, FILES)
    hub.commit("user/private", FILES, private=True)
    hub.commit("user/gated", FILES, gated=True)
    refusals = {
        "no token to push with": lambda: push(folder, token=None),
        "read-only token": lambda: push(folder, token=READ),
        "private, no token": lambda: fetch("user/private", NAMES),
        "private, other user": lambda: fetch("user/private", NAMES, token=OTHER),
        "gated": lambda: fetch("user/gated", NAMES, token=OTHER),
        "token=True": lambda: fetch(REPO, NAMES, token=True),
    }
    messages = {}
    for name, act in refusals.items():
        with pytest.raises((AccessError, NotFoundError)) as raised:
            act()
        messages[name] = str(raised.value).replace("user/private", "R").replace("user/gated", "R").replace(REPO, "R")
    assert len(set(messages.values())) == len(messages), messages
    with pytest.raises(AccessError, match="does not accept this one"):
        fetch(REPO, NAMES, token="hf_wrongwrongwrong")


def test_no_token_in_messages(hub):
    hub.commit(REPO, FILES)
    secret = "sesame-open-yourself"
    hub.faults = [Fault("", status=403, headers={"X-Error-Message": f"{secret} {WRITE} Bearer abc"}, times=MANY)]
    with pytest.raises(AccessError) as raised:
        fetch(REPO, NAMES, token=secret)
    assert "..." in str(raised.value)
    for text in (secret, WRITE, "abc"):
        assert text not in str(raised.value)


def test_a_repo_that_was_deleted_and_made_again(hub, folder):
    first = hub.commit(REPO, FILES)
    kept = fetch(REPO, NAMES)
    del hub.repos[REPO]
    with pytest.raises(NotFoundError, match="no user/rws-fog on the Hub"):
        fetch(REPO, NAMES)
    second = hub.commit(REPO, {**FILES, "config.json": b"{}"})
    assert fetch(REPO, NAMES).revision == second
    assert fetch(f"{REPO}@{first}", NAMES) == kept  # what was pinned and is cached stays
    with pytest.raises(NotFoundError, match=f"user/rws-fog has no revision '{first}'"):
        fetch(f"{REPO}@{first}", NAMES, force_download=True)
    push(folder)
    assert hub.files(REPO) == PUSHED


@pytest.mark.parametrize("pattern", ["HEAD .*config", "HEAD .*signature"])
def test_a_repo_that_is_deleted_while_it_is_read(hub, pattern):
    hub.commit(REPO, FILES)
    hub.faults = [Fault(pattern, before=lambda: hub.repos.pop(REPO))]
    with pytest.raises(NotFoundError, match="no user/rws-fog on the Hub"):
        fetch(REPO, NAMES, token=READ)


def test_a_repo_that_is_deleted_while_it_is_pushed_to(hub, folder):
    hub.commit(REPO, FILES)
    hub.faults = [Fault("POST .*/commit", before=lambda: hub.repos.pop(REPO))]
    with pytest.raises(NotFoundError, match="no user/rws-fog on the Hub"):
        push(folder)
