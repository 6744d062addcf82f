"""Single exchanges with the Hub through the client's session: a server may send what was agreed, and not more."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants, get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from hf_rws._files import parse_json
from hf_rws._transport import calls
from hf_rws._transport.calls import AnswerError, Progress
from hf_rws._transport.ids import Location
from hf_rws._version import __version__
from hf_rws.errors import FormatError, NetworkError

LARGEST_ANSWER = 16_000_000  # bytes of JSON; what the Hub says of a repo with 50,000 files has 4 MB
_LARGEST_REASON = 64_000  # bytes of the answer that tells why a request was refused
_MOST_PAGES = 200
_LARGEST_LISTING = 64_000_000  # bytes of all pages together
_LONGEST_LISTING = 600.0  # seconds for all pages together


def headers(token: bool | str | None) -> dict[str, str]:
    """Who asks; the answer is to come as it is, so that its size can be seen."""
    found = build_hf_headers(token=token, library_name=calls.LIBRARY, library_version=__version__)
    return {**found, "Accept-Encoding": "identity"}


@contextmanager
def opened(method: str, url: str, headers: Mapping[str, str], *, progress: Progress, **options: Any) -> Iterator[Any]:
    """The response to a request, of which nothing but the head has been read; the client's errors for refusals.

    Args:
        method: GET or POST.
        url: Where; redirects are followed, without the token if they lead to another server.
        headers: Of the request.
        progress: What is told of the reason for a refusal, as it comes.
        options: Of the session's `stream`: `params`, `json`, `timeout`.

    Raises:
        AnswerError: The answer is compressed, though that was not asked for: it could be of any size.
    """
    with get_session().stream(method, url, headers=dict(headers), follow_redirects=True, **options) as response:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise AnswerError("it is compressed")
        if response.is_error:
            content = b""
            for chunk in response.iter_raw():
                progress.advance(len(chunk))
                content += chunk
                if len(content) > _LARGEST_REASON:
                    content = b""
                    break
            response = type(response)(
                response.status_code,
                headers=[(name, value) for name, value in response.headers.raw if name.lower() != b"content-length"],
                content=_reason(content),
                request=response.request,
            )
        hf_raise_for_status(response)
        yield response


def pieces(response: Any, progress: Progress, limit: int) -> Iterator[bytes]:
    """The body of a response as it comes; AnswerError where it is larger than `limit` bytes."""
    total = 0
    for chunk in response.iter_raw():
        progress.advance(len(chunk))
        total += len(chunk)
        if total > limit:
            raise AnswerError(f"it is larger than {limit:,} bytes")
        yield chunk


def ask_json(
    where: Location,
    path: str,
    *,
    method: str = "GET",
    token: bool | str | None = None,
    params: Mapping[str, Any] | None = None,
    json: Any = None,
) -> dict[str, Any]:
    """The JSON object that the Hub answers a request with.

    Args:
        where: What error messages name.
        path: The path below the Hub's address, or a whole URL there.
        method: GET or POST.
        token: As in huggingface_hub.
        params: The query.
        json: What is posted.

    Raises:
        RWSError: As `calls.ask` raises them; NetworkError also for an answer that is larger than `LARGEST_ANSWER`, no
            JSON that `parse_json` takes, or no object.
    """
    value = _ask(where, path, method=method, token=token, params=params, json=json)[0]
    if not isinstance(value, dict):
        raise NetworkError(f"{where}: the answer broke (a {type(value).__name__}, not an object). Check HF_ENDPOINT")
    return value


def ask_pages(
    where: Location, path: str, *, token: bool | str | None = None, params: Mapping[str, Any] | None = None
) -> Iterator[list[Any]]:
    """The pages of a listing, each as `ask_json` asks for it.

    Raises:
        NetworkError: Also where pages go round in a circle, or come to more than `_MOST_PAGES`, `_LARGEST_LISTING`
            bytes or `_LONGEST_LISTING` seconds.
    """
    seen: set[str] = set()
    url: str | None = urljoin(constants.ENDPOINT + "/", path.lstrip("/"))
    end, nbytes = time.monotonic() + _LONGEST_LISTING, 0
    while url is not None:
        value, following, size = _ask(where, url, token=token, params=params)
        if not isinstance(value, list):
            raise NetworkError(f"{where}: the answer broke (a {type(value).__name__}, not a list). Check HF_ENDPOINT")
        yield value
        seen.add(url)
        nbytes += size
        if following is not None:
            for broken, words in (
                (following in seen, "goes round in a circle"),
                (len(seen) >= _MOST_PAGES, f"has more than {_MOST_PAGES} pages"),
                (nbytes > _LARGEST_LISTING, f"is larger than {_LARGEST_LISTING:,} bytes"),
                (time.monotonic() > end, f"takes longer than {_LONGEST_LISTING:g} seconds"),
            ):
                if broken:
                    raise NetworkError(f"{where}: the list {words}; ask for less, with filters or limit=")
        url, params = following, None


def post(where: Location, path: str, *, token: bool | str | None = None, json: Any = None) -> None:
    """Have the Hub do something, with the errors of `ask_json`; what it answers is not looked at."""
    _ask(where, path, method="POST", token=token, json=json, parse=lambda content: None)


def _ask(
    where: Location,
    path: str,
    *,
    method: str = "GET",
    token: bool | str | None = None,
    params: Mapping[str, Any] | None = None,
    json: Any = None,
    parse: Callable[[bytes], Any] | None = None,
) -> tuple[Any, str | None, int]:
    """A JSON value, the URL of the page that follows, and the size of the answer.

    Of the link to that page only the query counts: so it cannot lead to another server.
    """
    url, progress = urljoin(constants.ENDPOINT + "/", path.lstrip("/")), Progress()

    def exchange() -> tuple[Any, str | None, int]:
        options = {"params": params, "timeout": 2 * calls.TIME_LIMIT} | ({} if json is None else {"json": json})
        with opened(method, url, headers(token), progress=progress, **options) as response:
            content = b"".join(pieces(response, progress, LARGEST_ANSWER))
            following = response.links.get("next", {}).get("url")
        if following is not None:
            following = urlsplit(url)._replace(query=following.partition("?")[2]).geturl()
        return (parse or _parse)(content), following, len(content)

    return calls.ask(exchange, where, token=token, progress=progress)


def _parse(content: bytes) -> Any:
    """A JSON value of any type, under the rules for objects."""
    try:
        return parse_json(b'{"it": %s}' % content, "it", limit=LARGEST_ANSWER + 10)["it"]
    except FormatError as error:
        raise AnswerError(str(error).removeprefix("it: ")) from error


def _reason(content: bytes) -> bytes:
    """An answer that tells why a request was refused, as far as the client can read it: text by name."""
    try:
        said = _parse(content)
    except AnswerError:
        said = None
    if not isinstance(said, dict):
        return b"{}"
    kept: dict[str, Any] = {name: value for name, value in said.items() if isinstance(value, str)}
    if isinstance(said.get("errors"), list):
        kept["errors"] = [error for error in said["errors"] if isinstance(error, dict) and "message" in error]
    return json.dumps(kept).encode()
