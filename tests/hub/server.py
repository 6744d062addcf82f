"""The part of the Hub's HTTP interface that reading and pushing model repos needs, with faults to switch on."""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

WRITE, READ, OTHER = "hf_writewritewrite", "hf_readreadreadread", "hf_otherotherother"
TOKENS = {WRITE: ("user", "write"), READ: ("user", "read"), OTHER: ("other", "write")}


@dataclass
class Fault:
    """What goes wrong with the next requests whose "METHOD /path" contains a match of a pattern.

    Attributes:
        pattern: Regular expression.
        times: For how many requests.
        before: Called before the request is served.
        status: Answered instead.
        headers: Put into the answer; None takes one out.
        body: Sent in place of the answer's body.
        cut: Connection closed after so many bytes of the body.
        reset: Connection reset instead of an answer.
        stall: No answer until the server stops.
        lose: The request is served, and the connection closed without an answer.
    """

    pattern: str
    times: int = 1
    before: Callable[[], object] | None = None
    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    reset: bool = False
    stall: bool = False
    lose: bool = False


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)  # branches and tags: name -> commit
    commits: dict[str, dict[str, str]] = field(default_factory=dict)  # commit -> path -> git blob id
    messages: list[str] = field(default_factory=list)


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str | None] = field(default_factory=dict)


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.reply = as_json({"error": message or code}, status)
        self.reply.headers |= {"X-Error-Code": code} if code else {}
        self.reply.headers |= {"X-Error-Message": message} if message else {}


def as_json(value, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """Repos, tokens, faults, and a server in a thread of its own while it is entered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, dict[str, str]]] = []  # "METHOD /path" and headers
        self.lock = threading.RLock()
        self.stopped = threading.Event()

    def __enter__(self) -> "Hub":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.hub = self
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repo_id: str, files: dict[str, bytes], *, branch: str = "main", **settings) -> str:
        """Change files of a repo, made if needed, as somebody else would do it; the new commit."""
        with self.lock:
            repo = self.repos.get(repo_id) or self.create(repo_id)
            for name, value in settings.items():
                setattr(repo, name, value)
            return self.put(repo, branch, files, "by somebody else")

    def create(self, repo_id: str) -> Repo:
        repo = self.repos[repo_id] = Repo()
        self.put(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return repo

    def put(self, repo: Repo, branch: str, files: dict[str, bytes], message: str) -> str:
        parent = repo.refs.get(branch, "")
        tree = dict(repo.commits.get(parent, {}))
        for path, content in files.items():
            tree[path] = blob_id(content)
            (self.folder / tree[path]).write_bytes(content)
        commit = hashlib.sha1(json.dumps([parent, tree, message, len(repo.commits)]).encode()).hexdigest()
        repo.commits[commit] = tree
        repo.messages.append(message)
        repo.refs[branch] = commit
        return commit

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files that have been pushed to a repo."""
        repo = self.repos[repo_id]
        tree = repo.commits[repo.refs.get(revision, revision)]
        return {path: (self.folder / oid).read_bytes() for path, oid in tree.items() if path != ".gitattributes"}

    def asked(self, pattern: str) -> int:
        """How many requests there were whose "METHOD /path" contains a match."""
        return sum(re.search(pattern, request) is not None for request, _ in self.requests)

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server.hub
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        request = f"{self.command} {self.path}"
        with hub.lock:
            hub.requests.append((request, {key.lower(): value for key, value in self.headers.items()}))
        fault = hub.fault(request) or Fault("")
        if fault.before:
            fault.before()
        if fault.stall:
            hub.stopped.wait(30)
        if fault.stall or fault.reset:
            return self.drop(reset=fault.reset)
        reply = Reply(fault.status, b"") if fault.status else self.answer(hub)
        if fault.lose:
            return self.drop()
        reply.headers |= fault.headers
        self.send(reply if fault.body is None else Reply(reply.status, fault.body, reply.headers), fault.cut)

    do_HEAD = do_POST = do_DELETE = do_GET

    def answer(self, hub: Hub) -> Reply:
        path = urlsplit(self.path).path
        with hub.lock:
            try:
                for method, pattern, function in ROUTES:
                    if self.command in method and (match := re.fullmatch(pattern, path)):
                        parts = {name: part and unquote(part) for name, part in match.groupdict().items()}
                        return function(Request(hub, self), **parts)
            except Refusal as refusal:
                return refusal.reply
        return as_json({"error": f"no such route: {self.command} {path}"}, 404)

    def send(self, reply: Reply, cut: int | None) -> None:
        body, start = reply.body, 0
        if (asked := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) and reply.status == 200:
            reply.status, start = 206, int(asked[1])
            reply.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[start:] if cut is None else body[start : start + cut])
            if cut is not None:
                self.drop()

    def drop(self, reset: bool = False) -> None:
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        if not self.wfile.closed and self.connection.fileno() >= 0:
            super().finish()


