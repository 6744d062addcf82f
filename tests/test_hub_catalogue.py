import json
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

import hf_rws
from hf_rws._transport import calls
from hf_rws._transport.headers import _FIRST_BYTES
from hf_rws.errors import (
    AccessError,
    FormatError,
    NetworkError,
    NotFoundError,
    OptionError,
    RWSError,
)
from hf_rws.hub import info, list_signatures
from hf_rws.timm_repo import save_timm_repo
from tests.hub import Fault, hub_fixture  # noqa: F401
from tests.hub.storage import OTHER, READ, WRITE
from tests.models import signature, trio

pytestmark = pytest.mark.filterwarnings("ignore:.*which model on the Hub it was made from")

NAME = "vgg16_bn_gap"
METRICS = {
    "dataset": "uoft-cs/cifar10",
    "split": "test",
    "n": 10000,
    "standard": {"ta": 0.692, "ra": 0.293},
    "patched": {"ta": 0.534, "ra": 0.618},
}
MIXED = [8, 4, "ternary", 2, 1, None, 3]


def made(label="fog", bits=None):
    """A signature that says all that one can say; by default with float32 values, longer than what a look fetches."""
    found = signature(NAME, label, bits=bits).with_results(metrics=METRICS, recommended_scale=0.8)
    assert bits is not None or found.nbytes > 2 * _FIRST_BYTES
    return found


@pytest.fixture
def study(tmp_path, monkeypatch):
    """base/ and rws-fog/ in the current folder."""
    monkeypatch.chdir(tmp_path)
    save_timm_repo(trio(NAME).standard, "base")
    made().save_pretrained("rws-fog")
    return tmp_path


@pytest.fixture
def pushed(hub, tmp_path, monkeypatch):
    """user/base and user/rws-fog on the Hub, and nothing here."""
    monkeypatch.chdir(tmp_path)
    hf_rws.push_base(trio(NAME).standard, "user/base", token=WRITE)
    made().push_to_hub("user/rws-fog", token=WRITE)
    hub.requests.clear()
    return hub


def head(hub, repo_id):
    return hub.repos[repo_id].refs["main"]


# --- one signature ---


def test_a_look_at_a_signature_on_the_hub(pushed):
    found, stored = info("user/rws-fog"), pushed.files("user/rws-fog")
    assert (found.id, found.revision) == ("user/rws-fog", head(pushed, "user/rws-fog"))
    assert (found.corruptions, found.severity, found.architecture, found.num_classes) == (("fog",), 5, NAME, 10)
    assert (found.kind, found.num_layers, found.bits, found.recommended_scale) == ("extracted", 7, (32,) * 7, 0.8)
    assert found.nbytes == len(stored["signature.safetensors"]) == made().nbytes
    assert found.download_nbytes == found.nbytes + len(stored["config.json"])
    assert found.metrics == METRICS
    assert (found.fits, found.misfits) == (None, None)


def test_a_look_fetches_the_config_and_the_head_of_the_weights(pushed):
    info("user/rws-fog")
    weights = [headers["range"] for request, headers in pushed.requests if "signature.safetensors" in request]
    assert weights == [f"bytes=0-{_FIRST_BYTES - 1}"]
    assert pushed.asked("GET .*config.json") == 1
    assert all(headers["user-agent"].startswith("hf-rws/") for _, headers in pushed.requests)
    hf_rws.Signature.from_pretrained("user/rws-fog")
    assert pushed.asked("GET .*config.json") == 1


def test_a_look_at_a_folder_says_the_same(pushed, study):
    here, there = info("rws-fog"), info("user/rws-fog")
    assert (here.id, here.revision) == ("rws-fog", None)
    same = {key: value for key, value in vars(there).items() if key not in ("id", "revision")}
    assert same.items() <= vars(here).items()
    assert info(study / "rws-fog").nbytes == here.nbytes


def test_bits_by_layer(study):
    made().quantize(MIXED).save_pretrained("mixed")
    assert info("mixed").bits == (8, 4, "ternary", 2, 1, 32, 3)


