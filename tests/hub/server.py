"""A Hub on loopback: two HTTP servers, one for the Hub and one for its CDN, with faults to switch on.

The standard library's server serves better here than an ASGI one: a fault needs the socket itself.
"""

import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.storage import MEMBERS, OTHER, READ, TOKENS, WRITE, Repo, Storage

__all__ = ["OTHER", "READ", "WRITE", "Fault", "Hub"]

PATIENCE = 30  # seconds after which a stalled answer is given up even if the server runs on


@dataclass
class Fault:
    """What goes wrong with the next requests whose "METHOD /path" contains a match of a pattern.

    Attributes:
        pattern: Regular expression.
        times: For how many requests.
        skip: How many matching requests are served well before.
        before: Called before the request is served.
        status: Answered instead.
        headers: Put into the answer; None takes one out.
        body: Sent in place of the answer's body.
        change: Called with the answer before it is sent, to change it.
        trickle: Seconds between one byte of the body and the next.
        flip: The first byte of the body is sent wrong.
        cut: Connection closed after so many bytes of the body; with `reset` or `stall`, that happens there.
        reset: Connection reset instead of an answer.
        stall: No answer until the server stops.
        lose: The request is served, and the connection closed without an answer.
    """

    pattern: str
    times: int = 1
    skip: int = 0
    before: Callable[[], object] | None = None
    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    change: Callable[["Reply"], object] | None = None
    trickle: float = 0.0
    flip: bool = False
    cut: int | None = None
    reset: bool = False
    stall: bool = False
    lose: bool = False


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str | None] = field(default_factory=dict)


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **body: Any) -> None:
        self.reply = as_json({"error": message or code, **body}, status)
        self.reply.headers |= {"X-Error-Code": code} if code else {}
        self.reply.headers |= {"X-Error-Message": message} if message else {}


