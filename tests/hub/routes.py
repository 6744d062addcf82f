"""The Hub's HTTP interface, as far as model repos and collections need it: a table of routes for each origin."""

import base64
import hashlib
import json
import re
import secrets
import time
from typing import Any
from urllib.parse import parse_qs

from tests.hub import xet
from tests.hub.server import Refusal, Reply, Request, Routes, as_json
from tests.hub.storage import MEMBERS, TIME, XET, Blob, Repo, is_large, tags_of

_SIGNATURE = secrets.token_hex(8)  # part of the CDN's URLs, which need no token

# --- models ---


def model(request: Request, repo: str, revision: str | None = None) -> Reply:
    found = request.repo(repo)
    commit = request.commit(found, revision)
    info = describe(request, repo, found, commit)
    if request.asked("blobs"):
        for sibling in info["siblings"]:
            blob = found.commits[commit].tree[sibling["rfilename"]].as_json()
            sibling |= {"size": blob["size"], "blobId": blob["oid"], **({"lfs": blob["lfs"]} if "lfs" in blob else {})}
    return as_json(selected(info, request.query.get("expand")))


def models(request: Request) -> Reply:
    """Those that the user may see and that have all tags that are asked for, the latest first."""
    infos = [
        describe(request, name, repo, repo.refs["main"])
        for name, repo in reversed(request.hub.repos.items())
        if not repo.private or request.belongs_to(name.split("/")[0])
    ]
    tags = {tag for value in request.query.get("filter", []) for tag in value.split(",")}
    tags |= set(request.query.get("pipeline_tag", []))
    author, search = request.asked("author"), (request.asked("search") or "").lower()
    full = request.asked("full") or tags
    found = []
    for info in infos:
        if tags <= set(info["tags"]) and author in (None, info["author"]) and search in info["id"].lower():
            if not request.asked("cardData"):
                info.pop("cardData") if not request.query.get("expand") else None
            if not full and not request.query.get("expand"):
                for name in ("siblings", "sha", "lastModified"):
                    info.pop(name)
            found.append(selected(info, request.query.get("expand")))
    return request.pages(found)


def describe(request: Request, name: str, repo: Repo, commit: str) -> dict[str, Any]:
    card = request.hub.card(repo, commit)
    tree = repo.commits[commit].tree
    history = repo.history(commit)
    return {
        "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
        "id": name,
        "modelId": name,
        "author": name.split("/")[0],
        "sha": commit,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "tags": tags_of(card, tree),
        "cardData": {key: value for key, value in card.items() if key != "model-index"},
        "model-index": card.get("model-index"),
        "createdAt": repo.commits[history[-1]].time,
        "lastModified": repo.commits[commit].time,
        "siblings": [{"rfilename": path} for path in tree],
    }


def selected(info: dict[str, Any], names: list[str] | None) -> dict[str, Any]:
    """Only the fields that are asked for."""
    return info if not names else {"_id": info["_id"], "id": info["id"], **{k: info[k] for k in names if k in info}}


def create_repo(request: Request) -> Reply:
    asked = request.json
    owner = asked["organization"] or request.user
    repo_id = f"{owner}/{asked['name']}"
    url = {"url": f"{request.hub.endpoint}/{repo_id}"}
    request.may_write(owner)
    if repo_id in request.hub.repos:
        raise Refusal(409, message="You already created this model repo", **url)
    request.hub.create(repo_id, private=asked.get("visibility") == "private")
    return as_json(url)


def delete_repo(request: Request) -> Reply:
    name = f"{request.json['organization'] or request.user}/{request.json['name']}"
    request.repo(name, write=True)
    del request.hub.repos[name]
    return as_json({})


def settings(request: Request, repo: str) -> Reply:
    found = request.repo(repo, write=True)
    asked = request.json
    found.private = asked.get("visibility", "private" if found.private else "public") == "private"
    found.gated = bool(asked.get("gated", found.gated))
    return as_json({"private": found.private, "gated": found.gated})


def whoami(request: Request) -> Reply:
    if request.user is None:
        raise Refusal(401, message="Invalid user token.")
    orgs = [{"name": name, "roleInOrg": "write"} for name, members in MEMBERS.items() if request.user in members]
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": request.role}}
    return as_json({"name": request.user, "type": "user", "orgs": orgs, "auth": access})


# --- files ---


