import ast
import copy
import json
import re
import socket
import sys
from types import SimpleNamespace

import pytest
import timm
from huggingface_hub import ModelCard

import hf_rws
from hf_rws import cards, plots
from hf_rws.cards import text as card_text
from hf_rws.errors import FormatError, NotFoundError
from hf_rws.timm_repo import save_timm_repo

SIGNATURE = {
    "format_version": "1.0",
    "library_name": "hf-rws",
    "base_model": {
        "repo_id": "user/base",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "architecture": "vgg16_gap",
        "num_classes": 10,
        "mean": [0.49, 0.48, 0.45],
        "std": [0.25, 0.24, 0.26],
        "input_size": [3, 32, 32],
        "fingerprint": {"float32": "aa", "float16": "bb", "bfloat16": "cc"},
    },
    "corruption": {"name": "fog", "severity": 5, "dataset": "uoft-cs/cifar10"},
    "method": {
        "kind": "extracted",
        "num_layers": 2,
        "projection": "weights",
        "codec": "symmetric",
        "training": {"epochs": 4, "lr": 0.01, "milestones": [2, 3], "nesterov": True},
    },
    "tensors": [
        {"name": "features.0.weight", "shape": [64, 3, 3, 3], "kind": "weight", "layer": 0, "bits": 4},
        {"name": "features.2.weight", "shape": [64, 64, 3, 3], "kind": "weight", "layer": 1, "bits": "ternary"},
        {"name": "features.0.bias", "shape": [64], "kind": "vector", "layer": 0, "bits": 16},
    ],
    "sha256": "dd",
    "recommended_scale": 0.75,
    "metrics": {
        "dataset": "uoft-cs/cifar10",
        "split": "test",
        "n": 10000,
        "seed": 0,
        "severity": 5,
        "standard": {"ta": 0.692, "ra": 0.293},
        "patched": {"ta": 0.534, "ra": 0.618},
        "robust": {"ta": 0.601, "ra": 0.649},
        "scale_curve": [{"scale": 0.5, "ta": 0.66, "ra": 0.492}, {"scale": 1.0, "ta": 0.534, "ra": 0.618}],
        "base_nbytes": 58_000_000,
        "signature_nbytes": 812_345,
        "download_nbytes": 815_000,
    },
}
BASE = {
    "architecture": "test_resnet",
    "num_classes": 3,
    "pretrained_cfg": {
        "input_size": [3, 160, 160],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "license": "apache-2.0",
    },
}
TRAINING = {
    "dataset": "uoft-cs/cifar10",
    "corruption": [],
    "epochs": 4,
    "data_dir": "/home/somebody/images",
    "hub_token": "hf_abcdefghijkl",
    "resume": None,
}
METRICS = {"ta": 0.7, "ra": {"fog-5": 0.3, "snow-5": 0.4}, "n": 10000, "split": "test"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a card asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def changed(config, path, value):
    """A copy of a config with one value put in, or taken out if it is None."""
    config = copy.deepcopy(config)
    *parents, last = path.split(".")
    inner = config
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return config


def paths(config, prefix=""):
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{key}.")


def snippet(card):
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def results(card):
    """Of a card's model-index: (dataset, config, split, metric name) -> value."""
    return {
        (r.dataset_type, r.dataset_config, r.dataset_split, r.metric_name): r.metric_value
        for r in ModelCard(card).data.eval_results or ()
    }


# --- signatures ---


def test_metadata_of_a_signature():
    data = ModelCard(cards.signature_card(SIGNATURE, repo_id="user/rws-fog", license="mit")).data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "library_name": "hf-rws",
        "base_model": "user/base",
        "base_model_relation": "adapter",
        "pipeline_tag": "image-classification",
        "datasets": ["uoft-cs/cifar10"],
        "metrics": ["accuracy"],
        "license": "mit",
        "tags": ["robust-weight-signatures", "rws", "rws-extracted", "corruption:fog", "severity:5"],
    }
    assert [entry["name"] for entry in index] == ["rws-fog"]


