"""Full disks, kills, caches that cannot be written, and several processes on one."""

import os
import signal
import tempfile
import threading
import warnings
from pathlib import Path

import pytest

import hf_rws
from hf_rws._transport import calls
from hf_rws._transport.ids import Location
from hf_rws._transport.reading import fetch as fetch_from
from hf_rws.errors import (
    AccessError,
    IntegrityError,
    NotFoundError,
    OptionError,
)
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.processes import as_nobody, eventually, forked, forks, succeeded
from tests.hub.samples import CARD, FILES, NAMES, PUSHED, REPO, SHA, contents, folder_fixture, push  # noqa: F401
from tests.models import signature

ARCHITECTURE = "vgg16_bn_gap"


def limit_files(size):
    """No file may grow beyond so many bytes: the kernel refuses, as on a full disk."""
    import resource  # not on Windows

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@forks
def test_a_full_disk(hub, tmp_path):
    hub.commit(REPO, {**FILES, "signature.safetensors": bytes(100_000)})
    folder, other = tmp_path / "old", signature(ARCHITECTURE, "snow")
    before = {file.name: file.read_bytes() for file in signature(ARCHITECTURE).save_pretrained(folder).iterdir()}
    other.save_pretrained(tmp_path / "other")  # what is computed is kept: OpenMP does not survive a fork

    def work():
        limit_files(1000)
        with pytest.raises(AccessError, match=r"user/rws-fog \(signature.safetensors\): the file system refused: .*"):
            fetch(REPO, NAMES)
        with pytest.raises(AccessError, match=r"cannot save the signature in .*old"):
            other.save_pretrained(folder)

    assert succeeded(forked(work))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert (fetch(REPO, NAMES).folder / "signature.safetensors").read_bytes() == bytes(100_000)


def test_a_full_disk_in_the_words_of_xet():
    def xet_get():
        raise RuntimeError("Data processing error: I/O error: No space left on device (os error 28)")

    with pytest.raises(AccessError, match="the file system refused: No space left on device"):
        calls.ask(xet_get, calls.Location("hub", REPO))


@forks
def test_killed_while_downloading(hub, tmp_path):
    hub.commit(REPO, FILES)
    hub.faults = [Fault("GET /[0-9a-f]{64}", cut=4000, stall=True)]
    process = forked(lambda: fetch(REPO, NAMES))
    eventually(lambda: hub.asked("GET /[0-9a-f]{64}"))
    os.kill(process, signal.SIGKILL)
    assert not succeeded(process)
    assert contents(fetch(REPO, NAMES)) == FILES


