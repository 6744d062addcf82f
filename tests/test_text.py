"""Names from elsewhere reach a terminal in many ways; none of them can do more there than be read."""

import ast
import inspect
import json
import warnings
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard

import hf_rws
from hf_rws import cards, cli, errors, hub
from hf_rws._text import one_line
from hf_rws.cli.output import Output
from hf_rws.errors import MismatchError, RWSError, RWSWarning
from hf_rws.hub.catalogue import _listed
from hf_rws.patching import patch
from hf_rws.signature.config import parse_config
from hf_rws.study import run_study
from tests import helpers
from tests.models import signature, trio
from tests.test_cards import BASE, LOCKFILE
from tests.test_cli import call  # noqa: F401
from tests.test_layout import MODULES

NAME = "vgg16_gap"
CODES = [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F)]
CODES += [*range(0x2060, 0x2070), 0xFEFF, 0xFFF9, 0xE0041]
HOSTILE = "".join(map(chr, CODES)) + "\x1b[2J\x1b]0;t\x07\nfits       yes\r\u202eevil"


def bad_characters(text):
    """What a terminal obeys, or does not show, but for line feeds and the tabs between columns."""
    return {character for character in text if not character.isprintable()} - {"\n", "\t"}


# --- the function ---


@pytest.mark.parametrize("text", ["", "rws-fog", "é日本\u0301", "🙂 ✔️ ½", "a  b", 7, None])
def test_ordinary_text_stays(text):
    assert one_line(text) == str(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\tc\u2028\u00a0d", "a b c d"),
        ("a  b", "a  b"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202eabc\u2066\u200b\ufeff", r"\u202eabc\u2066\u200b\ufeff"),
        ("\ud800\U000e0041\x7f\x00", r"\ud800\U000e0041\x7f\x00"),
    ],
)
def test_what_does_not_print_is_shown_by_its_code(text, shown):
    assert one_line(text) == shown
    assert one_line(shown) == shown


@pytest.mark.parametrize("code", CODES)
def test_no_character_gets_through(code):
    assert one_line(f"a{chr(code)}b").isprintable()


@pytest.mark.parametrize("text", ["a" * 100_000 + "z", "\x00" * 100_000 + "z", "a" * 39 + "\x00z", "a" * 39 + "z"])
def test_a_long_text_is_shortened_in_its_middle(text):
    short = one_line(text, limit=40)
    assert len(short) <= 40
    assert short.endswith("z")
    assert (" ... " in short) == (len(one_line(text)) > 40)


# --- errors and warnings ---


KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RWSError | RWSWarning)]


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_printable_and_keep_what_was_raised(kind):
    error = kind(HOSTILE)
    assert not bad_characters(f"{error}{error!r}")
    assert "\n" not in f"{error}{error!r}"
    assert error.args == (HOSTILE,)
    assert len(str(kind("x" * 10**6))) < 10_000
    assert str(kind("no fog: é")) == "no fog: é"


def test_every_warning_is_of_our_category_and_names_the_callers_line():
    for module, path in MODULES.items():
        if module != "hf_rws.errors":
            assert not [call for call in ("warnings.warn(", "RWSWarning(") if call in path.read_text()], module
    with pytest.warns(RWSWarning, match="is a transfer") as caught:
        patch(deepcopy(trio(NAME).robust), [signature(NAME)])
    assert caught[0].filename == __file__


def test_a_warning_out_of_a_decorated_function_names_the_callers_line(monkeypatch, tmp_path):
    """`run_study` is called by a context manager of the standard library, which decorates it."""
    monkeypatch.setattr("hf_rws.study.run.check_trackers", lambda names: errors.warn("something"))
    monkeypatch.setattr("hf_rws.study.run._keep_start", None)
    with pytest.warns(RWSWarning, match="something") as caught, pytest.raises(TypeError):
        run_study(trio(NAME).start, helpers.splits(), tmp_path / "study", helpers.arguments(), corruptions=["fog"])
    assert caught[0].filename == __file__