def test_results_of_a_signature():
    dataset = "uoft-cs/cifar10"
    assert results(cards.signature_card(SIGNATURE, repo_id="user/rws-fog")) == {
        (dataset, None, "test", "TA, standard"): 0.692,
        (dataset, None, "test", "TA, patched"): 0.534,
        (dataset, "fog-5", "test", "RA, standard"): 0.293,
        (dataset, "fog-5", "test", "RA, patched"): 0.618,
    }


@pytest.mark.parametrize(
    "line",
    [
        "# rws-fog",
        "- **Base:** [user/base](https://huggingface.co/user/base) at `0123456789abcdef0123456789abcdef01234567`",
        "- **Corruption:** fog, severity 5",
        "- **Made by:** extraction from a robust and a standard fine-tuning; first 2 layers; projection: weights",
        "- **Size:** 812.3 kB, 71.4 times smaller than the weights of the base (58.0 MB); whole download 815.0 kB",
        "- **Recommended scale:** 0.75",
        "| 0 | 2 | 1,792 | 4 |",
        "| 1 | 1 | 36,864 | ternary |",
        "| features.0.bias | 64 | vector | 16 |",
        "| milestones | 2, 3 |",
        "Top-1 accuracy in %, 10,000 images of uoft-cs/cifar10 (test), seed 0.",
        "| | clean (TA) | fog, severity 5 (RA) |",
        "| standard | 69.2 | 29.3 |",
        "| patched | 53.4 | 61.8 |",
        "| robust model | 60.1 | 64.9 |",
        "| 0.5 | 66.0 | 49.2 |",
        "![before and after](before-and-after.png)",
        "![a b](a%20b.png)",
        "  note      = {arXiv:2302.12480}",
    ],
)
def test_lines_of_a_signature_card(line):
    card = cards.signature_card(SIGNATURE, repo_id="user/rws-fog", pictures=["before-and-after.png", "a b.png"])
    assert line in card.splitlines()


def test_results_stand_between_markers():
    card = cards.signature_card(SIGNATURE, repo_id="user/rws-fog", pictures=["scale.png"])
    before, inside, after = re.split(f"{cards.RESULTS_BEGIN}|{cards.RESULTS_END}", card)
    for text in ("## Results", "| patched |", "| 0.5 |", "scale.png"):
        assert text in inside
        assert text not in before + after


def test_several_corruptions_and_distillation():
    config = changed(SIGNATURE, "corruption", {"names": ["fog", "heavy rain"], "severity": 3})
    config = changed(changed(config, "method.kind", "distilled"), "metrics.severity", 3)
    card = cards.signature_card(config)
    assert ModelCard(card).data.tags[2:] == ["rws-distilled", "corruption:fog", "corruption:heavy-rain", "severity:3"]
    assert {config for _, config, _, _ in results(card)} == {None, "fog+heavy rain-3"}
    assert "distillation, without labels" in card


DISTILLED = changed(SIGNATURE, "method.kind", "distilled")
DISTILLED["method"]["training"] = {
    "images": 4500,
    "held_out": 500,
    "steps": 2100,
    "lr": 0.01,
    "optimizer": "sgd",
    "agreement": {"clean": {"before": 1.0, "after": 0.982}, "corrupted": {"before": 0.371, "after": 0.805}},
}


def test_how_a_distilled_signature_was_made():
    card = cards.signature_card(DISTILLED, repo_id="user/rws-fog")
    check_no_holes(card)
    section = card.partition("### How it was distilled")[2].partition(cards.RESULTS_BEGIN)[0]
    assert [line for line in section.splitlines() if line] == [
        "From 4,500 unlabelled images of uoft-cs/cifar10, in 2,100 steps.",
        "How often the patched model gives, in %, the answer that the base gives on the clean image; 500 images that "
        "it was not trained on.",
        "| images | base | patched |",
        "|---|---:|---:|",
        "| clean | 100.0 | 98.2 |",
        "| under fog | 37.1 | 80.5 |",
        "| setting | value |",
        "|---|---|",
        "| lr | 0.01 |",
        "| optimizer | sgd |",
    ]
    many = changed(DISTILLED, "corruption", {"names": ["fog", "snow", "frost", "rain"]})
    assert "| corrupted | 37.1 | 80.5 |" in cards.signature_card(many)


