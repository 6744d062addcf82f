import multiprocessing
import os
import random
import signal
import stat
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hf_rws
from hf_rws import Signature, _files
from hf_rws._files import locked, write_together, write_whole
from hf_rws.errors import AccessError, FormatError, IntegrityError, OptionError
from hf_rws.loading import save_patched
from hf_rws.signature.saving import read_folder
from hf_rws.timm_repo import save_timm_repo
from tests.hub.processes import as_nobody, forks
from tests.models import signature, trio

ARCHITECTURE = "vgg16_gap"
NAMES = ("signature.safetensors", "config.json")  # in the order in which they are saved


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize(("call", "number", "survivor"), [
    ("write_bytes", 1, "old"), ("replace", 0, "old"), ("replace", 1, "new"), ("replace", 2, "new"),
])  # fmt: skip
def test_a_save_that_is_broken_off_leaves_the_old_or_the_new_signature(
    tmp_path, monkeypatch, error, call, number, survivor
):
    old, new = signature(ARCHITECTURE), signature(ARCHITECTURE, "snow")
    folder = old.save_pretrained(tmp_path / "rws-fog")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    original, calls_before = getattr(Path, call), iter(range(number))

    def broken(path, argument):
        if next(calls_before, None) is None:
            raise error
        return original(path, argument)

    with monkeypatch.context() as patched:
        patched.setattr(Path, call, broken)
        with pytest.raises(AccessError if error is OSError else error):
            new.save_pretrained(folder)
    if survivor == "old":
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a save that was killed
        loaded = hf_rws.Signature.from_pretrained(folder)
    expected = new if survivor == "new" else old
    assert (loaded.sha256, loaded.config) == (expected.sha256, expected.config)


def test_a_save_clears_what_broken_ones_have_left(tmp_path):
    folder = signature(ARCHITECTURE).save_pretrained(tmp_path / "rws-fog")
    (folder / ".saving-1" / "deeper").mkdir(parents=True)
    (folder / ".saving-1" / "config.json").write_text("{")
    signature(ARCHITECTURE, "snow").save_pretrained(folder)
    assert not list(folder.glob(".*"))


def test_a_readme_that_is_not_utf8_stops_a_save_and_stays(tmp_path):
    folder = signature(ARCHITECTURE).save_pretrained(tmp_path / "rws-fog")
    (folder / "README.md").write_bytes(b"# caf\xe9")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FormatError, match=r"README.md: is not UTF-8"):
        signature(ARCHITECTURE, "snow").save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (folder / "README.md").write_text("My own words.\n", encoding="utf-8-sig")
    signature(ARCHITECTURE).save_pretrained(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "My own words." in card
    assert "\ufeff" not in card


def test_a_readme_that_is_not_utf8_stops_the_save_of_a_model_and_stays(tmp_path):
    model = trio(ARCHITECTURE).base()
    hf_rws.patch(model, Signature.from_pretrained(signature(ARCHITECTURE).save_pretrained(tmp_path / "rws-fog")))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_bytes(b"# caf\xe9")
    with pytest.raises(FormatError, match=r"README.md: is not UTF-8"):
        save_patched(model, folder)
    assert [file.name for file in folder.iterdir()] == ["README.md"]


# --- several at once ---


@pytest.fixture
def kept(tmp_path):
    """The files of three signatures, by the sha256 of their weights."""
    found = {}
    for label in ("fog", "snow", "frost"):
        made = signature(ARCHITECTURE, label)
        folder = made.save_pretrained(tmp_path / "kept" / label)
        found[made.sha256] = {name: (folder / name).read_bytes() for name in NAMES}
    return found


def save_for_ever(folder, choices, seed):
    generator = random.Random(seed)
    while True:
        write_together(folder, generator.choice(choices))


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and locks folders")
def test_whoever_saves_and_is_killed_a_folder_holds_one_whole_signature(tmp_path, kept):
    folder, generator = tmp_path / "rws", random.Random(0)
    contents = list(kept.values())
    write_together(folder, contents[0])
    context = multiprocessing.get_context("fork")

    def started(seed):
        process = context.Process(target=save_for_ever, args=(folder, contents, seed), daemon=True)
        process.start()
        return process

    writers, loads, began = [started(seed) for seed in range(3)], set(), time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a save was cut off
        while (passed := time.monotonic() - began) < 1.5 or (len(loads) < len(kept) and passed < 60):
            for _ in range(20):
                loads.add(checked(folder, kept))
            number = generator.randrange(len(writers))
            os.kill(writers[number].pid, signal.SIGKILL)
            writers[number].join()
            loads.add(checked(folder, kept))
            writers[number] = started(generator.random())
        for process in writers:
            process.kill()
            process.join()
        loads.add(checked(folder, kept))
        assert len(loads) == len(kept)  # or nothing was saved meanwhile
        write_together(folder, contents[1])
    assert checked(folder, kept) == list(kept)[1]
    assert sorted(file.name for file in folder.iterdir()) == sorted(NAMES)


def checked(folder, kept):
    """The sha256 of the signature that a folder holds, all of it."""
    saved = read_folder(folder, "folder")
    (sha256,) = [key for key, files in kept.items() if files[NAMES[0]] == saved.weights]
    assert len(kept[sha256][NAMES[1]]) == saved.config_nbytes
    assert saved.config.corruption.label.encode() in kept[sha256][NAMES[1]]
    return sha256


@pytest.mark.parametrize("locks", [True, False])
def test_threads_that_save_into_one_folder(tmp_path, kept, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(_files, "fcntl", None)
    folder, contents = tmp_path / "rws", list(kept.values())
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(write_together, folder, contents[n % (3 if locks else 1)]) for n in range(40)]:
            future.result()
    assert checked(folder, kept) in kept
    assert sorted(file.name for file in folder.iterdir()) == sorted(NAMES)


def test_threads_that_write_one_file(tmp_path):
    texts = {f"{n}" * 1000 for n in range(8)}
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(write_whole, tmp_path / "log", text) for text in texts for _ in range(10)]:
            future.result()
    assert (tmp_path / "log").read_text() in texts
    assert [file.name for file in tmp_path.iterdir()] == ["log"]