class Request:
    """What a route is given: the Hub, the user, the body; and the checks that most routes share."""

    def __init__(self, hub: Hub, handler: Handler) -> None:
        self.hub, self.content = hub, handler.content
        self.pull_request = "create_pr=1" in handler.path
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        self.user, self.role = TOKENS.get(token, (None, None))

    @property
    def json(self):
        return json.loads(self.content)

    def repo(self, repo_id: str, *, write: bool = False) -> Repo:
        """The repo, if the user may see it and, with `write`, push to it or propose a change."""
        repo = self.hub.repos.get(repo_id)
        owner = repo_id.split("/")[0]
        if repo is None or (repo.private and self.user != owner):
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write:
            self.may_write(self.user if self.user and self.pull_request else owner)
        return repo

    def may_write(self, owner: str) -> None:
        if self.user is None:
            raise Refusal(401, message="Invalid username or password.")
        if (self.user, self.role) != (owner, "write"):
            raise Refusal(403, message=f"You need write access to {owner}")

    def commit(self, repo: Repo, revision: str | None) -> str:
        found = repo.refs.get(revision or "main", revision)
        if found not in repo.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found


def model_info(request: Request, repo: str, revision: str | None = None) -> Reply:
    found = request.repo(repo)
    commit = request.commit(found, revision)
    siblings = [{"rfilename": path} for path in found.commits[commit]]
    return as_json({"id": repo, "sha": commit, "private": found.private, "tags": [], "siblings": siblings})


def resolve(request: Request, repo: str, revision: str, path: str) -> Reply:
    found = request.repo(repo)
    if found.gated and request.user != repo.split("/")[0]:
        raise Refusal(403 if request.user else 401, "GatedRepo", "Access to this repo is restricted")
    commit = request.commit(found, revision)
    oid = found.commits[commit].get(path)
    if oid is None:
        refusal = Refusal(404, "EntryNotFound", "Entry not found")
        refusal.reply.headers["X-Repo-Commit"] = commit
        raise refusal
    return Reply(200, (request.hub.folder / oid).read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{oid}"'})


def create_repo(request: Request) -> Reply:
    asked = request.json
    owner = asked["organization"] or request.user
    repo_id = f"{owner}/{asked['name']}"
    url = {"url": f"{request.hub.endpoint}/{repo_id}"}
    request.may_write(owner)
    if repo_id in request.hub.repos:
        return as_json(url | {"error": "You already created this model repo"}, 409)
    request.hub.create(repo_id).private = asked.get("visibility") == "private"
    return as_json(url)


def validate_yaml(request: Request) -> Reply:
    if "license: none-at-all" in request.json["content"]:
        return as_json({"errors": [{"message": '"license" must be one of the known ones'}], "warnings": []}, 400)
    return as_json({"errors": [], "warnings": []})


def preupload(request: Request, repo: str, revision: str) -> Reply:
    found = request.repo(repo, write=True)
    tree = found.commits[request.commit(found, revision)]
    paths = [file["path"] for file in request.json["files"]]
    files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False, "oid": tree.get(p)} for p in paths]
    return as_json({"files": files})


def commit(request: Request, repo: str, revision: str) -> Reply:
    found = request.repo(repo, write=True)
    lines = [json.loads(line) for line in request.content.splitlines()]
    header = lines[0]["value"]
    if header.get("parentCommit") not in (None, request.commit(found, revision)):
        raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
    files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines[1:]}
    branch = revision
    if request.pull_request:
        branch = f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in found.refs)}"
        found.refs[branch] = found.refs[revision]
    oid = request.hub.put(found, branch, files, header["summary"])
    url = f"{request.hub.endpoint}/{repo}"
    pull_request = {"pullRequestUrl": f"{url}/discussions/{branch.rpartition('/')[2]}"} if branch != revision else {}
    return as_json({"commitUrl": f"{url}/commit/{oid}", "commitOid": oid, **pull_request})


def make_ref(request: Request, repo: str, revision: str, kind: str) -> Reply:
    found = request.repo(repo, write=True)
    name, start = (revision, "main") if kind == "branch" else (request.json["tag"], revision)
    if name in found.refs:
        raise Refusal(409, message="Reference exists already")
    found.refs[name] = request.commit(found, start)
    return as_json({})


def whoami(request: Request) -> Reply:
    if request.user is None:
        raise Refusal(401, message="Invalid user token.")
    return as_json({"name": request.user, "type": "user", "auth": {"accessToken": {"role": request.role}}})


REPO, REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = (
    (("GET",), f"/api/models/{REPO}", model_info),
    (("GET",), f"/api/models/{REPO}/revision/{REVISION}", model_info),
    (("GET", "HEAD"), f"/{REPO}/resolve/{REVISION}/(?P<path>.+)", resolve),
    (("GET",), "/api/whoami-v2", whoami),
    (("POST",), "/api/repos/create", create_repo),
    (("POST",), "/api/validate-yaml", validate_yaml),
    (("POST",), f"/api/models/{REPO}/preupload/{REVISION}", preupload),
    (("POST",), f"/api/models/{REPO}/commit/{REVISION}", commit),
    (("POST",), f"/api/models/{REPO}/(?P<kind>branch|tag)/{REVISION}", make_ref),
)