def test_what_is_shown_of_a_signature(study):
    found = info("rws-fog", base="base")
    assert repr(found).splitlines() == [
        "signature  rws-fog",
        "corruption fog, severity 5",
        "base       vgg16_bn_gap, 10 classes",
        "made by    extracted, 7 layers",
        "bits       32, 32, 32, 32, 32, 32, 32",
        f"size       {found.nbytes:,} bytes; whole download {found.download_nbytes:,} bytes",
        "scale      0.8 recommended",
        "accuracy   TA 69.2 -> 53.4, RA 29.3 -> 61.8 on 10,000 images of uoft-cs/cifar10",
        "fits       yes (architecture, names and shapes)",
    ]
    shown = json.loads(found.to_json())
    assert shown["fits"] is True
    assert shown["metrics"] == METRICS
    assert shown["download_nbytes"] == found.download_nbytes
    made(bits=4).with_results(metrics={"standard": "?"}).save_pretrained("plain")
    assert "accuracy" not in repr(info("plain"))
    assert "fits" not in repr(info("plain"))


def test_does_it_fit(pushed, study):
    assert info("user/rws-fog", base="user/base").fits
    other = trio("resnet18").standard
    save_timm_repo(other, "resnet")
    found = info("rws-fog", base="resnet")
    assert not found.fits
    assert found.misfits[0] == "the signature is for vgg16_bn_gap, resnet is resnet18"
    assert "resnet has no tensor features.0.weight" in found.misfits
    assert "fits       the signature is for vgg16_bn_gap" in repr(found)
    wider = hf_rws.models.vgg16_bn_gap(width=0.1, num_classes=10)
    save_timm_repo(wider, "wider")
    assert info("rws-fog", base="wider").misfits[0] == (
        "features.0.weight is (6, 3, 3, 3) in wider, (3, 3, 3, 3) in the signature"
    )
    (study / "base" / "model.safetensors").rename(study / "rws-fog" / "model.safetensors")
    with pytest.raises(FormatError, match=r"rws-fog config\.json: not a timm model's config"):
        info("rws-fog", base="rws-fog")


def test_pinned_and_offline(pushed):
    first = head(pushed, "user/rws-fog")
    made("snow").push_to_hub("user/rws-fog", token=WRITE)
    assert info("user/rws-fog").corruptions == ("snow",)
    assert info("user/rws-fog", revision=first).corruptions == info(f"user/rws-fog@{first}").corruptions == ("fog",)
    with pytest.raises(NetworkError, match=r"user/rws-fog.*signature\.safetensors.*not in the cache"):
        info("user/rws-fog", local_files_only=True)
    hf_rws.Signature.from_pretrained("user/rws-fog")
    pushed.requests.clear()
    assert info("user/rws-fog", local_files_only=True).corruptions == ("snow",)
    assert not pushed.requests


def test_private_and_gated(pushed):
    pushed.repos["user/rws-fog"].private = True
    assert info("user/rws-fog", token=READ).corruptions == ("fog",)
    with pytest.raises(NotFoundError, match="or it is private"):
        info("user/rws-fog")
    pushed.repos["user/rws-fog"].private, pushed.repos["user/rws-fog"].gated = False, True
    with pytest.raises(AccessError, match="gated"):
        info("user/rws-fog", token=OTHER)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "not a safetensors file"),
        (b"<html>" * 2000, "not a safetensors file"),
        (b"\xff" * 8 + b"{}" * 100, "not a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "not a safetensors file; its header: must hold a JSON object, not list"),
        ((9).to_bytes(8, "little") + b'{"a": {}}', "not a safetensors file .its header does not describe 'a'"),
        ((2).to_bytes(8, "little") + b"{}", "config.json asks for"),
        ((2).to_bytes(8, "little") + b"{}more", "has 14 bytes, its header says 10; it is damaged"),
    ],
)
def test_broken_weights(hub, study, content, words):
    (study / "rws-fog" / "signature.safetensors").write_bytes(content)
    config = (study / "rws-fog" / "config.json").read_bytes()
    hub.commit("user/broken", {"config.json": config, "signature.safetensors": content})
    for id in ("rws-fog", "user/broken"):
        with pytest.raises(FormatError, match=rf"{id}.*signature\.safetensors.*{words}"):
            info(id)