def test_a_warning_is_printable(tmp_path, monkeypatch):
    content = json.loads(hostile_config(tmp_path))
    content["method"][HOSTILE] = 1
    with pytest.warns(RWSWarning) as caught:
        parse_config(json.dumps(content), HOSTILE)
    (warning,) = caught
    line = warnings.formatwarning(warning.message, warning.category, "x.py", 1, "")
    assert "ignoring unknown keys method." in line
    assert not bad_characters(line)
    assert line.count("\n") == 1 + line.endswith("\n\n")


# --- a signature whose every text is hostile ---


def hostile_signature():
    made = signature(NAME)
    config = made.config
    tensors = tuple(replace(spec, name=f"{spec.name}{HOSTILE}") for spec in config.tensors)
    metrics = {
        "dataset": HOSTILE, "split": HOSTILE, "n": 10, "standard": {"ta": 0.5, "ra": 0.2},
        "patched": {"ta": 0.4, "ra": 0.4}, HOSTILE: HOSTILE,
    }  # fmt: skip
    base = replace(
        config.base_model, architecture=HOSTILE, repo_id=HOSTILE, revision=HOSTILE, fingerprint={HOSTILE: HOSTILE}
    )
    return replace(
        made,
        name=HOSTILE,
        config=replace(
            config,
            base_model=base,
            corruption=replace(config.corruption, names=(HOSTILE, f"{HOSTILE}2"), dataset=HOSTILE),
            method=replace(config.method, training={HOSTILE: HOSTILE, "list": [HOSTILE]}),
            tensors=tensors,
            metrics=metrics,
            statistics={HOSTILE: HOSTILE},
        ),
    )


def hostile_config(folder):
    hostile_signature().save_pretrained(folder)
    return (folder / "config.json").read_text()


@pytest.mark.parametrize("style", ["human", "agent", "json", "quiet"])
def test_info_prints_what_it_says_and_no_more(tmp_path, monkeypatch, call, style):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    hostile_config(tmp_path / "rws-fog")
    code, out, err = call(cli.cli, "info", "rws-fog", "--format", style)
    assert (code, err) == (0, "")
    assert not bad_characters(out)
    lines = out.splitlines()
    if style == "human":
        assert [line[:11].strip() for line in lines] == [
            "signature", "corruption", "base", "made by", "bits", "size", "scale", "accuracy"
        ]  # fmt: skip
    elif style == "quiet":
        assert lines == ["rws-fog"]
    else:
        assert json.loads(out)["dataset"] == HOSTILE
        assert len(lines) == 1


def test_info_of_a_base_that_does_not_fit(tmp_path, monkeypatch, call):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    hostile_config(tmp_path / "rws-fog")
    hf_rws.timm_repo.save_timm_repo(trio(NAME).standard, tmp_path / "base")
    _, out, _ = call(cli.cli, "info", "rws-fog", "--base", "base")
    assert not bad_characters(out)
    assert [line.split()[:2] for line in out.splitlines()][-1] == ["fits", "the"]


@pytest.mark.parametrize("made", ["signature", "info", "listed", "patcher", "config"])
def test_reprs(tmp_path, monkeypatch, made):
    monkeypatch.chdir(tmp_path)
    hostile_config(tmp_path / "rws-fog")
    things = {
        "signature": hostile_signature,
        "info": lambda: hub.info("rws-fog"),
        "listed": listed,
        "patcher": patcher,
        "config": lambda: hostile_signature().config,
    }
    assert not bad_characters(repr(things[made]()))


def listed():
    return _listed(
        {
            "id": HOSTILE, "sha": HOSTILE, "private": False, "downloads": 1, "likes": 2, "lastModified": HOSTILE,
            "tags": [f"base_model:adapter:{HOSTILE}", f"corruption:{HOSTILE}", f"rws-{HOSTILE}"],
        }
    )  # fmt: skip


def patcher():
    made = replace(signature(NAME), name=HOSTILE)
    patched = patch(trio(NAME).base(), [made])
    assert len(repr(patched).splitlines()) == 2
    return patched