@pytest.mark.parametrize("path", [f"method.training.{p}" for p in paths(DISTILLED["method"]["training"])])
def test_a_distilled_card_leaves_out_what_is_not_known(path):
    check_no_holes(cards.signature_card(changed(DISTILLED, path, None), repo_id="user/rws-fog"))
    for broken in ("?", [1], {"a": {}}, -1, True, 10**400):
        check_no_holes(cards.signature_card(changed(DISTILLED, path, broken), repo_id="user/rws-fog"))


@pytest.mark.parametrize("path", list(paths(SIGNATURE)))
def test_a_signature_card_leaves_out_what_is_not_known(path):
    card = cards.signature_card(changed(SIGNATURE, path, None), repo_id="user/rws-fog")
    check_no_holes(card)
    assert len(card) <= len(cards.signature_card(SIGNATURE, repo_id="user/rws-fog")) + 200


def test_a_signature_of_which_little_is_known():
    card = cards.signature_card({"base_model": {"architecture": "resnet18"}, "corruption": {"name": "rain"}})
    check_no_holes(card)
    data = ModelCard(card).data.to_dict()
    assert set(data) == {"library_name", "pipeline_tag", "metrics", "tags"}
    assert "has not been measured" in card
    assert cards.RESULTS_BEGIN not in card
    assert "# rws-rain" in card


def check_no_holes(card):
    """No value that is not there has left a trace in the text, and the metadata and the snippet can be read."""
    text = re.sub(r"```.*?```|`[^`\n]+`", "code", ModelCard(card).text, flags=re.DOTALL)
    ast.parse(snippet(card))
    for line in text.splitlines():
        assert not re.search(r"\bNone\b|Undefined|\{\{|\bnan\b|\*\* *$|: *$|: ?[,;]|\( *\)|``| ,|\s$", line), line


BROKEN_METRICS = [
    *[{key: value} for key in SIGNATURE["metrics"] for value in ("?", [1], {"a": {}}, -1, True, float("nan"), 10**400)],
    {"standard": {"ta": "high", "ra": [0.3]}, "patched": 0.5},
    {"standard": {"ta": 69.2, "ra": 29.3}, "patched": {"ta": 53.4, "ra": 61.8}, "robust": {}},
    {"scale_curve": [{"scale": 0.5, "ta": 0.6}]},
    {"scale_curve": [{"scale": scale, "ta": 0.6, "ra": 0.3} for scale in (-1e308, 10**400, 1e308)]},
    {"scale_curve": [{"scale": scale, "ta": 0.6, "ra": 0.3} for scale in (-1e308, 1e308)]},
    {"dataset": "a/b\n\n# mine", "split": "| x |"},
    {"scale_curve": [{"scale": "1", "ta": 0.6, "ra": 0.3}, 7]},
    {"n": 0, "base_nbytes": 0, "signature_nbytes": None},
]


@pytest.mark.parametrize("broken", BROKEN_METRICS, ids=str)
def test_broken_metrics_of_somebody_else_do_not_upset_a_card(broken):
    config = changed(SIGNATURE, "metrics", {**SIGNATURE["metrics"], **broken})
    card = cards.signature_files(json.dumps(config), repo_id="user/rws-fog")["README.md"].decode()
    check_no_holes(card)
    assert all(0 <= value <= 1 for value in results(card).values())
    check_no_holes(cards.base_card(BASE, metrics={**METRICS, **broken}, repo_id="user/base"))


@pytest.mark.parametrize("metrics", ["?", [], 7, {}])
def test_metrics_that_are_no_object(metrics):
    files = cards.signature_files(json.dumps(changed(SIGNATURE, "metrics", metrics)), repo_id="user/rws-fog")
    assert list(files) == ["README.md"]
    assert "has not been measured" in files["README.md"].decode()


