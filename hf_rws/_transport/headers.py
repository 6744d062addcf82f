"""The head of a safetensors file: what is in it, without its values; of a file on the Hub only the head is fetched."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_url

from hf_rws._files import is_file, parse_json
from hf_rws._transport import calls
from hf_rws._transport.exchange import headers, opened, pieces
from hf_rws._transport.ids import Location
from hf_rws.errors import AccessError, FormatError

_FIRST_BYTES = 4096  # enough for every signature; a base takes a second request
_LONGEST_HEADER = 25_000_000
_MOST_TENSORS = 100_000
_MOST_AXES = 64  # as in torch


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        tensors: dtype, as safetensors writes it, and shape of each tensor, by name.
        nbytes: Size of the file.
    """

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    nbytes: int


def read_header(
    where: Location, path: Path, filename: str, *, content: bytes | None = None, token: bool | str | None = None
) -> Header:
    """Read the header of a file on this machine or of one on the Hub.

    Args:
        where: What error messages name; a location on the Hub is pinned to a commit.
        path: The file, if it is on this machine.
        filename: Its name in the repo, where it is fetched from if there is no `path`.
        content: All of the file, if it has been read.
        token: As in huggingface_hub.

    Raises:
        FormatError: It is no safetensors file, or not whole.
        RWSError: The Hub's errors, as `fetch` raises them.
    """

    def read(start: int, stop: int) -> tuple[bytes, int]:
        if content is not None:
            return content[start:stop], len(content)
        if not is_file(path):
            return _from_the_hub(where, filename, start, stop, token)
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(stop - start), path.stat().st_size
        except OSError as error:
            raise AccessError(f"{where} ({filename}): cannot be read: {error.strerror}") from error

    head, nbytes = read(0, _FIRST_BYTES)
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= min(_LONGEST_HEADER, nbytes - 8):
        raise FormatError(f"{where} ({filename}): not a safetensors file")
    if len(head) < 8 + length:
        head += read(len(head), 8 + length)[0]
    tensors, end = _parse(head[8 : 8 + length], f"{where} ({filename})")
    if 8 + length + end != nbytes:
        raise FormatError(
            f"{where} ({filename}): has {nbytes:,} bytes, its header says {8 + length + end:,}; it is damaged"
        )
    return Header(tensors, nbytes)


def _from_the_hub(where: Location, filename: str, start: int, stop: int, token: bool | str | None) -> tuple[bytes, int]:
    """Some bytes of a file, and its size. A server that knows no ranges sends it from its beginning."""
    progress = calls.Progress()

    def exchange() -> tuple[bytes, int]:
        url, content = hf_hub_url(where.id, filename, revision=where.revision), bytearray()
        sent = {**headers(token), "Range": f"bytes={start}-{stop - 1}"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with opened("GET", url, sent, progress=progress, timeout=timeout) as response:
            whole = not response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            size = response.headers.get("Content-Length" if whole else "Content-Range", "").rpartition("/")[2]
            if not re.fullmatch("[0-9]{1,18}", size):
                raise calls.AnswerError("it does not say how large it is")
            wanted = stop if whole else stop - start
            for chunk in pieces(response, progress, int(size)):
                content += chunk
                if len(content) >= wanted:
                    break
        return bytes(content[start:stop] if whole else content[:wanted]), int(size)

    return calls.ask(exchange, where, file=filename, token=token, progress=progress)


def _parse(text: bytes, where: str) -> tuple[dict[str, tuple[str, tuple[int, ...]]], int]:
    """The tensors, and the length of the data."""
    header = parse_json(text, f"{where}: not a safetensors file; its header", limit=_LONGEST_HEADER)
    header.pop("__metadata__", None)
    if len(header) > _MOST_TENSORS:
        raise FormatError(f"{where}: has {len(header):,} tensors; at most {_MOST_TENSORS:,} are read")
    tensors, end = {}, 0
    for name, entry in header.items():
        entry = entry if isinstance(entry, dict) else {}
        dtype, shape, offsets = entry.get("dtype"), _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
        if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
            raise FormatError(f"{where}: not a safetensors file (its header does not describe {name!a:.80})")
        tensors[name] = dtype, shape
        end = max(end, offsets[1])
    return tensors, end


def _sizes(values: Any) -> tuple[int, ...] | None:
    """A short list of integers from 0 on; None if it is anything else."""
    if (
        isinstance(values, list)
        and len(values) <= _MOST_AXES
        and all(type(size) is int and size >= 0 for size in values)
    ):
        return tuple(values)
    return None
