"""Whether a folder can be written to, asked before long work."""

import errno
import os
from pathlib import Path

import pytest

from hf_rws._files import check_writable
from hf_rws.errors import AccessError, OptionError


def test_nothing_is_left_behind(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for folder in (there, tmp_path / "new", tmp_path / "new" / "deeper"):
        assert check_writable(folder, "the model") == folder
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_the_folder_is_named(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OptionError, match=f"{file} is a file"):
        check_writable(file, "the model")
    with pytest.raises(AccessError, match=f"cannot save the model in {file}/below: Not a directory"):
        check_writable(file / "below", "the model")
    monkeypatch.setattr(os, "mkdir", _full)
    with pytest.raises(AccessError, match=f"cannot save the model in {tmp_path}: No space left on device"):
        check_writable(tmp_path, "the model")


def test_a_disk_that_takes_a_folder_but_no_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", _full)
    with pytest.raises(AccessError, match="No space left on device"):
        check_writable(tmp_path, "the model")
    assert not list(tmp_path.iterdir())


def _full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