def test_the_picture_of_a_signature(monkeypatch):
    text = json.dumps(SIGNATURE)
    files = cards.signature_files(text, repo_id="user/rws-fog", nbytes=812_345)
    assert files == cards.signature_files(text, repo_id="user/rws-fog", nbytes=812_345)  # a second push changes nothing
    card, picture = files["README.md"].decode(), files[cards.PICTURE_NAME]
    assert picture.startswith(b"\x89PNG")
    assert 5_000 < len(picture) < 40_000
    assert f"![before and after]({cards.PICTURE_NAME})" in card.splitlines()
    assert f"whole download {(812_345 + len(text)) / 1e3:.1f} kB" in card
    no_curve = json.dumps(changed(SIGNATURE, "metrics.scale_curve", None))
    assert cards.signature_files(no_curve)[cards.PICTURE_NAME] != picture
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(plots, "_figure_class", plots._figure_class.__wrapped__)  # which is kept from before
    assert list(cards.signature_files(text)) == ["README.md"]
    assert "before-and-after" not in cards.signature_files(text)["README.md"].decode()


@pytest.mark.parametrize(
    ("options", "path", "value", "call"),
    [
        ({"repo_id": "user/rws-fog"}, "recommended_scale", 1.0, ("user/base", ["user/rws-fog"], {})),
        ({"repo_id": "user/rws-fog"}, "recommended_scale", 0.75, ("user/base", ["user/rws-fog"], {"scales": [0.75]})),
        ({"repo_id": "rws-fog"}, "recommended_scale", 1.0, ("user/base", ["rws-fog"], {})),
    ],
)
def test_the_snippet_of_a_signature(options, path, value, call, monkeypatch, capsys):
    calls = []

    def load_patched(base, signatures, **kwargs):
        calls.append((base, signatures, kwargs))
        return SimpleNamespace(rws="the patcher")

    monkeypatch.setitem(sys.modules, "hf_rws", SimpleNamespace(load_patched=load_patched))
    exec(snippet(cards.signature_card(changed(SIGNATURE, path, value), **options)), {})
    assert calls == [call]
    assert capsys.readouterr().out == "the patcher\n"


def test_a_card_on_the_hub_without_a_base_does_not_make_one_up(monkeypatch, capsys):
    card = cards.signature_card(changed(SIGNATURE, "base_model.repo_id", None), repo_id="user/rws-fog")
    assert '"base"' not in card
    assert 'hf_rws.load_patched(base, ["user/rws-fog"])` puts it on' in card
    monkeypatch.setattr(hf_rws.Signature, "from_pretrained", lambda id: f"loaded {id}")
    exec(snippet(card), {})
    assert capsys.readouterr().out == "loaded user/rws-fog\n"
    check_no_holes(card)


@pytest.mark.parametrize(
    ("card", "package"),
    [
        (cards.signature_card(SIGNATURE, repo_id="user/rws-fog"), "hf-rws"),
        (cards.signature_card(SIGNATURE), "hf-rws"),
        (cards.base_card(BASE, repo_id="user/base"), "timm"),
        (cards.base_card({"architecture": "vgg16_gap"}, repo_id="base"), "hf-rws"),
    ],
)
def test_a_card_says_what_to_install(card, package):
    assert f"```bash\npip install {package}\n```" in card


@pytest.mark.parametrize("name", ["photos", "cifar10", "uoft-cs/cifar10"])
def test_only_what_is_a_datasets_id_is_called_one(name):
    """A folder's name looks like the ids that once had no owner."""
    config = changed(changed(SIGNATURE, "corruption.dataset", name), "metrics.dataset", name)
    of_signature = ModelCard(cards.signature_card(config)).data
    of_base = ModelCard(cards.base_card(BASE, metrics={"ta": 0.5, "dataset": name}, training={"dataset": name})).data
    for data in (of_signature, of_base):
        assert data.datasets == ([name] if "/" in name else None)
        assert {result.dataset_type for result in data.eval_results} == {name if "/" in name else "custom"}


@pytest.mark.parametrize("existing", ["mit", "other\nlicense_name: ours\nlicense_link: here", None])
def test_a_license_that_is_asked_for_now_replaces_that_of_the_readme(existing):
    old = "---\n" + (f"license: {existing}\n" if existing else "") + "tags: [mine]\n---\nMy text.\n"
    fresh = cards.signature_card(SIGNATURE, license="apache-2.0")
    kept, replaced = (
        ModelCard(cards.merge_card(old, fresh, relicensed=relicensed)).data.to_dict() for relicensed in (False, True)
    )
    assert kept["license"] == ((existing or "apache-2.0").partition("\n")[0])
    assert (replaced["license"], replaced.keys() & {"license_name", "license_link"}) == ("apache-2.0", set())