def test_weights_of_another_signature_and_no_signature(study):
    (study / "rws-fog" / "signature.safetensors").write_bytes(made(bits=4)._serialized)
    with pytest.raises(FormatError, match=r"rws-fog signature\.safetensors: holds .*'codes'.*asks for .*'values'"):
        info("rws-fog")
    (study / "rws-fog" / "signature.safetensors").unlink()
    with pytest.raises(NotFoundError, match="rws-fog"):
        info("rws-fog")
    with pytest.raises(NotFoundError, match=r"no signature\.safetensors"):
        info("base")
    with pytest.raises(NotFoundError, match="nowhere"):
        info("nowhere")


FAULTS = {
    "failing": (Fault("GET .*signature", status=503, times=9), NetworkError, r"\(signature\.safetensors\).*HTTP 503"),
    "refused": (Fault("GET .*signature", status=403), AccessError, "does not allow this"),
    "reset": (Fault("GET .*signature", reset=True, times=9), NetworkError, "broke"),
    "cut": (Fault("GET /[0-9a-f]{64}", cut=100, times=9), NetworkError, "broke"),
    "stalled": (Fault("GET .*signature", stall=True, times=9), NetworkError, "no answer from the Hub in time"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_while_looking(pushed, name, monkeypatch):
    fault, kind, words = FAULTS[name]
    monkeypatch.setattr(calls, "TIME_LIMIT", 0.4)
    pushed.faults = [Fault(**vars(fault))]
    with pytest.raises(kind, match=rf"user/rws-fog.*{words}"):
        info("user/rws-fog")
    pushed.faults = []
    assert info("user/rws-fog").corruptions == ("fog",)


def test_a_mirror_that_knows_no_ranges(pushed, study, monkeypatch):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    save_timm_repo(trio("resnet18").standard, "base")  # its header takes a second request
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(study)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    expected = (info("user/rws-fog").nbytes, info("rws-fog", base="base").misfits)
    hf_rws.push_base(trio("resnet18").standard, "user/base", token=WRITE)
    info("user/rws-fog", base="user/base")
    try:
        url = f"http://127.0.0.1:{server.server_port}/{{filename}}"
        for folder, filename in (("rws-fog", "signature.safetensors"), ("base", "model.safetensors")):
            (study / filename).symlink_to(study / folder / filename)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        found = info("user/rws-fog", base="user/base")
    finally:
        server.shutdown()
        server.server_close()
    misfits = tuple(text.replace(f"user/base@{head(pushed, 'user/base')}", "base") for text in found.misfits)
    assert (found.nbytes, misfits) == expected


# --- those on the Hub ---


@pytest.fixture
def crowd(hub):
    """Bases and signatures of two users, one private."""
    hf_rws.push_base(trio(NAME).standard, "user/base", token=WRITE)
    base = {"repo_id": "user/base", "revision": head(hub, "user/base")}
    for repo_id, label, kind, private in [
        ("user/rws-fog", "fog", "extracted", False),
        ("user/rws-snow", "snow", "distilled", False),
        ("user/rws-hidden", "fog", "extracted", True),
        ("other/rws-rain", "heavy rain", "extracted", False),
    ]:
        found = signature(NAME, label)
        config = found.config
        of = base if repo_id.startswith("user") else {}
        found = found.with_results(
            base_model=type(config.base_model)(**{**vars(config.base_model), **of}),
            method=type(config.method)(**{**vars(config.method), "kind": kind}),
        )
        found.push_to_hub(repo_id, private=private, token=WRITE if repo_id.startswith("user") else OTHER)
    hub.commit("other/llm", {"README.md": b"---\nlibrary_name: transformers\ntags: [rws]\n---\n"})
    hub.page = 2
    return hub


FILTERS = [
    ({}, ["other/rws-rain", "user/rws-snow", "user/rws-fog"]),
    ({"base": "user/base"}, ["user/rws-snow", "user/rws-fog"]),
    ({"base": "hf-hub:user/base@main"}, ["user/rws-snow", "user/rws-fog"]),
    ({"corruption": "fog"}, ["user/rws-fog"]),
    ({"corruption": "heavy rain"}, ["other/rws-rain"]),
    ({"corruption": ["fog", "snow"]}, []),
    ({"kind": "distilled"}, ["user/rws-snow"]),
    ({"base": "user/base", "corruption": ["snow"]}, ["user/rws-snow"]),
    ({"author": "other"}, ["other/rws-rain"]),
    ({"search": "SNOW"}, ["user/rws-snow"]),
    ({"limit": 1}, ["other/rws-rain"]),
    ({"token": READ, "corruption": "fog"}, ["user/rws-hidden", "user/rws-fog"]),
    ({"base": "user/nothing"}, []),
]


def test_filters(crowd):
    for filters, expected in FILTERS:
        assert [found.id for found in list_signatures(**filters)] == expected, filters


def test_what_a_listing_shows(crowd):
    (found,) = list_signatures(corruption="snow")
    assert (found.base_model, found.corruptions, found.kind) == ("user/base", ("snow",), "distilled")
    assert (found.severity, found.ra, found.ta) == (5, None, None)
    assert (found.revision, found.private) == (head(crowd, "user/rws-snow"), False)
    assert found.last_modified.startswith("20")
    assert json.loads(json.dumps(vars(found)))["id"] == "user/rws-snow"
    assert hf_rws.load_patched(trio(NAME).base(), [f"{found.id}@{found.revision}"]).rws.scales == {"rws-snow": 1.0}


def test_two_signatures_of_one_name_are_told_apart_by_what_a_listing_brings(pushed):
    corruption = replace(made().config.corruption, severity=2)
    weaker = made().with_results(corruption=corruption, metrics=METRICS | {"patched": {"ra": 0.5}})
    weaker.push_to_hub("other/rws-fog", token=OTHER)
    pushed.requests.clear()
    found = {one.id: one for one in list_signatures(search="rws-fog")}
    assert len(pushed.requests) == 1
    assert (found["user/rws-fog"].severity, found["user/rws-fog"].ra, found["user/rws-fog"].ta) == (5, 0.618, 0.534)
    assert (found["other/rws-fog"].severity, found["other/rws-fog"].ra, found["other/rws-fog"].ta) == (2, 0.5, None)


@pytest.mark.parametrize(
    "index", [None, 3, [3], [{"results": 3}], [{"results": [{"metrics": [{"name": [], "value": 1}]}]}]]
)
def test_a_listing_with_a_broken_model_index(pushed, index):
    card = {"tags": ["rws", "robust-weight-signatures", "severity:9", "severity:x"], "model-index": index}
    pushed.commit("user/rws-fog", {"README.md": f"---\n{json.dumps(card)}\n---\n".encode()})
    (found,) = list_signatures()
    assert (found.severity, found.ra, found.ta) == (None, None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base": "no id at all"}, "no id"),
        ({"sort": "beauty"}, "sort must be one of"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_bad_filters(options, words):
    with pytest.raises(OptionError, match=words):
        list_signatures(**options)


def test_faults_while_listing(crowd, monkeypatch):
    crowd.faults = [Fault(r"GET /api/models\?", skip=1, status=503)]
    assert len(list_signatures()) == 3  # begun anew after the first page
    crowd.faults = [Fault(r"GET /api/models\?", body=b"<html>", times=9)]
    with pytest.raises(NetworkError, match=r"the Hub's list of models.*broke"):
        list_signatures()
    crowd.faults = []
    with pytest.raises(AccessError, match=r"the Hub's list of models.*token"):
        list_signatures(token="hf_wrongwrongwrong")
    monkeypatch.setattr(calls, "TIME_LIMIT", 0.4)
    crowd.faults = [Fault(r"GET /api/models\?", stall=True)]
    with pytest.raises(NetworkError, match="no answer from the Hub in time"):
        list_signatures()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RWSError):
        list_signatures()