@forks
@pytest.mark.parametrize(
    ("call", "number", "survivor"),
    [("write_bytes", 0, "old"), ("write_bytes", 2, "old"), ("replace", 0, "old"), ("replace", 1, "new"),
     ("replace", 2, "new")],
)  # fmt: skip
def test_killed_while_saving(tmp_path, monkeypatch, call, number, survivor):
    """In the middle of writing, and before each file takes its place: the old signature stays, or the new one is it."""
    folder, new = tmp_path / "rws-fog", signature(ARCHITECTURE, "snow")
    old = signature(ARCHITECTURE)
    before = {file.name: file.read_bytes() for file in old.save_pretrained(folder).iterdir()}
    new.save_pretrained(tmp_path / "other")  # what is computed is kept: OpenMP does not survive a fork
    ready, told = os.pipe()
    original, calls_before = getattr(Path, call), iter(range(number))

    def stop(path, argument):
        if next(calls_before, None) is not None:
            return original(path, argument)
        if call == "write_bytes":
            with path.open("wb") as file:
                file.write(argument[: len(argument) // 2])
        os.write(told, b"!")
        signal.pause()

    monkeypatch.setattr(Path, call, stop)
    process = forked(lambda: new.save_pretrained(folder))
    monkeypatch.undo()
    os.read(ready, 1)
    os.kill(process, signal.SIGKILL)
    assert not succeeded(process)
    if survivor == "old":
        assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loaded = hf_rws.Signature.from_pretrained(folder)
    expected = new if survivor == "new" else old
    assert (loaded.sha256, loaded.config) == (expected.sha256, expected.config)
    assert ["a save was cut off" in str(warning.message) for warning in warned] == [True] * (
        (call, number) == ("replace", 1)
    )
    assert hf_rws.Signature.from_pretrained(new.save_pretrained(folder)).sha256 == new.sha256


def test_what_a_killed_save_has_left_does_not_vouch_for_other_weights(tmp_path):
    folder = signature(ARCHITECTURE).save_pretrained(tmp_path / "rws-fog")
    for number, content in enumerate((b"{", (folder / "config.json").read_bytes())):
        (folder / f".saving-{number}").mkdir()
        (folder / f".saving-{number}" / "config.json").write_bytes(content)
    raw = (folder / "signature.safetensors").read_bytes()
    (folder / "signature.safetensors").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="sha256"):
        hf_rws.Signature.from_pretrained(folder)


@forks
def test_a_read_only_cache(hub):
    with tempfile.TemporaryDirectory() as cache:
        first = hub.commit(REPO, FILES)
        fetch(REPO, NAMES, cache_dir=cache)
        second = hub.commit(REPO, {"config.json": b"{}"})
        folders = [path for path in (Path(cache), *Path(cache).rglob("*")) if path.is_dir()]

        def work():
            if os.getuid() == 0:  # who is root may write anywhere
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            assert contents(fetch(f"{REPO}@{first}", NAMES, cache_dir=cache, token=False)) == FILES
            with pytest.raises(AccessError, match=r"\(config.json\): the file system refused: .*Check cache_dir"):
                fetch(f"{REPO}@{second}", NAMES, cache_dir=cache, token=False)

        for path in folders:
            path.chmod(0o555)
        try:
            assert succeeded(forked(work))
        finally:
            for path in folders:
                path.chmod(0o755)


def test_a_cache_that_cannot_be_written(hub, tmp_path):
    hub.commit(REPO, FILES)
    (tmp_path / "file").touch()
    with pytest.raises(AccessError, match=r"user/rws-fog \(config\.json\): the file system refused: .*Check cache_dir"):
        fetch(REPO, NAMES, cache_dir=tmp_path / "file")


@forks
@pytest.mark.parametrize(
    "act",
    [
        hf_rws.Signature.from_pretrained,
        hf_rws.info,
        hf_rws.load_patched,
        lambda folder: hf_rws.load_patched(lockfile=folder),
        lambda folder: hf_rws.hub.push_folder(folder, "user/rws-fog"),
        lambda folder: hf_rws.hub.push_all(folder),
        lambda folder: push(folder),
    ],
)
def test_a_folder_that_may_not_be_entered(act):
    with tempfile.TemporaryDirectory() as place:  # whose parents anybody may enter
        folder = signature(ARCHITECTURE).save_pretrained(Path(place) / "rws-fog")
        os.chmod(place, 0o755)
        folder.chmod(0o644)
        try:
            with as_nobody(), pytest.raises(AccessError, match=r"rws-fog.*Permission denied"):
                act(folder)
        finally:
            folder.chmod(0o755)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"])
def test_folders_that_cannot_be_are_not_pushed(name):
    for act in (hf_rws.hub.push_folder, lambda folder, repo_id: push(folder)):
        with pytest.raises(NotFoundError):
            act(name, REPO)
    with pytest.raises(NotFoundError):
        hf_rws.hub.push_all(name)
    with pytest.raises(NotFoundError):
        fetch_from(Location("local", name), NAMES)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"main"])
def test_a_damaged_reference_in_the_cache_is_mended(hub, tmp_path, content):
    hub.commit(REPO, FILES)
    commit = fetch(REPO, NAMES).revision
    path = tmp_path / "cache" / "models--user--rws-fog" / "refs" / "main"
    path.write_bytes(content)
    assert contents(fetch(REPO, NAMES)) == FILES
    assert path.read_text() == commit


@pytest.mark.parametrize("cache_dir", ["~nosuchuser/x", "a\0b", "\ud800", "circle/deeper", 3])
def test_a_cache_that_can_be_no_folder(tmp_path, cache_dir, monkeypatch):
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"cache_dir=.* cannot be a folder"):
        fetch(REPO, NAMES, cache_dir=cache_dir)


@forks
def test_several_processes_on_one_cache(hub):
    hub.commit(REPO, FILES)
    together = threading.Barrier(4)
    hub.faults = [Fault("GET /api", before=together.wait, times=4)]

    def work():
        assert contents(fetch(REPO, NAMES)) == FILES

    processes = [forked(work) for _ in range(4)]
    assert [succeeded(process) for process in processes] == [True] * 4
    assert contents(fetch(REPO, NAMES, local_files_only=True)) == FILES