def test_the_snippet_without_a_base_on_the_hub(monkeypatch):
    calls = []
    stub = SimpleNamespace(
        load_patched=lambda *given, **options: calls.append((given, options)) or SimpleNamespace(rws="on")
    )
    monkeypatch.setitem(sys.modules, "hf_rws", stub)
    exec(snippet(cards.signature_card(changed(SIGNATURE, "base_model.repo_id", None), repo_id="rws-fog")), {})
    assert calls == [(("base", ["rws-fog"]), {"scales": [0.75]})]


@pytest.mark.parametrize(
    "text",
    [
        "fog\n---\nlicense: mit\n---",
        'fog"])\nimport os\nprint("',
        "fog | <script>alert(1)</script> | `",
        "[fog](https://example.org)",
        "{{ 7 * 7 }} {% include 'x' %}",
        "\\",
    ],
)
@pytest.mark.parametrize(
    "path", ["corruption.name", "base_model.repo_id", "metrics.dataset", "base_model.architecture"]
)
def test_text_from_a_config_stays_text(path, text):
    config = changed(SIGNATURE, path, text)
    card = cards.signature_card(config, repo_id=text)
    assert "license" not in ModelCard(card).data.to_dict()
    assert "<script>" not in card
    assert "](https://example.org)" not in card
    assert card.count("\n|") == cards.signature_card(SIGNATURE).count("\n|")
    tree = ast.parse(snippet(card))
    assert [type(node) for node in tree.body] == [ast.Import, ast.Assign, ast.Expr]
    assert [name.name for name in tree.body[0].names] == ["hf_rws"]


# --- bases ---


def test_metadata_of_a_base():
    card = cards.base_card(BASE, training=TRAINING, metrics=METRICS, repo_id="user/base")
    data = ModelCard(card).data.to_dict()
    del data["model-index"]
    assert data == {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "datasets": ["uoft-cs/cifar10"],
        "metrics": ["accuracy"],
        "tags": ["timm", "image-classification", "robust-weight-signatures"],
    }
    assert results(card) == {
        ("uoft-cs/cifar10", None, "test", "TA"): 0.7,
        ("uoft-cs/cifar10", "fog-5", "test", "RA"): 0.3,
        ("uoft-cs/cifar10", "snow-5", "test", "RA"): 0.4,
    }
    for line in ("| clean (TA) | 70.0 |", "| fog-5 (RA) | 30.0 |", "| epochs | 4 |", "- **Input:** 3 x 160 x 160"):
        assert line in card.splitlines()
    check_no_holes(card)


def test_paths_and_secrets_stay_out():
    training = {**TRAINING, "dataset": "/home/somebody/images", "cache": "C:\\Users\\somebody", "api_key": "sesame"}
    config = changed(SIGNATURE, "method.training", training)
    config = changed(changed(config, "metrics.dataset", "~/images"), "corruption.dataset", "/home/somebody/images")
    for card in (
        cards.base_card(BASE, training=training, metrics=METRICS, repo_id="base"),
        cards.signature_card(config, repo_id="rws-fog"),
    ):
        for text in ("somebody", "/home", "~", "hf_abc", "sesame", "resume"):
            assert text not in card
        assert "datasets" not in ModelCard(card).data.to_dict()
        assert ModelCard(card).data.eval_results[0].dataset_type == "custom"


@pytest.mark.parametrize("arguments", [{}, {"training": TRAINING}, {"metrics": {"ta": 0.5}}, {"nbytes": 1234}])
@pytest.mark.parametrize("config", [BASE, {}, {"architecture": "test_resnet"}])
def test_a_base_card_leaves_out_what_is_not_known(arguments, config):
    card = cards.base_card(config, repo_id="user/base", **arguments)
    check_no_holes(card)
    assert ("## Results" in card) == ("metrics" in arguments)
    assert ("How it was trained" in card) == ("training" in arguments)


