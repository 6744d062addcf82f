"""What we put into the cache is what the client would have put there: each finds the other's files."""

import pytest
from huggingface_hub import constants, file_download, hf_hub_download, scan_cache_dir

from hf_rws.errors import NotFoundError
from tests.hub import fetch, hub_fixture  # noqa: F401
from tests.hub.samples import FILES, NAMES, REPO, contents, tree


def files(folder):
    """As `tree`, without locks, and the folder's tag for backups."""
    found = tree(folder)
    return {path: entry for path, entry in found.items() if path.suffix != ".lock" and path.name != "CACHEDIR.TAG"}


@pytest.mark.parametrize("links", [True, False])
def test_the_cache_is_the_clients(hub, tmp_path, links, monkeypatch):
    if not links:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
        monkeypatch.setattr(file_download, "_are_symlinks_supported_in_dir", {})
    hub.commit(REPO, FILES)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    fetched = fetch(REPO, NAMES, optional=["nothing.json"], cache_dir=ours)
    for name in NAMES:
        hf_hub_download(REPO, name, cache_dir=theirs)
    with pytest.raises(file_download.RemoteEntryNotFoundError):
        hf_hub_download(REPO, "nothing.json", cache_dir=theirs)
    assert files(ours) == files(theirs)
    (repo,) = scan_cache_dir(ours).repos
    assert (repo.repo_id, scan_cache_dir(ours).warnings) == (REPO, [])
    hub.requests.clear()
    for name in NAMES:
        path = hf_hub_download(REPO, name, cache_dir=ours, local_files_only=True)
        assert path == str(fetched.folder / name)
    assert contents(fetch(REPO, NAMES, cache_dir=theirs, local_files_only=True)) == FILES
    with pytest.raises(NotFoundError, match=r"no file 'nothing\.json'"):
        fetch(REPO, ["nothing.json"], cache_dir=theirs, local_files_only=True)
    assert not hub.requests


def test_a_content_that_another_commit_has_is_not_fetched_again(hub):
    hub.commit(REPO, FILES)
    first = fetch(REPO, NAMES)
    hub.commit(REPO, {"config.json": b"{}"})
    hub.requests.clear()
    second = fetch(REPO, NAMES)
    assert hub.asked("GET /[0-9a-f]{64}") == 0
    assert (second.folder / NAMES[1]).resolve() == (first.folder / NAMES[1]).resolve()
    assert first.folder != second.folder
