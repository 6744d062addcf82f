"""Files: JSON objects read within limits, several files written whole or not at all, folders locked meanwhile.

Whole means: after an error, a full disk or a kill of the process at any moment. A power cut may still lose what the
system had not brought to the disk: nothing waits for that (fsync), and the sha256 in a signature's config shows it.
"""

import json
import math
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hf_rws.errors import AccessError, FormatError, NotFoundError, OptionError, RWSError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

README_NAME = "README.md"
COPY_RECORD = "corruption.json"  # what was done to the images of a copy of a dataset

LARGEST_JSON = 4_000_000  # bytes; the config of a signature with 1,000 tensors has 200 kB
LARGEST_TEXT = 4_000_000  # bytes of a README
LARGEST_SIGNATURE = 2**32  # bytes of a weight file: all weights of the largest timm models at 8 bits
_MOST_CONTAINERS = 200_000  # objects and arrays; 10,000 tensors have 20,000, and more take seconds
_DEEPEST_JSON = 50  # objects and arrays within each other
_LARGEST_INTEGER = 2**63  # what other readers of JSON hold, too
_LONGEST_WAIT = 60.0  # seconds for another process that writes into the same folder

_TRIAL = 2**16  # bytes that must find room before long work begins
SIGNATURE, MODEL, COPY = "a signature", "a model", "a corrupted copy of a dataset"  # what a folder may hold
_FOREIGN_CONFIG = "a config.json of something else"
_MARKS = {  # files that tell what a folder holds
    "signature.safetensors": SIGNATURE,
    "model.safetensors": MODEL,
    "pytorch_model.bin": MODEL,
    "model.safetensors.index.json": MODEL,
    "adapter_model.safetensors": "a PEFT adapter",
    COPY_RECORD: COPY,
    "lockfile.json": "a bundle",
    "study.json": "a study",
}

UNFINISHED = ".saving-"  # folders of saves that are going on, or were killed
_SINGLE = ".writing-"  # those of single files


# --- reading ---


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file is there, also by a link; AccessError where it may not be looked for."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError as error:
        raise AccessError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError):  # also a name that no file can have
        return False