def test_the_snippet_of_a_base_runs(tmp_path, monkeypatch):
    model = timm.create_model("vgg16_gap", num_classes=3, width=0.05)
    save_timm_repo(model, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    code = snippet(cards.base_card({"architecture": "vgg16_gap"}, repo_id="base"))
    assert code.startswith("import hf_rws.models  # registers vgg16_gap with timm\n")
    names = {}
    exec(code, names)
    assert names["model"].num_classes == 3
    assert not names["model"].training
    assert names["transform"] is not None
    assert "hf-hub:user/base" in snippet(cards.base_card(BASE, repo_id="user/base"))


# --- bases with signatures baked in ---

SHA = SIGNATURE["base_model"]["revision"]
LOCKFILE = {
    "format_version": "1.0",
    "library_name": "hf-rws",
    "base": {"kind": "hub", "id": "user/base", "revision": SHA, "sha256": "ab" * 32},
    "signatures": [
        {"name": "rws-fog", "scale": 0.7, "kind": "hub", "id": "user/rws-fog", "revision": SHA, "sha256": "cd" * 32}
    ],
}


def test_a_merged_card():
    card = cards.merged_card(BASE, LOCKFILE, repo_id="user/robust", nbytes=1_000_000)
    check_no_holes(card)
    assert ModelCard(card).data.to_dict() == {
        "library_name": "timm",
        "base_model": ["user/base", "user/rws-fog"],
        "base_model_relation": "merge",
        "pipeline_tag": "image-classification",
        "tags": ["timm", "image-classification", "robust-weight-signatures", "merge"],
    }
    assert json.loads(re.search(r"```json\n(.*?)```", card, re.DOTALL)[1]) == LOCKFILE
    row = f"| rws-fog | [user/rws-fog](https://huggingface.co/user/rws-fog) | {SHA} | 0.7 | `cdcdcdcdcdcd` |"
    assert row in card.splitlines()
    assert 'timm.create_model("hf-hub:user/robust"' in snippet(card)


def test_a_merged_card_of_folders_names_them_without_their_place():
    lockfile = copy.deepcopy(LOCKFILE)
    lockfile["base"] |= {"kind": "local", "id": "/home/somebody/base", "revision": None}
    lockfile["signatures"][0] |= {"kind": "local", "id": "study/rws-fog"}
    card = cards.merged_card(BASE, lockfile, repo_id="robust")
    for text in ("somebody", "study", "```json"):
        assert text not in card
    assert "| base | base (local) |" in card
    assert "base_model" not in ModelCard(card).data.to_dict()
    only_digest = {**LOCKFILE, "base": {"sha256": "ab" * 32}}
    assert "| base |  |  |  | `abababababab` |" in cards.merged_card(BASE, only_digest, repo_id="robust").splitlines()


# --- merging ---


def test_a_card_that_nobody_has_edited_is_replaced():
    old = cards.signature_card(SIGNATURE, repo_id="user/rws-fog")
    fresh = cards.signature_card(changed(SIGNATURE, "corruption.name", "snow"), repo_id="user/rws-fog", nbytes=7)
    for card in (old, old.replace("\n", "\r\n"), old.replace("tags:\n", "tags:\n- mine\n")):
        assert cards.is_unedited(card)
        merged = cards.merge_card(card, fresh)
        assert cards.is_unedited(merged)
        assert "fog" not in ModelCard(merged).text.replace("rws-fog", "")
        assert ("mine" in ModelCard(merged).data.tags) == ("mine" in card)
    for edited in (old.replace("## Use", "## Mine"), old + "\nMine.\n", "# Mine\n"):
        assert not cards.is_unedited(edited)
        assert "ine" in cards.merge_card(edited, fresh)


def test_a_card_of_a_folder_becomes_one_of_a_repo():
    local = cards.signature_card(changed(SIGNATURE, "base_model.repo_id", None), repo_id="rws-fog")
    addresses = {"rws-fog": "user/cifar-fog", "base": "user/cifar"}
    card = cards.readdress(local, "rws-fog", addresses)
    assert 'load_patched("user/cifar", ["user/cifar-fog"]' in snippet(card)
    assert "# cifar-fog" in card.splitlines()
    assert ModelCard(card).data.model_name == "cifar-fog"
    assert cards.is_unedited(card)
    base = cards.base_card(BASE, metrics=METRICS, repo_id="base") + "\nMy own words.\n"
    card = cards.readdress(base, "base", addresses)
    assert 'create_model("hf-hub:user/cifar", pretrained=True)' in snippet(card)
    assert "My own words." in card
    assert not cards.is_unedited(card)


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ({"data_dir": "/home/somebody/images", "lr": 0.1}, {"data_dir": "images", "lr": 0.1}),
        ({"hub_token": "hf_abc", "nested": {"api_key": 1, "x": ["~/a", "C:\\b"]}}, {"nested": {"x": ["a", "b"]}}),
        ({"dataset": "uoft-cs/cifar10", "n": None}, {"dataset": "uoft-cs/cifar10", "n": None}),
    ],
)
def test_what_may_be_published(given, published):
    assert cards.publishable(given) == published