def as_json(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class Hub(Storage):
    """A Hub that can be asked over HTTP while it is entered.

    Attributes:
        endpoint: The Hub's URL.
        cdn: The URL of the server that large files come from and go to: another host, at least by name (huggingface_hub
            1.31 tells servers apart by their hosts, not by their ports).
        requests: "METHOD /path" and headers of every request to either.
        uploads: The body of every request to either.
        faults: What goes wrong; the first that fits counts.
        lfs: Whether large files are uploaded to the storage, as on the real Hub; else they are part of the commit,
            which is faster. The default client uploads by Xet, one with HF_HUB_DISABLE_XET=1 by the LFS protocol.
        xet: Whether the Hub knows Xet.
        page: How many entries a page of a listing has.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.uploads: list[bytes] = []
        self.faults: list[Fault] = []
        self.lfs = False
        self.xet = True
        self.page = 100
        self.stopped = threading.Event()

    def __enter__(self) -> "Hub":
        from tests.hub.routes import CDN, HUB

        self.servers = [Server(self, HUB), Server(self, CDN)]
        ports = [server.server_port for server in self.servers]
        self.endpoint, self.cdn = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def asked(self, pattern: str) -> int:
        """How many requests there were whose "METHOD /path" contains a match."""
        return sum(re.search(pattern, request) is not None for request, _ in self.requests)

    def fault(self, request: str) -> Fault:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return Fault("")


Routes = tuple[tuple[str, str, Callable[..., Reply]], ...]  # methods, pattern of the path, function


class Server(ThreadingHTTPServer):
    """One origin, in a thread of its own from the start."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Hub, routes: Routes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.routes = hub, routes
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server.hub
        self.content = self.read()
        request = f"{self.command} {self.path}"
        with hub.lock:
            hub.requests.append((request, {key.lower(): value for key, value in self.headers.items()}))
            hub.uploads.append(self.content)
        fault = hub.fault(request)
        if fault.before:
            fault.before()
        if (fault.stall or fault.reset) and fault.cut is None:
            return self.drop(fault)
        reply = Reply(fault.status) if fault.status else self.answer(hub)
        if fault.lose:
            return self.drop(fault)
        reply.headers |= fault.headers
        reply.body = reply.body if fault.body is None else fault.body
        if fault.change:
            fault.change(reply)
        if fault.flip:
            reply.body = bytes([reply.body[0] ^ 1]) + reply.body[1:]
        self.send(reply, fault)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def read(self) -> bytes:
        """The body of the request."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, hub: Hub) -> Reply:
        path = urlsplit(self.path).path  # still quoted: a slash in a revision is %2F
        try:
            with hub.lock:
                for methods, pattern, function in self.server.routes:
                    if self.command in methods.split() and (match := re.fullmatch(pattern, path)):
                        parts = {name: part and unquote(part) for name, part in match.groupdict().items()}
                        return function(Request(hub, self), **parts)
        except Refusal as refusal:
            return refusal.reply
        return as_json({"error": f"no such route: {self.command} {path}"}, 404)

    def send(self, reply: Reply, fault: Fault) -> None:
        body, total = reply.body, len(reply.body)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and reply.status == 200:
            body = body[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None]
            reply.status = 206
            reply.headers["Content-Range"] = f"bytes {asked[1]}-{int(asked[1]) + len(body) - 1}/{total}"
        self.send_response(reply.status)
        for name, value in ({"Content-Length": str(len(body))} | reply.headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for piece in [bytes([byte]) for byte in body] if fault.trickle else [body[: fault.cut]]:
                self.wfile.write(piece)
                self.server.hub.stopped.wait(fault.trickle)
            if fault.cut is not None:
                self.drop(fault)

    def drop(self, fault: Fault) -> None:
        """End the connection, as the fault says."""
        self.wfile.flush()
        if fault.stall:
            self.server.hub.stopped.wait(PATIENCE)
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        if not self.wfile.closed and self.connection.fileno() >= 0:
            super().finish()


class Request:
    """What a route is given: the Hub, the user, the query, the body; and the checks that most routes share."""

    def __init__(self, hub: Hub, handler: Handler) -> None:
        self.hub, self.content, self.path = hub, handler.content, handler.path
        self.query = parse_qs(urlsplit(handler.path).query)
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        self.user, self.role = TOKENS.get(token, (None, None))

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def proposes(self) -> bool:
        """Whether a new pull request is asked for."""
        return self.query.get("create_pr") == ["1"]

    def asked(self, name: str) -> str | None:
        """The first value of a parameter of the query."""
        return self.query.get(name, [None])[0]

    def belongs_to(self, owner: str) -> bool:
        return self.user is not None and (self.user == owner or self.user in MEMBERS.get(owner, ()))

    def repo(self, repo_id: str, *, write: bool = False) -> Repo:
        """The repo, if the user may see it and, with `write`, push to it or propose a change."""
        repo = self.hub.repos.get(repo_id)
        owner = repo_id.split("/")[0]
        if repo is None or (repo.private and not self.belongs_to(owner)):
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write:
            self.may_write(self.user if self.user and self.proposes else owner)
        return repo

    def may_write(self, owner: str) -> None:
        if self.user is None:
            raise Refusal(401, message="Invalid username or password.")
        if not self.belongs_to(owner) or self.role != "write":
            raise Refusal(403, message=f"You need write access to {owner}")

    def commit(self, repo: Repo, revision: str | None) -> str:
        found = repo.refs.get(revision or "main", revision)
        if found not in repo.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def pages(self, entries: list[Any]) -> Reply:
        """A listing, from a cursor on; more by a link to the next page."""
        start = int(self.asked("cursor") or 0)
        limit = min(int(self.asked("limit") or self.hub.page), self.hub.page)
        reply = as_json(entries[start : start + limit])
        if start + limit < len(entries):
            url = re.sub(r"[?&]cursor=\d+", "", self.hub.endpoint + self.path)
            url += f"{'&' if '?' in url else '?'}cursor={start + limit}"
            reply.headers["Link"] = f'<{url}>; rel="next"'
        return reply
