"""A server that means harm: it cannot make us write outside the cache, show it the token, or work without end."""

import json
import time
import tracemalloc
import zlib

import pytest
from huggingface_hub import close_session, get_session

from hf_rws._transport import calls, exchange, watching
from hf_rws._transport.headers import _MOST_TENSORS
from hf_rws.errors import FormatError, IntegrityError, NetworkError, RWSError
from hf_rws.hub import info, list_signatures
from tests.hub import Fault, fetch, hub_fixture  # noqa: F401
from tests.hub.samples import FILES, NAMES, PUSHED, REPO, SHA, contents, folder_fixture, push, tree  # noqa: F401
from tests.hub.storage import READ, WRITE
from tests.models import signature

MANY = 999

# --- what becomes a path ---

ETAGS = {
    "absolute": '"{tmp}/victim"',
    "absolute, weak": 'W/"{tmp}/victim"',
    "up": '"../../../victim"',
    "up, once": '".."',
    "itself": '"."',
    "a folder": '"a/b"',
    "of another system": '"..\\\\..\\\\victim"',
    "a drive": '"C:victim"',
    "long": '"' + "a" * 5000 + '"',
    "empty": '""',
    "odd": '"\x7f%00"',
    "hidden": '".locks"',
}


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ETAGS)
def test_no_etag_leads_out_of_the_cache(hub, tmp_path, name, force, header):
    hub.commit(REPO, FILES)
    (tmp_path / "victim").write_bytes(b"precious")
    fetch(REPO, NAMES)
    hub.commit(REPO, {"config.json": b"{}"}) if not force else None
    before = tree(tmp_path)
    hub.faults = [Fault("HEAD", headers={header: ETAGS[name].format(tmp=tmp_path)}, times=MANY)]
    with pytest.raises((IntegrityError, NetworkError), match=r"user/rws-fog.*Check HF_ENDPOINT"):
        fetch(REPO, NAMES, force_download=force)
    refs = tmp_path / "cache" / "models--user--rws-fog" / "refs" / "main"
    assert changed(before, tmp_path) <= {refs.relative_to(tmp_path)}


COMMITS = ["../../../victim", "/victim", "{tmp}/victim", "", "main", SHA, "a" * 5000]


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("absent", [False, True])
def test_no_name_of_a_commit_leads_out_of_the_cache(hub, tmp_path, commit, absent):
    """Neither that of a file nor that of its absence, which the client notes in the cache, too."""
    hub.commit(REPO, FILES)
    before = tree(tmp_path)
    hub.faults = [Fault("HEAD", headers={"X-Repo-Commit": commit.format(tmp=tmp_path)}, times=MANY)]
    with pytest.raises(RWSError, match="user/rws-fog"):
        fetch(REPO, ["nothing.json"] if absent else NAMES)
    assert {path.parts[:3] for path in changed(before, tmp_path)} <= {
        ("cache",), ("cache", "models--user--rws-fog"), ("cache", "models--user--rws-fog", "refs")
    }  # fmt: skip
    assert not list((tmp_path / "cache").rglob(".no_exist"))


@pytest.mark.parametrize("sha", ["../../../victim", "/victim", "", "main", None, 7, ["a"], "A" * 40, SHA + "\n"])
def test_what_is_no_commit_is_not_noted(hub, tmp_path, sha):
    hub.commit(REPO, FILES)
    before = tree(tmp_path)
    hub.faults = [Fault("GET /api", body=json.dumps({"id": REPO, "sha": sha}).encode(), times=MANY)]
    with pytest.raises(IntegrityError, match="is no commit"):
        fetch(REPO, NAMES)
    assert tree(tmp_path) == before


def test_names_of_files_on_the_hub_are_only_compared(hub, folder, tmp_path):
    hub.commit(REPO, FILES)
    names = ["../../../victim", "/victim", "README.md/../../x", "", "\x00", "config.json"]
    before = tree(tmp_path)

    def change(reply):
        said = json.loads(reply.body)
        reply.body = json.dumps(said | {"siblings": [{"rfilename": name} for name in names]}).encode()

    hub.faults = [Fault("GET /api/models/", change=change, times=MANY)]
    push(folder)
    fetch(REPO, NAMES)
    assert {path.parts[0] for path in changed(before, tmp_path)} <= {"cache", "hub"}


