"""What a Hub keeps: repos with commits, refs and discussions, collections, and the contents of files."""

import hashlib
import json
import re
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

WRITE, READ, OTHER = "hf_writewritewrite", "hf_readreadreadread", "hf_otherotherother"
XET = "xet_writewritewrite"  # for the storage alone
TOKENS = {WRITE: ("user", "write"), READ: ("user", "read"), OTHER: ("other", "write"), XET: ("xet", "write")}
MEMBERS = {"team": {"user"}}  # organizations

ATTRIBUTES = {".gitattributes": b"*.safetensors filter=lfs\n"}
TIME = "%Y-%m-%dT%H:%M:%S.000Z"


def is_large(path: str) -> bool:
    """Whether a file is kept outside of git, and served by the CDN."""
    return path.endswith(".safetensors")


@dataclass(frozen=True)
class Blob:
    """A file's content, by its hashes."""

    git: str
    sha256: str
    size: int
    large: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git

    def as_json(self) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "sha256": self.sha256, "size": self.size, "pointerSize": 130}
        return {"oid": self.git, "size": self.size, **({"lfs": lfs} if self.large else {})}


@dataclass(frozen=True)
class Commit:
    tree: dict[str, Blob]
    message: str
    author: str
    parent: str | None
    time: str = field(default_factory=lambda: time.strftime(TIME, time.gmtime()))


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)  # branches, tags and refs/pr/...: name -> commit
    tags: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)  # in the order in which they were made
    discussions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def messages(self) -> list[str]:
        return [commit.message for commit in self.commits.values()]

    def history(self, commit: str | None) -> list[str]:
        """A commit and all before it, the newest first."""
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit].parent
        return found


class Storage:
    """Everything behind the HTTP interface; tests look into it and change it as somebody else would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.xorbs: dict[str, list[bytes]] = {}
        self.lock = threading.RLock()

    def store(self, content: bytes) -> str:
        """Keep a content; its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / sha256).write_bytes(content)
        return sha256

    def content(self, sha256: str) -> bytes | None:
        path = self.folder / sha256
        return path.read_bytes() if path.is_file() else None

    def blob(self, path: str, content: bytes) -> Blob:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(git, self.store(content), len(content), is_large(path))

    def create(self, repo_id: str, **settings: Any) -> Repo:
        repo = self.repos[repo_id] = Repo(**settings)
        self.put(repo, "main", ATTRIBUTES, "initial commit")
        return repo

    def commit(self, repo_id: str, files: dict[str, bytes], *, branch: str = "main", **settings: Any) -> str:
        """Change files of a repo, made if needed, as somebody else would do it; the new commit."""
        with self.lock:
            repo = self.repos.get(repo_id) or self.create(repo_id)
            for name, value in settings.items():
                setattr(repo, name, value)
            return self.put(repo, branch, files, "by somebody else")

    def put(
        self,
        repo: Repo,
        branch: str,
        files: dict[str, bytes],
        message: str,
        *,
        deleted: tuple[str, ...] = (),
        author: str = "somebody",
    ) -> str:
        """Make a commit on a branch; files are replaced or added, and those in or below `deleted` are gone."""
        parent = repo.refs.get(branch)
        before = repo.commits[parent].tree if parent else {}
        kept = {path: blob for path, blob in before.items() if not (path + "/").startswith(deleted or "\0")}
        tree = kept | {path: self.blob(path, content) for path, content in files.items()}
        listing = [(path, blob.git) for path, blob in sorted(tree.items())]
        oid = hashlib.sha1(json.dumps([parent, listing, message, secrets.token_hex(4)]).encode()).hexdigest()
        repo.commits[oid] = Commit(tree, message, author, parent)
        repo.refs[branch] = oid
        return oid

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files that have been pushed to a repo."""
        repo = self.repos[repo_id]
        tree = repo.commits[repo.refs.get(revision, revision)].tree
        return {path: self.content(blob.sha256) for path, blob in tree.items() if path not in ATTRIBUTES}

    def damage(self, repo_id: str, path: str, content: bytes) -> None:
        """Replace what a file of the main branch holds without a commit: its hashes are those of the old content."""
        repo = self.repos[repo_id]
        head = repo.commits[repo.refs["main"]]
        repo.commits[repo.refs["main"]] = replace(
            head, tree=head.tree | {path: replace(head.tree[path], sha256=self.store(content), size=len(content))}
        )

    def card(self, repo: Repo, commit: str) -> dict[str, Any]:
        """The metadata at the head of a README, as the Hub reads it; empty where there is none."""
        blob = repo.commits[commit].tree.get("README.md")
        text = "" if blob is None else self.content(blob.sha256).decode(errors="replace")
        found = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---", text, re.DOTALL)
        try:
            data = yaml.safe_load(found[1]) if found else None
        except yaml.YAMLError:
            data = None
        return data if isinstance(data, dict) else {}


def tags_of(card: dict[str, Any], files: dict[str, Blob]) -> list[str]:
    """The tags by which the Hub's filters find a model: those of its card, and what follows from its metadata."""
    relation = card.get("base_model_relation")
    found = [*as_list(card.get("library_name")), *(["safetensors"] if any(map(is_large, files)) else [])]
    found += [*as_list(card.get("tags")), *as_list(card.get("pipeline_tag"))]
    found += [f"dataset:{dataset}" for dataset in as_list(card.get("datasets"))]
    for base in as_list(card.get("base_model")):
        found += [f"base_model:{base}", *([f"base_model:{relation}:{base}"] if relation else [])]
    found += [f"license:{license}" for license in as_list(card.get("license"))]
    found += ["model-index"] if "model-index" in card else []
    return [*dict.fromkeys(map(str, found)), "region:us"]


def as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