def test_merging_is_stable():
    card = cards.signature_card(SIGNATURE, repo_id="user/rws-fog")
    once = cards.merge_card(card, card)
    assert cards.merge_card(once, card) == once
    assert ModelCard(once).data.to_dict() == ModelCard(card).data.to_dict()
    assert ModelCard(once).text == ModelCard(card).text


def test_merging_keeps_the_authors_text_and_renews_the_results():
    old = cards.signature_card(SIGNATURE, repo_id="user/rws-fog")
    mine = old.replace("## Limits", "## My own section\n\nHello.\n\n## Limits").replace("## Use", "## Mine")
    mine = mine.replace("tags:\n", "thumbnail: x.png\nlicense: mit\ntags:\n- mine\n", 1)
    fresh = changed(changed(SIGNATURE, "metrics.patched.ra", 0.7), "corruption.name", "snow")
    merged = cards.merge_card(mine, cards.signature_card(fresh, repo_id="user/rws-fog", license="apache-2.0"))
    data = ModelCard(merged).data.to_dict()
    assert (data["thumbnail"], data["license"]) == ("x.png", "mit")
    assert data["tags"][1:] == ["robust-weight-signatures", "rws", "rws-extracted", "corruption:snow", "severity:5"]
    assert data["tags"][0] == "mine"
    assert results(merged)["uoft-cs/cifar10", "snow-5", "test", "RA, patched"] == 0.7
    assert "Hello." in merged
    assert "## Mine" in merged
    assert "| patched | 53.4 | 70.0 |" in merged
    assert "61.8 |" not in merged.replace("| 1.0 | 53.4 | 61.8 |", "")
    assert merged.count(cards.RESULTS_BEGIN) == 1


@pytest.mark.parametrize(
    ("existing", "has", "has_not"),
    [
        ("", "## Use", "Hello"),
        ("---\nlicense: mit\n---\n", "## Use", "Hello"),
        ("# Mine\n\nHello\n", "Hello", "## Use"),
        ("---\nlicense: mit\n---\n# Mine\n\nHello", "Hello", "## Use"),
        ("---\r\nlicense: mit\r\n---\r\n\r\nHello\r\n", "Hello\r\n", "## Use"),
    ],
)
def test_merging_into_a_readme_that_is_not_ours(existing, has, has_not):
    merged = cards.merge_card(existing, cards.signature_card(SIGNATURE, repo_id="user/rws-fog"))
    assert has in merged
    assert has_not not in merged
    assert "| patched | 53.4 | 61.8 |" in merged
    data = ModelCard(merged).data.to_dict()
    assert data["base_model"] == "user/base"
    assert ("license" in data) == ("license" in existing)
    if "\r\n" in existing:
        assert "\n" not in merged.replace("\r\n", "")