def resolve(request: Request, repo: str, revision: str, path: str) -> Reply:
    found = request.repo(repo)
    if found.gated and not request.belongs_to(repo.split("/")[0]):
        raise Refusal(403 if request.user else 401, "GatedRepo", "Access to this repo is restricted")
    commit = request.commit(found, revision)
    blob = found.commits[commit].tree.get(path)
    if blob is None:
        refusal = Refusal(404, "EntryNotFound", "Entry not found")
        refusal.reply.headers["X-Repo-Commit"] = commit
        raise refusal
    headers: dict[str, str | None] = {"X-Repo-Commit": commit, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if not blob.large:
        return Reply(200, request.hub.content(blob.sha256), headers)
    headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size), "ETag": '"of-the-redirect"'}
    return Reply(302, b"", headers | {"Location": f"{request.hub.cdn}/{blob.sha256}?signature={_SIGNATURE}"})


def tree(request: Request, repo: str, revision: str, path: str | None = None) -> Reply:
    found = request.repo(repo)
    files = found.commits[request.commit(found, revision)].tree
    prefix = f"{path}/" if path else ""
    entries = {}
    for name, blob in sorted(files.items()):
        below = name.removeprefix(prefix).split("/")
        if name.startswith(prefix):
            for depth in range(1, len(below)):
                folder = prefix + "/".join(below[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            entries[name] = file_entry(name, blob)
    if path and not entries:
        raise Refusal(404, "EntryNotFound", f"{path} does not exist")
    deep = request.asked("recursive") in ("true", "True")
    return request.pages([e for e in entries.values() if deep or "/" not in e["path"].removeprefix(prefix)])


def paths_info(request: Request, repo: str, revision: str) -> Reply:
    found = request.repo(repo)
    files = found.commits[request.commit(found, revision)].tree
    asked = parse_qs(request.content.decode()).get("paths", [])
    return as_json([file_entry(path, files[path]) for path in asked if path in files])


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    return {"type": "file", "path": path, **blob.as_json()}


# --- uploads ---


def validate_yaml(request: Request) -> Reply:
    if "license: none-at-all" in request.json["content"]:
        return as_json({"errors": [{"message": '"license" must be one of the known ones'}], "warnings": []}, 400)
    return as_json({"errors": [], "warnings": []})


def preupload(request: Request, repo: str, revision: str) -> Reply:
    """Which way each file goes, and the hash of what is there: the client leaves out what is the same."""
    found = request.repo(repo, write=True)
    files = found.commits[request.commit(found, revision)].tree
    answers = []
    for path in (file["path"] for file in request.json["files"]):
        by_lfs = request.hub.lfs and is_large(path)
        there = files.get(path)
        oid = there and (there.sha256 if by_lfs else there.git)
        mode = "lfs" if by_lfs else "regular"
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return as_json({"files": answers})


def lfs_batch(request: Request, repo: str) -> Reply:
    request.may_write(repo.split("/")[0]) if not request.user else request.repo(repo)
    if request.role != "write":
        raise Refusal(403, message="You need write access")
    objects = []
    for asked in request.json["objects"]:
        known = {"oid": asked["oid"], "size": asked["size"]}
        if request.hub.content(asked["oid"]) is None:
            upload = {"href": f"{request.hub.cdn}/{asked['oid']}?signature={_SIGNATURE}"}
            verify = {"href": f"{request.hub.endpoint}/{repo}.git/info/lfs/objects/verify"}
            known["actions"] = {"upload": upload, "verify": verify}
        objects.append(known)
    return as_json({"transfer": "basic", "objects": objects})


def lfs_verify(request: Request, repo: str) -> Reply:
    request.repo(repo)
    content = request.hub.content(request.json["oid"])
    if content is None or len(content) != request.json["size"]:
        raise Refusal(404, message="the object is not there, or of another size")
    return as_json({})


def lfs_put(request: Request, oid: str) -> Reply:
    signed(request)
    if hashlib.sha256(request.content).hexdigest() != oid:
        raise Refusal(400, message="not the content that was announced")
    request.hub.store(request.content)
    return Reply()


def lfs_get(request: Request, oid: str) -> Reply:
    signed(request)
    content = request.hub.content(oid)
    if content is None:
        raise Refusal(404, message="no such object")
    return Reply(200, content, {"ETag": '"of-the-cdn"', "Accept-Ranges": "bytes"})


def signed(request: Request) -> None:
    if request.asked("signature") != _SIGNATURE:
        raise Refusal(403, message="the URL is not signed")


def xet_token(request: Request, repo: str, revision: str) -> Reply:
    request.repo(repo, write=True)
    if not request.hub.xet:
        raise Refusal(404, message="no Xet here")
    return as_json({"casUrl": request.hub.cdn, "accessToken": XET, "exp": int(time.time()) + 3600})


def put_xorb(request: Request, xorb: str) -> Reply:
    uploads_by_xet(request)
    request.hub.xorbs[xorb] = xet.chunks(request.content)
    return as_json({"was_inserted": True})


def put_shard(request: Request) -> Reply:
    uploads_by_xet(request)
    for sha256, segments in xet.files(request.content):
        content = b"".join(chunk for xorb, start, end in segments for chunk in request.hub.xorbs[xorb][start:end])
        if request.hub.store(content) != sha256:
            raise Refusal(400, message="not the content that was announced")
    return as_json({"result": 1})


def uploads_by_xet(request: Request) -> None:
    if request.user != "xet":
        raise Refusal(401, message="not a token of the storage")


def commit(request: Request, repo: str, revision: str) -> Reply:
    found = request.repo(repo, write=True)
    parent = request.commit(found, revision)
    lines = [json.loads(line) for line in request.content.splitlines()]
    header = lines[0]["value"]
    if header.get("parentCommit") not in (None, parent):
        raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
    changes = [(line["key"], line["value"]) for line in lines[1:]]
    files = {value["path"]: uploaded(request, key, value) for key, value in changes if not key.startswith("deleted")}
    deleted = tuple(value["path"].rstrip("/") + "/" for key, value in changes if key.startswith("deleted"))
    branch = revision
    if request.proposes:
        branch = propose(request, found, header["summary"], parent)
    oid = request.hub.put(found, branch, files, header["summary"], deleted=deleted, author=request.user)
    url = f"{request.hub.endpoint}/{repo}"
    pull_request = {"pullRequestUrl": f"{url}/discussions/{branch.rpartition('/')[2]}"} if request.proposes else {}
    return as_json({"success": True, "commitUrl": f"{url}/commit/{oid}", "commitOid": oid, **pull_request})


def uploaded(request: Request, key: str, value: dict[str, Any]) -> bytes:
    """A file's content: in the commit itself, or uploaded before."""
    if key == "file":
        return base64.b64decode(value["content"])
    content = request.hub.content(value["oid"])
    if content is None or len(content) != value.get("size", len(content)):
        raise Refusal(400, message=f"the LFS object of {value['path']} was not uploaded")
    return content


# --- refs ---


def make_ref(request: Request, repo: str, kind: str, revision: str) -> Reply:
    found = request.repo(repo, write=True)
    asked = request.json if request.content else {}
    name, start = (revision, asked.get("startingPoint")) if kind == "branch" else (asked["tag"], revision)
    if name in found.refs:
        raise Refusal(409, message="Reference exists already")
    found.refs[name] = request.commit(found, start)
    found.tags |= {name} if kind == "tag" else set()
    return as_json({})


def delete_ref(request: Request, repo: str, kind: str, revision: str) -> Reply:
    found = request.repo(repo, write=True)
    if revision not in found.refs or (revision in found.tags) != (kind == "tag"):
        raise Refusal(404, "RevisionNotFound", f"no {kind} {revision}")
    if revision == "main":
        raise Refusal(403, message="the main branch stays")
    del found.refs[revision]
    found.tags.discard(revision)
    return as_json({})


def refs(request: Request, repo: str) -> Reply:
    found = request.repo(repo)
    lists: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for name, target in found.refs.items():
        kind = "pullRequests" if name.startswith("refs/") else "tags" if name in found.tags else "branches"
        ref = name if kind == "pullRequests" else f"refs/{'tags' if kind == 'tags' else 'heads'}/{name}"
        lists[kind].append({"name": name, "ref": ref, "targetCommit": target})
    if not request.asked("include_prs"):
        del lists["pullRequests"]
    return as_json(lists)


def commits(request: Request, repo: str, revision: str) -> Reply:
    found = request.repo(repo)
    history = [(oid, found.commits[oid]) for oid in found.history(request.commit(found, revision))]
    return request.pages(
        [
            {"id": oid, "title": c.message, "message": "", "date": c.time, "authors": [{"user": c.author}]}
            for oid, c in history
        ]
    )


# --- pull requests ---


def propose(request: Request, repo: Repo, title: str, start: str, *, pull_request: bool = True) -> str:
    """Open a discussion; the ref of its pull request."""
    number = len(repo.discussions) + 1
    if pull_request:
        repo.refs[f"refs/pr/{number}"] = start
    repo.discussions.append(
        {
            "num": number,
            "title": title,
            "status": "open",
            "author": {"name": request.user},
            "createdAt": time.strftime(TIME, time.gmtime()),
            "isPullRequest": pull_request,
        }
    )
    return f"refs/pr/{number}"


def discussions(request: Request, repo: str) -> Reply:
    wanted = {key: request.query.get(key, [""])[0] for key in ("author", "type", "status")}
    found = [
        about_repo(repo, one)
        for one in request.repo(repo).discussions
        if wanted["author"] in ("", one["author"]["name"])
        and (wanted["type"] in ("", "all") or one["isPullRequest"] == (wanted["type"] == "pull_request"))
        and (wanted["status"] in ("", "all") or (one["status"] == "open") == (wanted["status"] == "open"))
    ]
    return as_json({"discussions": found, "count": len(found), "start": 0})


def create_discussion(request: Request, repo: str) -> Reply:
    found = request.repo(repo)
    request.may_write(request.user or "")
    propose(request, found, request.json["title"], found.refs["main"], pull_request=request.json["pullRequest"])
    return as_json({"num": len(found.discussions)})


def discussion(request: Request, repo: str, number: str) -> Reply:
    found = request.repo(repo)
    if not 1 <= int(number) <= len(found.discussions):
        raise Refusal(404, message="no such discussion")
    one = found.discussions[int(number) - 1]
    changes = {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "diff": ""}
    return as_json(about_repo(repo, one) | {"events": []} | (changes if one["isPullRequest"] else {}))


def change_discussion(request: Request, repo: str, number: str, action: str) -> Reply:
    found = request.repo(repo, write=True)
    one = found.discussions[int(number) - 1]
    if action == "merge":
        found.refs["main"] = found.refs[f"refs/pr/{number}"]
    one["status"] = "merged" if action == "merge" else request.json["status"]
    event = {"id": "0", "type": "status-change", "createdAt": one["createdAt"], "data": {"status": one["status"]}}
    return as_json({"newStatus": event | {"author": one["author"]}})


def about_repo(repo: str, one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "repo": {"name": repo, "type": "model"}}


# --- collections ---


def collections(request: Request) -> Reply:
    owners, items = set(request.query.get("owner", [])), set(request.query.get("item", []))
    found = []
    for one in request.hub.collections.values():
        mine = one["private"] and not request.belongs_to(one["owner"]["name"])
        holds = {f"{item['type']}s/{item['id']}" for item in one["items"]}
        if not mine and (not owners or one["owner"]["name"] in owners) and items <= holds:
            found.append({k: v for k, v in shown(one).items() if k != "position"} | {"items": one["items"][:4]})
    return request.pages(found)


def create_collection(request: Request) -> Reply:
    asked = request.json
    request.may_write(asked["namespace"])
    for one in request.hub.collections.values():
        if (one["title"], one["owner"]["name"]) == (asked["title"], asked["namespace"]):
            raise Refusal(409, message="there is such a collection", slug=one["slug"])
    words = re.sub(r"\W+", "-", asked["title"].lower()).strip("-")
    slug = f"{asked['namespace']}/{words}-{secrets.token_hex(12)}"
    request.hub.collections[slug] = {
        "slug": slug,
        "title": asked["title"],
        "description": asked.get("description"),
        "owner": {"name": asked["namespace"]},
        "private": asked["private"],
        "items": [],
        "lastUpdated": time.strftime(TIME, time.gmtime()),
        "position": 0,
        "theme": "orange",
        "upvotes": 0,
    }
    return as_json(shown(request.hub.collections[slug]))


def collection(request: Request, slug: str, *, write: bool = False) -> dict[str, Any]:
    one = request.hub.collections.get(slug)
    if one is None or (one["private"] and not request.belongs_to(one["owner"]["name"])):
        raise Refusal(404, message="Collection not found")
    if write:
        request.may_write(one["owner"]["name"])
    return one


def get_collection(request: Request, slug: str) -> Reply:
    return as_json(shown(collection(request, slug)))


def update_collection(request: Request, slug: str) -> Reply:
    one = collection(request, slug, write=True)
    one |= {name: value for name, value in request.json.items() if name in one}
    return as_json({"success": True, "data": shown(one)})


def delete_collection(request: Request, slug: str) -> Reply:
    collection(request, slug, write=True)
    del request.hub.collections[slug]
    return as_json({})


def add_item(request: Request, slug: str) -> Reply:
    one = collection(request, slug, write=True)
    item, note = request.json["item"], request.json.get("note")
    if item["type"] == "model":
        request.repo(item["id"])
    if any((known["id"], known["type"]) == (item["id"], item["type"]) for known in one["items"]):
        raise Refusal(409, message="Item already in collection")
    entry = {"_id": secrets.token_hex(12), "id": item["id"], "type": item["type"], "position": len(one["items"])}
    one["items"].append(entry | ({"note": {"html": note, "text": note}} if note else {}))
    return as_json(shown(one))


def change_item(request: Request, slug: str, item: str) -> Reply:
    one = collection(request, slug, write=True)
    found = next((entry for entry in one["items"] if entry["_id"] == item), None)
    if found is None:
        raise Refusal(404, message="no such item")
    if not request.content:
        one["items"].remove(found)
    elif "note" in request.json:
        found["note"] = {"html": request.json["note"], "text": request.json["note"]}
    return as_json({"success": True})


def shown(one: dict[str, Any]) -> dict[str, Any]:
    """As the client wants it: the owner by its name."""
    return {**one, "owner": one["owner"]["name"]}


# --- tables ---

_REPO, _REVISION, _SLUG = r"(?P<repo>[^/]+/[^/]+?)", r"(?P<revision>[^/]+)", r"(?P<slug>[^/]+/[^/]+)"
_MODEL, _LFS = f"/api/(models|datasets)/{_REPO}", f"/{_REPO}\\.git/info/lfs/objects"

HUB: Routes = (
    ("GET", "/api/models", models),
    ("GET", _MODEL, model),
    ("GET", f"{_MODEL}/revision/{_REVISION}", model),
    ("GET", f"{_MODEL}/tree/{_REVISION}(/(?P<path>.+))?", tree),
    ("POST", f"{_MODEL}/paths-info/{_REVISION}", paths_info),
    ("GET HEAD", f"/(datasets/)?{_REPO}/resolve/{_REVISION}/(?P<path>.+)", resolve),
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create_repo),
    ("DELETE", "/api/repos/delete", delete_repo),
    ("PUT", f"{_MODEL}/settings", settings),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", f"{_MODEL}/preupload/{_REVISION}", preupload),
    ("GET", f"{_MODEL}/xet-write-token/{_REVISION}", xet_token),
    ("POST", f"{_LFS}/batch", lfs_batch),
    ("POST", f"{_LFS}/verify", lfs_verify),
    ("POST", f"{_MODEL}/commit/{_REVISION}", commit),
    ("POST", f"{_MODEL}/(?P<kind>branch|tag)/{_REVISION}", make_ref),
    ("DELETE", f"{_MODEL}/(?P<kind>branch|tag)/{_REVISION}", delete_ref),
    ("GET", f"{_MODEL}/refs", refs),
    ("GET", f"{_MODEL}/commits/{_REVISION}", commits),
    ("GET", f"{_MODEL}/discussions", discussions),
    ("POST", f"{_MODEL}/discussions", create_discussion),
    ("GET", f"{_MODEL}/discussions/(?P<number>[0-9]+)", discussion),
    ("POST", f"{_MODEL}/discussions/(?P<number>[0-9]+)/(?P<action>merge|status)", change_discussion),
    ("GET", "/api/collections", collections),
    ("POST", "/api/collections", create_collection),
    ("GET", f"/api/collections/{_SLUG}", get_collection),
    ("PATCH", f"/api/collections/{_SLUG}", update_collection),
    ("DELETE", f"/api/collections/{_SLUG}", delete_collection),
    ("POST", f"/api/collections/{_SLUG}/items", add_item),
    ("PATCH DELETE", f"/api/collections/{_SLUG}/items/(?P<item>[^/]+)", change_item),
)
CDN: Routes = (
    ("GET HEAD", "/(?P<oid>[0-9a-f]{64})", lfs_get),
    ("PUT", "/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("POST", "/v1/xorbs/default/(?P<xorb>[0-9a-f]{64})", put_xorb),
    ("POST", "/v1/shards", put_shard),
)