def test_what_was_damaged_on_the_way_does_not_replace_what_is_there(hub):
    hub.commit(REPO, FILES)
    fetch(REPO, NAMES)
    hub.faults = [Fault("GET .*(resolve|/[0-9a-f]{64})", flip=True, times=MANY)]
    with pytest.raises(IntegrityError, match="damaged on the way"):
        fetch(REPO, NAMES, force_download=True)
    hub.faults = []
    assert contents(fetch(REPO, NAMES, local_files_only=True)) == FILES


def changed(before, folder):
    after = tree(folder)
    return {path for path in before.keys() | after.keys() if before.get(path, "-") != after.get(path, "-")} - {
        path for path in after if path.parts[0] == "hub" or ("blobs" in path.parts and after[path] is None)
    }


# --- where the token goes ---


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher:x", "http://[", "//"])
@pytest.mark.parametrize("request_", ["HEAD", "GET .*resolve", "GET /api"])
def test_redirects_to_what_is_not_the_web(hub, location, request_):
    hub.commit(REPO, FILES)
    hub.faults = [Fault(request_, status=302, headers={"Location": location}, times=MANY)]
    with pytest.raises(RWSError, match="user/rws-fog"):
        fetch(REPO, ["config.json"])


@pytest.mark.parametrize("request_", ["HEAD", "GET .*resolve", "GET /api"])
def test_the_token_goes_to_no_other_server(hub, request_):
    hub.commit(REPO, FILES)
    for address in (hub.cdn, "//" + hub.cdn.partition("//")[2]):

        def change(reply, address=address):
            reply.status, reply.headers["Location"] = 302, f"{address}/other"

        hub.faults = [Fault(request_, change=change, times=9)]
        with pytest.raises(RWSError, match="user/rws-fog"):
            fetch(REPO, ["config.json"], token=READ)
    others = [headers for request, headers in hub.requests if request.endswith(" /other")]
    assert others
    assert not [headers for headers in others if "authorization" in headers]
    assert [headers for request, headers in hub.requests if "authorization" in headers]


def test_the_token_goes_to_no_other_server_by_xet(hub):
    hub.commit(REPO, FILES)
    link = f'<{hub.cdn}/api/models/{REPO}/xet-read-token/main>; rel="xet-auth"'
    hub.faults = [Fault("HEAD .*signature", headers={"X-Xet-Hash": "0" * 64, "Link": link}, times=MANY)]
    with pytest.raises(IntegrityError, match="an address that must not see the token"):
        fetch(REPO, NAMES, token=READ)
    assert not hub.asked("xet-read-token")


def test_the_next_page_is_on_the_same_server(hub):
    hub.commit("user/rws-fog", {"README.md": b"---\ntags: [robust-weight-signatures, rws]\n---\n"})
    hub.faults = [Fault(r"GET /api/models\?", headers={"Link": f'<{hub.cdn}/steal?cursor=1>; rel="next"'})]
    list_signatures(token=WRITE)
    assert hub.asked("steal") == 0
    assert hub.asked(r"GET /api/models\?cursor=1") == 1


# --- work without end ---


def test_pages_that_go_round(hub):
    hub.faults = [Fault(r"GET /api/models\?", body=b"[{}]", headers={"Link": '<?cursor=1>; rel="next"'}, times=MANY)]
    with pytest.raises(NetworkError, match="the list goes round in a circle"):
        list_signatures()
    assert hub.asked("GET") == 2