def read_bytes(path: Path, where: str, *, limit: int) -> bytes:
    """A regular file of at most `limit` bytes.

    Raises:
        NotFoundError: There is none.
        FormatError: It is larger, or no regular file (a pipe would block for ever).
        AccessError: It cannot be read.
    """
    try:
        with open(path, "rb", opener=_without_blocking) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{where}: is no regular file")
            content = file.read(min(limit, status.st_size) + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{where}: there is no such file") from error
    except OSError as error:
        raise AccessError(f"{where}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a name that no file can have
        raise NotFoundError(f"{where}: there is no such file ({error})") from error
    if len(content) > limit:
        raise FormatError(f"{where}: is larger than the {limit:,} bytes that are read of such a file")
    return content


def read_text(path: Path, where: str, *, limit: int = LARGEST_TEXT) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; errors as for `read_bytes`."""
    try:
        return read_bytes(path, where, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: is not UTF-8 text; mend it, or take it away") from error


def read_json(path: Path, where: str, *, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """The JSON object in a file; errors as for `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, where, limit=limit), where, limit=limit)


def parse_json(content: str | bytes, where: str, *, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """A JSON object of finite numbers, 64-bit integers and text that UTF-8 can hold.

    Args:
        content: The text, or its UTF-8; at most `limit` characters or bytes.
        where: What to call it in errors.
        limit: See there.

    Raises:
        FormatError: It is anything else, or objects lie more than `_DEEPEST_JSON` deep within each other.
    """
    if len(content) > limit:
        raise FormatError(f"{where}: is larger than the {limit:,} bytes that are read of such a file")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        if text.count("[") + text.count("{") > _MOST_CONTAINERS:
            raise FormatError(f"{where}: holds more than the {_MOST_CONTAINERS:,} objects that are read of such a file")
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise FormatError(f"{where}: must hold a JSON object, not {type(data).__name__}")
    _check_values(data, where)
    return data


def read_json_lines(path: Path, where: str) -> list[dict[str, Any]]:
    """The JSON objects of a file with one on each line; errors as for `read_json`.

    A last line without a line feed was cut off, by a kill or a full disk, and is left out.
    """
    lines = read_text(path, where).split("\n")[:-1]
    return [parse_json(line, f"{where}: line {number}") for number, line in enumerate(lines, 1)]


def _without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _check_values(data: dict[str, Any], where: str) -> None:
    """Level by level, so that nothing is too deep to be checked; four million bytes take a third of a second."""
    level: list[Any] = [data]
    for _ in range(_DEEPEST_JSON):
        inner: list[Any] = []
        for container in level:
            values: Iterable[Any] = container
            if isinstance(container, dict):
                values = container.values()
                if any(not key.isascii() and _is_broken(key) for key in container):
                    raise FormatError(f"{where}: a key holds text that is not Unicode")
            for value in values:
                kind = type(value)
                if kind is dict or kind is list:
                    inner.append(value)
                elif kind is str:
                    if not value.isascii() and _is_broken(value):
                        raise FormatError(f"{where}: {_holder(container, value)} text that is not Unicode")
                elif kind is int:
                    if not -_LARGEST_INTEGER <= value < _LARGEST_INTEGER:
                        raise FormatError(f"{where}: {_holder(container, value)} an integer that is too large")
                elif kind is float and not math.isfinite(value):
                    raise FormatError(f"{where}: {_holder(container, value)} a number that is too large")
        if not inner:
            return
        level = inner
    raise FormatError(f"{where}: objects lie more than {_DEEPEST_JSON} deep within each other")


def _is_broken(text: str) -> bool:
    """Whether it has half of a surrogate pair, which UTF-8 cannot hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _holder(container: Any, value: Any) -> str:
    if isinstance(container, dict):
        return f"{next(key for key, held in container.items() if held is value)!a:.80} holds"
    return "a list holds"


# --- writing ---


def output_folder(folder: str | os.PathLike[str], what: str) -> Path:
    """The path of a folder to write to, whether it is there or not; OptionError if it is a file or can be none."""
    try:
        encoded = os.fsencode(folder)
    except (TypeError, UnicodeEncodeError) as error:
        raise OptionError(f"{folder!r} cannot be the name of a folder to save {what} in") from error
    if b"\0" in encoded:
        raise OptionError(f"{folder!r} cannot be the name of a folder to save {what} in")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise OptionError(f"{os.fspath(folder)} is a file; give a folder to save {what} in")
    return Path(folder)


def check_writable(folder: str | os.PathLike[str], what: str) -> Path:
    """The path of a folder into which files can be written now; for those whose work takes long before they do.

    Nothing is left behind: a folder that is not there is not made.

    Args:
        folder: The folder.
        what: What will be saved there, e.g. "the signature".

    Raises:
        OptionError: It is a file or can be no folder.
        AccessError: It cannot be written to, or the disk is full.
    """
    path = output_folder(folder, what)
    with writing(f"save {what} in {path}"):
        place = next(parent for parent in (path, *path.parents) if parent.exists())
        trial = new_folder(place, ".trial-")
        try:
            (trial / "trial").write_bytes(bytes(_TRIAL))
        finally:
            shutil.rmtree(trial, ignore_errors=True)
    return path


def contents_of(folder: Path) -> list[str]:
    """What a folder holds, as far as its files tell: `SIGNATURE`, `MODEL`, `COPY`, "a bundle", ...; [] if nothing."""
    found = {kind: None for mark, kind in _MARKS.items() if os.path.exists(folder / mark)}
    if os.path.exists(folder / "config.json"):
        try:
            config = read_json(folder / "config.json", "config.json")
        except RWSError:  # broken: beside weights it is theirs
            return list(found) or [_FOREIGN_CONFIG]
        ours = {SIGNATURE: config.get("library_name") == "hf-rws", MODEL: isinstance(config.get("architecture"), str)}
        found |= dict.fromkeys([kind for kind, fits in ours.items() if fits] or [_FOREIGN_CONFIG])
    return list(found)


def check_room(folder: Path, what: str, kind: str | None, *, overwrite: bool = False) -> None:
    """OptionError if a folder holds something else than what is to be saved there.

    Args:
        folder: The folder, whether it is there or not.
        what: What is to be saved, e.g. "the signature".
        kind: What may be there already, and is replaced; None for nothing of all that `contents_of` knows.
        overwrite: Save it whatever is there.
    """
    others = [] if overwrite else [found for found in contents_of(folder) if found != kind]
    if others:
        raise OptionError(
            f"{folder} holds {' and '.join(others)}, over which {what} would be written: give another folder, or "
            "overwrite=True"
        )


@contextmanager
def writing(what: str, advice: str = "") -> Iterator[None]:
    """AccessError that says what cannot be done, e.g. "save the model in x", for errors of the file system.

    Args:
        what: What is done.
        advice: A sentence on what is left, or what to do.
    """
    try:
        yield
    except RWSError:
        raise
    except OSError as error:
        reason = f"cannot {what}: {error.strerror or error}"
        raise AccessError(f"{reason}. {advice}" if advice else reason) from error


def write_together(folder: Path, contents: Mapping[str, bytes], *, what: str = "files") -> None:
    """Write files into a folder, which is made if needed.

    All are complete, in a hidden folder beside them, before the first takes its place; then they do so in the order
    given. What is kept from its place, by a kill or an error, stays in the hidden folder, where a reader finds it; the
    next save that is finished clears it away. One process at a time writes: the folder is locked. Where it cannot be,
    two saves at the same moment can leave files of both.

    Args:
        folder: The folder, from `output_folder`.
        contents: The files by name.
        what: What to call them in errors.

    Raises:
        AccessError: The folder cannot be written to, or the disk is full; or another process holds it for too long.
    """
    with writing(f"save {what} in {folder}"):
        _write(folder, contents, UNFINISHED)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write one file: it is complete before it takes its place. AccessError if it cannot be written."""
    data = content.encode() if isinstance(content, str) else content
    with writing(f"write {path}"):
        _write(path.parent, {path.name: data}, _SINGLE)


def _write(folder: Path, contents: Mapping[str, bytes], prefix: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as held:
        temporary = new_folder(folder, prefix)
        complete = False
        try:
            for name, content in contents.items():
                (temporary / name).write_bytes(content)
            complete = True
            for name in contents:
                (temporary / name).replace(folder / name)
        except BaseException:
            if not complete or all((temporary / name).exists() for name in contents):  # nothing has changed
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        lefts = folder.glob(f"{prefix}*") if held else [temporary]
        for left in lefts:  # whoever made it is dead
            shutil.rmtree(left, ignore_errors=True)


def new_folder(parent: Path, prefix: str) -> Path:
    """A new folder of any name with that prefix; who may enter it is as for any folder, unlike `mkdtemp`'s."""
    folder = parent / f"{prefix}{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


@contextmanager
def locked(folder: Path, *, wait: float = _LONGEST_WAIT) -> Iterator[bool]:
    """Hold a folder against other processes and threads that write through this module; a kill lets go of it.

    Args:
        folder: The folder; it may be moved or removed meanwhile.
        wait: Seconds to wait for another one that holds it.

    Yields:
        Whether it is held: not all file systems and platforms can.

    Raises:
        AccessError: Another one holds it for longer than that.
    """
    with ExitStack() as stack:
        held = False
        if fcntl is not None and (descriptor := _descriptor(folder)) is not None:
            stack.callback(os.close, descriptor)
            if held := _lock(descriptor, folder, wait):
                stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # a process forked meanwhile has it open, too
        yield held


def _descriptor(folder: Path) -> int | None:
    """None for a folder that cannot be opened: one that may be written to but not listed, or one that is gone."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def _lock(descriptor: int, folder: Path, wait: float) -> bool:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise AccessError(
                    f"{folder} is being written to by another process; try again when it has finished"
                ) from error
            time.sleep(0.01)
        except OSError:  # a file system without locks
            return False