def test_old_results_go_when_there_are_no_new_ones():
    old = cards.signature_card(SIGNATURE, repo_id="user/rws-fog")
    merged = cards.merge_card(old, cards.signature_card(changed(SIGNATURE, "metrics", None), repo_id="user/rws-fog"))
    assert "model-index" not in ModelCard(merged).data.to_dict()
    assert "61.8" not in merged
    again = cards.merge_card(merged, old)
    assert "| patched | 53.4 | 61.8 |" in again


@pytest.mark.parametrize("broken", ["---\na: [\n---\n", "---\n- a\n---\nHello"])
def test_metadata_that_cannot_be_read(broken):
    with pytest.raises(FormatError, match=r"README.md: the metadata"):
        cards.merge_card(broken, cards.signature_card(SIGNATURE))


# --- templates ---


def test_where_the_templates_are(tmp_path, monkeypatch):
    checkout = card_text._templates()
    assert checkout.name == "model_cards"
    package = tmp_path / "hf_rws"
    monkeypatch.setattr(card_text, "__file__", str(package / "cards" / "text.py"))
    with pytest.raises(NotFoundError, match="install hf-rws again"):
        cards.signature_card(SIGNATURE)
    (package / "model_cards").mkdir(parents=True)
    for template in checkout.glob("*.jinja"):
        (package / "model_cards" / template.name).write_text(template.read_text())
    assert card_text._templates() == package / "model_cards"
    assert "# rws-fog" in cards.signature_card(SIGNATURE)


# --- configs from elsewhere ---

STRANGE = ("?", "", [], [1], [[1]], [None, {}], {}, {"a": {}}, {"\x1b": [float("inf")]}, -1, True, 1.5, float("nan"))
STRANGE += (10**400, 10**5000, "a" * 100_000, ["a" * 1000] * 100, 2**63, -(2**70), "\ud800")


@pytest.mark.parametrize("value", STRANGE, ids=range(len(STRANGE)))
def test_a_config_from_elsewhere_makes_a_card(value):
    everything = DISTILLED
    for path in paths(DISTILLED):
        card = cards.signature_card(changed(DISTILLED, path, value), repo_id="user/rws-fog")
        assert len(card.encode()) < 50_000
        ast.parse(snippet(card))
        if "." in path and path != "method.training":
            everything = changed(everything, path, value) if path.count(".") == 1 else everything
    check_no_holes(cards.signature_card(everything, repo_id="user/rws-fog"))
    for key in ("name", "shape", "kind", "layer", "bits"):
        tensors = [SIGNATURE["tensors"][0] | {key: value}, SIGNATURE["tensors"][1], value]
        card = cards.signature_card(changed(SIGNATURE, "tensors", tensors))
    check_no_holes(card)
    check_no_holes(cards.signature_card(changed(SIGNATURE, "corruption", {"names": [value, "fog"]})))


@pytest.mark.parametrize("value", STRANGE, ids=range(len(STRANGE)))
def test_a_model_from_elsewhere_makes_a_card(value):
    for path in paths(BASE):
        cards.merged_card(changed(BASE, path, value), LOCKFILE, repo_id="user/base")
        card = cards.base_card(changed(BASE, path, value), training={**TRAINING, "x": value}, repo_id="user/base")
        ast.parse(snippet(card))
    check_no_holes(card)
    check_no_holes(cards.base_card(BASE, training=value, metrics=value, repo_id="user/base"))
    check_no_holes(cards.base_card(BASE, metrics={**METRICS, "ra": {"fog-5": value, "x": 0.5}}, repo_id="user/base"))


def test_a_card_of_very_much_can_be_read_again():
    tensors = [
        {"name": f"{n}{'x' * 500}", "shape": [1], "kind": "vector", "layer": n % 7, "bits": 16} for n in range(2_000)
    ]
    config = changed(SIGNATURE, "tensors", tensors)
    config["method"]["training"] = {f"key{n}": "x" for n in range(5_000)}
    config["corruption"] = {"names": [f"name{n}" for n in range(10_000)]}
    config["metrics"]["scale_curve"] = [{"scale": n, "ta": 0.5, "ra": 0.5} for n in range(5_000)]
    card = cards.signature_card(config, repo_id="user/rws-fog")
    assert len(card) < 4_000_000
    assert cards.is_unedited(cards.merge_card(card, card))