def test_pages_without_end(hub, monkeypatch):
    number = iter(range(10**6))

    def change(reply):
        reply.body, reply.headers["Link"] = b"[{}]", f'<?cursor={next(number)}>; rel="next"'

    hub.faults = [Fault(r"GET /api/models\?", change=change, times=10**6)]
    with pytest.raises(NetworkError, match="the list has more than 200 pages; ask for less"):
        list_signatures()
    for name, value, words in (
        ("_LARGEST_LISTING", 10, "is larger than 10 bytes"),
        ("_LONGEST_LISTING", 0.0, "takes longer than 0 seconds"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(exchange, name, value)
            with pytest.raises(NetworkError, match=words):
                list_signatures()


def test_discussions_without_end(hub, folder):
    hub.commit(REPO, FILES)
    number = iter(range(1, 10**6))

    def change(reply):
        one = {"num": next(number), "title": "again"}
        reply.body = json.dumps({"discussions": [one] * 50, "count": 10**9, "start": 0}).encode()

    hub.faults = [
        Fault("GET .*/discussions", change=change, times=20),
        Fault("GET .*/discussions", body=b'{"discussions": [{"num": 1, "title": "again"}], "count": 9}', times=MANY),
        Fault("GET .*/revision/refs", status=200, body=json.dumps({"sha": SHA}).encode(), times=MANY),
    ]
    assert push(folder, create_pr=True).pr_num == 1
    assert hub.asked("GET .*/discussions") == 21


def bomb(kind):
    """40 MB in 170 kB."""
    deflate = zlib.compressobj(level=1, wbits={"gzip": 31, "deflate": 15}[kind])
    return b"".join(deflate.compress(bytes(2**20)) for _ in range(40)) + deflate.flush()


BOMBS = {"gzip": bomb("gzip"), "deflate": bomb("deflate")}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize("request_", ["GET /api", "GET .*config"])
def test_bombs(hub, kind, status, request_):
    hub.commit(REPO, FILES)
    hub.faults = [Fault(request_, status=status, body=BOMBS[kind], headers={"Content-Encoding": kind}, times=MANY)]
    tracemalloc.start()
    try:
        with pytest.raises(RWSError, match="it is compressed"):
            fetch(REPO, NAMES)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("act", [lambda: fetch(REPO, NAMES), list_signatures, lambda: info(REPO)])
def test_an_answer_that_is_too_large(hub, monkeypatch, act):
    monkeypatch.setattr(exchange, "LARGEST_ANSWER", 1000)
    hub.commit(REPO, FILES)
    hub.faults = [Fault("GET /api", body=b'{"a": "' + b"a" * 2000 + b'"}', times=MANY)]
    with pytest.raises(NetworkError, match="it is larger than 1,000 bytes"):
        act()


def test_a_reason_that_is_too_large(hub):
    hub.commit(REPO, FILES)
    hub.faults = [Fault("GET /api", status=403, body=b'{"error": "' + b"a" * 10**6 + b'"}')]
    with pytest.raises(RWSError, match="no reason is given"):
        fetch(REPO, NAMES)


@pytest.mark.parametrize("request_", ["GET /api", "GET .*config"])
def test_a_server_that_trickles(hub, request_, monkeypatch):
    monkeypatch.setattr(calls, "TIME_LIMIT", 0.5)
    hub.commit(REPO, {**FILES, "config.json": b"{}" * 1000})
    hub.faults = [Fault(request_, trickle=0.02, times=MANY)]
    begun = time.monotonic()
    with pytest.raises(NetworkError, match=r"user/rws-fog.*less than 5,000 bytes a second came"):
        fetch(REPO, NAMES)
    assert time.monotonic() - begun < 3


def test_a_file_without_room_for_it(hub):
    hub.commit(REPO, {"model.safetensors": FILES["signature.safetensors"]})
    hub.faults = [Fault("HEAD .*model", headers={"X-Linked-Size": str(10**17)})]
    with pytest.raises(RWSError, match="No space left on device"):
        fetch(REPO, ["model.safetensors"])
    assert hub.asked("GET /[0-9a-f]{64}") == 0


# name -> bytes that are read of such a file
LARGEST = {
    "config.json": 4_000_000,
    "training_args.json": 4_000_000,
    "README.md": 4_000_000,
    "signature.safetensors": 2**32,
}


@pytest.mark.parametrize("name", LARGEST)
def test_what_is_small_is_not_received_when_it_is_large(hub, tmp_path, name):
    hub.commit(REPO, {name: b"{}"})
    size = {"Content-Length": str(LARGEST[name] + 1), "X-Linked-Size": str(LARGEST[name] + 1)}
    hub.faults = [Fault("HEAD", headers=size, times=MANY)]
    with pytest.raises(FormatError, match=rf"user/rws-fog \({name}\): is larger than the {LARGEST[name]:,} bytes"):
        fetch(REPO, [name])
    assert hub.asked("GET .*resolve") == hub.asked("GET /[0-9a-f]{64}") == 0


def test_what_is_small_is_not_received_when_its_size_comes_with_it(hub, tmp_path):
    hub.commit(REPO, {"config.json": bytes(4_000_001)})
    hub.faults = [Fault("HEAD", headers={"Content-Length": None}, times=MANY)]
    with pytest.raises(FormatError, match=r"user/rws-fog \(config.json\): is larger than the 4,000,000 bytes"):
        fetch(REPO, ["config.json"])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_session_that_the_client_makes_anew_is_watched_in_the_next_call(hub, monkeypatch):
    monkeypatch.setattr(exchange, "LARGEST_ANSWER", 1000)
    hub.commit(REPO, FILES)
    hub.faults = [Fault("GET /api", body=bytes(2000), times=MANY)]
    with watching.watched() as make:
        make(close_session)
        with pytest.raises(calls.AnswerError, match="larger than 1,000 bytes"):
            make(lambda: get_session().get(f"{hub.endpoint}/api/models/{REPO}"))
    assert not get_session().event_hooks["response"]


@pytest.mark.parametrize("kind", ["gzip", "plain"])
@pytest.mark.parametrize("request_", ["POST .*/preupload", "POST .*/commit", "POST .*/validate-yaml"])
def test_bombs_while_pushing(hub, folder, kind, request_, monkeypatch):
    monkeypatch.setattr(exchange, "LARGEST_ANSWER", 1_000_000)
    body = BOMBS["gzip"] if kind == "gzip" else bytes(1_100_000)
    headers = {"Content-Encoding": "gzip"} if kind == "gzip" else {}
    hub.faults = [Fault(request_, body=body, headers=headers, times=MANY)]
    if "commit" in request_:  # is made, and found when it is made again
        push(folder)
        assert hub.files(REPO) == PUSHED
    else:
        with pytest.raises(NetworkError, match=r"user/rws-fog: the answer broke \(it is larger than"):
            push(folder)
        assert hub.files(REPO) == {}


# --- the head of a safetensors file ---

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADS = {
    "a number that is none": b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
    "a number as text": json.dumps({"a": {**ENTRY, "shape": ["1e999"]}}).encode(),
    "a fraction": json.dumps({"a": {**ENTRY, "shape": [1.5]}}).encode(),
    "true": json.dumps({"a": {**ENTRY, "shape": [True]}}).encode(),
    "a huge shape": json.dumps({"a": {**ENTRY, "shape": [0, 10**30]}}).encode(),
    "a huge integer": b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % (b"9" * 5000),
    "negative": json.dumps({"a": {**ENTRY, "shape": [-1]}}).encode(),
    "many axes": json.dumps({"a": {**ENTRY, "shape": [1] * 1000}}).encode(),
    "offsets": json.dumps({"a": {**ENTRY, "data_offsets": [0, 4, 8]}}).encode(),
    "dtype": json.dumps({"a": {**ENTRY, "dtype": ["F32"]}}).encode(),
    "no entry": json.dumps({"a": 3}).encode(),
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deep lists": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "not Unicode": b'{"\\ud800": 3}',
    "not UTF-8": b'{"\xff": 3}',
    "many tensors": json.dumps(dict.fromkeys(map(str, range(_MOST_TENSORS + 1)), 0)).encode(),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_weight_files(hub, tmp_path, name):
    content = len(HEADS[name]).to_bytes(8, "little") + HEADS[name] + bytes(4)
    config = b'{"architecture": "vgg16_bn_gap"}'
    hub.commit("user/base", {"config.json": config, "model.safetensors": content})
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_bytes(config)
    (tmp_path / "base" / "model.safetensors").write_bytes(content)
    saved = signature("vgg16_bn_gap").save_pretrained(tmp_path / "rws-fog")
    for base in (tmp_path / "base", "user/base"):
        with pytest.raises(FormatError, match=r"model\.safetensors"):
            info(saved, base=base)
