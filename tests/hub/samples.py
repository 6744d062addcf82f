"""A repo as small as one can be, and what tests do with it."""

import pickle
from pathlib import Path

import pytest

from hf_rws import cards
from hf_rws._transport.pushing import push_folder_files
from tests.hub.storage import WRITE

REPO = "user/rws-fog"
MANY = 99  # times that a fault happens: always
CONFIG, WEIGHTS = b'{"format_version": "1.0"}', bytes(range(256)) * 40
FILES = {"config.json": CONFIG, "signature.safetensors": WEIGHTS}
NAMES = list(FILES)
SHA = "0123456789abcdef0123456789abcdef01234567"
CARD = f"---\ntags:\n- rws\n---\n\n# rws-fog\n\n{cards.RESULTS_BEGIN}\nTA 60\n{cards.RESULTS_END}\n"
PUSHED = {**FILES, "README.md": CARD.encode()}


@pytest.fixture(name="folder")
def folder_fixture(tmp_path) -> Path:
    """A saved signature, and what must never be pushed beside it."""
    path = tmp_path / "rws-fog"
    path.mkdir()
    for name, content in {**PUSHED, ".env": b"HF_TOKEN=hf_secret", ".tmpAbC": WEIGHTS, "notes.txt": b""}.items():
        (path / name).write_bytes(content)
    (path / "link").symlink_to("/etc/hostname")
    return path


def push(folder, names=tuple(PUSHED), token=WRITE, **options):
    return push_folder_files(REPO, folder, names, token=token, **options)


def contents(fetched):
    return {name: (fetched.folder / name).read_bytes() for name in NAMES}


def tree(folder):
    """Everything below a folder, by its path there: what a link points to, a file's content, or None for a folder."""
    found = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[path.relative_to(folder)] = str(path.readlink()) if path.is_symlink() else content
    return found


def wrong(good):
    """Contents that are not the weights."""
    return {
        "one bit": good[:-1] + bytes([good[-1] ^ 1]),
        "truncated": good[: len(good) // 2],
        "longer": good + b"\0",
        "empty": b"",
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n",
        "HTML": b"<!doctype html><html><title>502 Bad Gateway</title></html>",
        "pickle": pickle.dumps({"codes": [1, 2]}),
    }
