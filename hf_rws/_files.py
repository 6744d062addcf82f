"""Files: JSON objects read within limits, several files written whole or not at all, folders locked meanwhile."""

import json
import math
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hf_rws.errors import AccessError, FormatError, NotFoundError, RWSError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

README_NAME = "README.md"

_LARGEST_JSON = 4_000_000  # bytes; the config of a signature with 1,000 tensors has 200 kB
_LARGEST_TEXT = 4_000_000  # bytes of a README
_DEEPEST_JSON = 50  # objects and arrays within each other
_LARGEST_INTEGER = 2**63  # what other readers of JSON hold, too
_LONGEST_WAIT = 60.0  # seconds for another process that writes into the same folder

UNFINISHED = ".saving-"  # folders of saves that are going on, or were killed


# --- reading ---


def read_bytes(path: Path, where: str, *, limit: int) -> bytes:
    """A regular file of at most `limit` bytes.

    Raises:
        NotFoundError: There is none.
        FormatError: It is larger, or no regular file (a pipe would block for ever).
        AccessError: It cannot be read.
    """
    try:
        with open(path, "rb", opener=_without_blocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FormatError(f"{where}: is no regular file")
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{where}: there is no such file") from error
    except OSError as error:
        if isinstance(error, RWSError):
            raise
        raise AccessError(f"{where}: cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise FormatError(f"{where}: is larger than the {limit:,} bytes that are read of such a file")
    return content


def read_text(path: Path, where: str, *, limit: int = _LARGEST_TEXT) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; errors as for `read_bytes`."""
    try:
        return read_bytes(path, where, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: is not UTF-8 text; mend it, or take it away") from error


def read_json(path: Path, where: str, *, limit: int = _LARGEST_JSON) -> dict[str, Any]:
    """The JSON object in a file; errors as for `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, where, limit=limit), where, limit=limit)


def parse_json(content: str | bytes, where: str, *, limit: int = _LARGEST_JSON) -> dict[str, Any]:
    """A JSON object of finite numbers, 64-bit integers and text that UTF-8 can hold.

    Args:
        content: The text; at most `limit` characters or bytes.
        where: What to call it in errors.
        limit: See there.

    Raises:
        FormatError: It is anything else, or objects lie more than `_DEEPEST_JSON` deep within each other.
    """
    if len(content) > limit:
        raise FormatError(f"{where}: is larger than the {limit:,} bytes that are read of such a file")
    try:
        data = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise FormatError(f"{where}: must hold a JSON object, not {type(data).__name__}")
    _check_values(data, where)
    return data


def _without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _check_values(data: dict[str, Any], where: str) -> None:
    """Level by level, so that nothing is too deep to be checked; each value with the key that it stands under."""
    level: list[tuple[str, Any]] = list(data.items())
    for _ in range(_DEEPEST_JSON):
        inner: list[tuple[str, Any]] = []
        for key, value in level:
            if (problem := _problem(key)) or (problem := _problem(value)):
                raise FormatError(f"{where}: {key!a:.80} holds {problem}")
            if isinstance(value, dict):
                inner += value.items()
            elif isinstance(value, list):
                inner += ((key, item) for item in value)
        if not inner:
            return
        level = inner
    raise FormatError(f"{where}: objects lie more than {_DEEPEST_JSON} deep within each other")


def _problem(value: Any) -> str | None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            return "text that is not Unicode"
    elif isinstance(value, float):
        if not math.isfinite(value):
            return "a number that is too large"
    elif isinstance(value, int) and not -_LARGEST_INTEGER <= value < _LARGEST_INTEGER:
        return "an integer that is too large"
    return None


# --- writing ---


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, which is made if needed.

    All are complete, in a hidden folder beside them, before the first takes its place; then they do so in the order
    given. What is kept from its place, by a kill or an error, stays in the hidden folder, where a reader finds it; the
    next save that is finished clears it away. One process at a time writes: the folder is locked.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
        AccessError: Another process holds the folder for too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as held:
        temporary = Path(mkdtemp(dir=folder, prefix=UNFINISHED))
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
        lefts = folder.glob(f"{UNFINISHED}*") if held else [temporary]
        for left in lefts:  # whoever made it is dead
            shutil.rmtree(left, ignore_errors=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write one file, whose folder is there: it is complete before it takes its place. Raises OSError."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder against other processes and threads that write through this module; a kill lets go of it.

    Yields:
        Whether it is held: not all file systems and platforms can.

    Raises:
        AccessError: Another one holds it for longer than `_LONGEST_WAIT` seconds.
    """
    with ExitStack() as stack:
        held = False
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if held := _lock(descriptor, folder):
                stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # a process forked meanwhile has it open, too
        yield held


def _lock(descriptor: int, folder: Path) -> bool:
    deadline = time.monotonic() + _LONGEST_WAIT
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
