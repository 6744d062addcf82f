"""The head of a safetensors file: what is in it, without its values; of a file on the Hub only the head is fetched."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from hf_rws._transport import calls
from hf_rws._transport.ids import Location
from hf_rws._version import __version__
from hf_rws.errors import AccessError, FormatError

_FIRST_BYTES = 4096  # enough for every signature; a base takes a second request
_LONGEST_HEADER = 25_000_000


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
        if not path.is_file():
            return calls.ask(
                lambda: _from_the_hub(where, filename, start, stop, token), where, file=filename, token=token
            )
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
    headers = build_hf_headers(token=token, library_name=calls.LIBRARY, library_version=__version__)
    headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    url, content = hf_hub_url(where.id, filename, revision=where.revision), bytearray()
    with get_session().stream("GET", url, headers=headers, timeout=10, follow_redirects=True) as response:
        if response.is_error:
            response.read()  # the Hub's reason
        hf_raise_for_status(response)
        whole = response.status_code == 200
        size = response.headers["Content-Length"] if whole else response.headers["Content-Range"].rpartition("/")[2]
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) >= (stop if whole else stop - start):
                break
    return bytes(content[start:stop] if whole else content[: stop - start]), int(size)


def _parse(text: bytes, where: str) -> tuple[dict[str, tuple[str, tuple[int, ...]]], int]:
    """The tensors, and the length of the data."""
    try:
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        return {n: (str(e["dtype"]), tuple(map(int, e["shape"]))) for n, e in header.items()}, max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise FormatError(f"{where}: not a safetensors file ({type(error).__name__} in its header)") from error