@pytest.mark.parametrize("style", ["human", "agent", "json", "quiet"])
def test_a_listing_has_a_line_for_each_signature(style, capsys):
    rows = [vars(listed())] * 3
    Output(style).table(rows, id_key="id")
    out = capsys.readouterr().out
    assert not bad_characters(out)
    assert len(out.splitlines()) == {"human": 4, "agent": 4, "json": 1, "quiet": 3}[style]
    Output(style).record(rows[0], id_key="id")
    assert not bad_characters(capsys.readouterr().out)


def test_a_signature_that_does_not_fit():
    with pytest.raises(MismatchError) as caught:
        patch(trio(NAME).base(), [hostile_signature()])
    assert "does not fit" in str(caught.value)
    assert not bad_characters(str(caught.value))


@pytest.mark.parametrize("key", ["format_version", "sha256", "tensors", "corruption"])
def test_a_config_that_is_broken(tmp_path, key, call):  # noqa: F811
    content = json.loads(hostile_config(tmp_path))
    content[key] = [HOSTILE] if key == "tensors" else HOSTILE
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(RWSError):
        hf_rws.Signature.from_pretrained(tmp_path)
    code, out, err = call(cli.cli, "info", tmp_path)
    assert not bad_characters(out + err)
    assert (code, err.count("\n")) == (1, 1)


def test_errors_of_the_command_line(call):  # noqa: F811
    given = HOSTILE[1:]  # no NUL: a shell cannot give it
    for arguments in (["info", f"no/{given}"], ["info", "a", given], ["info", "--format", given, "a"]):
        code, out, err = call(cli.cli, *arguments)
        assert code in (1, 2)
        assert not bad_characters(out + err), arguments


# --- cards ---


def test_the_card_of_a_hostile_signature(tmp_path):
    content = json.loads(hostile_config(tmp_path))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for card in (text, cards.signature_card(content, repo_id=HOSTILE, license=HOSTILE, pictures=[f"{HOSTILE}.png"])):
        assert not bad_characters(card)
        assert ModelCard(card).data.library_name == "hf-rws"
        assert "base_model" not in ModelCard(card).data.to_dict()
        assert ast.parse(card.partition("```python\n")[2].partition("```")[0])
        assert not [line for line in card.splitlines() if line.startswith(("fits", "evil"))]


def test_the_cards_of_hostile_models():
    config = {**BASE, "architecture": HOSTILE, "pretrained_cfg": {"license": HOSTILE, "mean": [HOSTILE]}}
    metrics = {"ta": 0.5, "ra": {HOSTILE: 0.4}, "dataset": HOSTILE, "split": HOSTILE, "n": 5}
    lockfile = json.loads(json.dumps(LOCKFILE))
    lockfile["base"] |= {"id": HOSTILE, "revision": HOSTILE, "sha256": HOSTILE}
    lockfile["signatures"][0] |= {"id": HOSTILE, "name": HOSTILE, "scale": HOSTILE}
    for card in (
        cards.base_card(config, training={HOSTILE: HOSTILE}, metrics=metrics, repo_id=HOSTILE, license=HOSTILE),
        cards.merged_card(config, lockfile, repo_id=HOSTILE, license=HOSTILE),
    ):
        assert not bad_characters(card)
        assert ModelCard(card).data.library_name == "timm"


# --- plots ---


def test_names_in_plots_are_text(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    names = [HOSTILE, r"a$\frac{", "$x$"]
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    curve = [{"scale": 0.0, "ta": 0.5, "ra": 0.2}]
    rows = [hf_rws.plots.OverviewRow(name, images, names, names, curve) for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of characters that the font has not
        hf_rws.plots.overview(images, names, names, rows, save=tmp_path / "a.png")
        hf_rws.plots.similarity(torch.eye(3), names, save=tmp_path / "b.png")
        hf_rws.plots.layer_differences({name: [1.0, 2.0] for name in names}, save=tmp_path / "c.png")
        hf_rws.plots.corruption_sheet(dict.fromkeys(names, images[:2]), save=tmp_path / "d.png")