def test_a_reader_waits_for_the_end_of_a_save_and_says_nothing(tmp_path, kept, monkeypatch):
    folder, (old, new) = tmp_path / "rws", list(kept.values())[:2]
    write_together(folder, old)
    original, replaced = Path.replace, []

    def slow(path, target):
        original(path, target)
        replaced.append(target.name)
        time.sleep(0.3)

    monkeypatch.setattr(Path, "replace", slow)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(write_together, folder, new)
        while not replaced:
            time.sleep(0.001)
        assert checked(folder, kept) == list(kept)[1]  # a warning would be an error
        saving.result()


@pytest.mark.parametrize("read", ["load", "info"])
def test_after_a_save_that_was_killed_all_read_the_same(tmp_path, kept, read):
    folder, (old, new) = tmp_path / "rws", list(kept.values())[:2]
    write_together(folder, old)
    (folder / ".saving-1").mkdir()
    (folder / ".saving-1" / NAMES[1]).write_bytes(new[NAMES[1]])
    (folder / NAMES[0]).write_bytes(new[NAMES[0]])
    with pytest.warns(UserWarning, match="a save was cut off"):
        found = Signature.from_pretrained(folder).config.corruption.names if read == "load" else hf_rws.info(folder)
    assert (found if read == "load" else found.corruptions) == ("snow",)


def test_what_another_user_has_left_is_in_nobodys_way(tmp_path, kept, monkeypatch):
    folder, (old, new) = tmp_path / "rws", list(kept.values())[:2]
    write_together(folder, old)
    for name in (".saving-0", ".saving-1", ".saving-2"):
        (folder / name).mkdir()
    (folder / ".saving-0" / NAMES[1]).mkdir()  # cannot be read, as if it were somebody else's
    (folder / ".saving-1" / NAMES[1]).write_bytes(new[NAMES[1]])
    (folder / NAMES[0]).write_bytes(new[NAMES[0]])
    with pytest.warns(UserWarning, match="a save was cut off"):
        assert checked(folder, kept) == list(kept)[1]
    monkeypatch.setattr(_files.shutil, "rmtree", lambda path, ignore_errors: None)  # nor can it be deleted
    write_together(folder, old)
    assert checked(folder, kept) == next(iter(kept))


@forks
def test_a_damaged_signature_in_a_folder_that_may_not_be_listed():
    with tempfile.TemporaryDirectory() as place:  # whose parents anybody may enter
        folder = signature(ARCHITECTURE).save_pretrained(Path(place) / "rws")
        raw = (folder / NAMES[0]).read_bytes()
        (folder / NAMES[0]).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        os.chmod(place, 0o755)
        folder.chmod(0o311)
        try:
            with as_nobody(), pytest.raises(IntegrityError, match="sha256"):
                Signature.from_pretrained(folder)
        finally:
            folder.chmod(0o755)


def test_a_folder_that_is_gone_cannot_be_locked(tmp_path):
    with locked(tmp_path / "nothing") as held:
        assert not held


# --- what cannot be written ---


@pytest.mark.parametrize("save", [
    lambda folder: signature(ARCHITECTURE).save_pretrained(folder),
    lambda folder: save_timm_repo(trio(ARCHITECTURE).base(), folder),
    lambda folder: hf_rws.hub.bundle(trio(ARCHITECTURE).base(), [], folder),
])  # fmt: skip
@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "\ud800", "file/deeper", "file"])
def test_folders_that_cannot_be(tmp_path, save, name):
    (tmp_path / "file").write_text("")
    with pytest.raises((AccessError, OptionError)):
        save(os.path.join(tmp_path, name))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["write_bytes", "replace", "mkdir"])
def test_a_full_disk_is_said_so(tmp_path, monkeypatch, call):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    model = trio(ARCHITECTURE).base()
    monkeypatch.setattr(Path, call, full)
    with pytest.raises(AccessError, match=r"cannot save the model in .*model: No space left on device"):
        save_timm_repo(model, tmp_path / "model")
    with pytest.raises(AccessError, match=r"cannot write .*log: No space left on device"):
        write_whole(tmp_path / "log", "text")


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions there")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_who_may_read_what_is_saved_is_for_the_umask_to_say(tmp_path, kept, umask):
    seen = os.umask(umask)
    try:
        write_together(tmp_path / "rws", next(iter(kept.values())))
        write_whole(tmp_path / "rws" / "log", "text")
        bundle = hf_rws.hub.bundle(trio(ARCHITECTURE).base(), [], tmp_path / "bundle")
    finally:
        os.umask(seen)
    for path in (tmp_path / "rws", bundle, *tmp_path.glob("rws/*"), *bundle.rglob("*")):
        allowed = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == allowed & ~umask, path
