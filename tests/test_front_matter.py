"""A README that somebody wrote, merged with a new card: nothing of it is lost, retyped or able to hold us up."""

import random
import time
from contextlib import suppress

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_rws import cards
from hf_rws.cards import front_matter
from hf_rws.errors import FormatError
from tests.test_cards import SIGNATURE

FRESH = cards.signature_card(SIGNATURE, repo_id="user/rws-fog", license="mit")
OURS = set(ModelCard(FRESH).data.to_dict())


def readme(head, text="\nHello.\n"):
    return f"---\n{head}\n---\n{text}"


def head_of(card):
    return front_matter.split(card)[0]


# --- what an author wrote stays ---

AUTHORS = """\
# please keep: reviewed on 1 May
language:
- no   # Norwegian
- en
license: other
license_name: my-licence
version: 1.10
build: 0o17
octal: 010
sexagesimal: 12:30:45
date: 2024-05-01
empty:
quoted: 'it''s'
folded: >-
  You agree
  to be kind.

  # not a comment
literal: |
  a

inline: {a: [1.10, no], b: "x"}   # a comment
1.0: a number as a key
on: a word of YAML 1.1 as a key
tagged: !mine {a: 1}
anchored: &there [yes, off]
again: *there
tags:
- on
- "1.10"
- 1.10
- corruption:stale
# the widget
widget:
- src: https://example.org/x.jpg"""


def test_the_authors_lines_stay():
    merged = head_of(cards.merge_card(readme(AUTHORS), FRESH)).split("\n")
    kept = [line for line in AUTHORS.split("\n") if line not in ("- corruption:stale", "- 1.10")]
    left = iter(merged)
    assert all(line in left for line in kept)  # all of them, in this order
    tags = yaml.load(head_of(cards.merge_card(readme(AUTHORS), FRESH)), Loader=Words)["tags"]
    assert tags == ["on", "1.10", *ModelCard(FRESH).data.tags]


class Words(yaml.BaseLoader):
    """Every word as it is written."""


Words.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_mapping(node, deep=True))


@pytest.mark.parametrize(
    "head",
    [
        "{a: 1.10, tags: [x, on]}",
        "{a: 1.10,\n tags: [x, on],\n}",
        "  a: 1.10\n  tags:\n  - x\n  - on",
        "tags: &t\n- x\n- on\na: 1.10\nkeywords: *t",
        "a: 1.10\ntags: &t [x, on]\nlibrary_name: {x: *t}\nmine: *t",
        "tags: [x, on]\na: 1.10\n...",
        "? a\n: 1.10\n? tags\n: - x\n  - on",
        "a: 1.10\ntags: [x, on] # mine",
        '"a": 1.10\n"tags": ["x", on]',
        "a: 1.10\x85tags: [x, on]",
        "a: 1.10\ntags:\n    - x\n    - on\n\n\n",
    ],
)
def test_other_ways_of_writing(head):
    once = cards.merge_card(readme(head), FRESH)
    words = yaml.load(head_of(once), Loader=Words)
    assert words["a"] == "1.10"
    assert words["tags"] == ["x", "on", *ModelCard(FRESH).data.tags]
    assert words.keys() >= OURS
    assert cards.merge_card(once, FRESH) == once
    for key in words.keys() & {"keywords", "mine"}:
        assert words[key] == ["x", "on"]


@pytest.mark.parametrize("head", ["", "# only a comment", "{}", "tags:", "tags: ~\nlicense: null", "tags: []", " "])
def test_metadata_without_values(head):
    merged = cards.merge_card(readme(head), FRESH)
    assert ModelCard(merged).data.to_dict() == ModelCard(FRESH).data.to_dict()
    assert "Hello." in merged
    assert ("# only a comment" in merged) == ("# only a comment" in head)
    assert cards.merge_card(merged, FRESH) == merged


@pytest.mark.parametrize(
    "text", ["---\nHello.\n", "---", "---\n---\nHello.\n", "--- \na: 1\n---\n", "\n\n---\nx\n----\n"]
)
def test_lines_that_are_no_metadata(text):
    merged = cards.merge_card(text, FRESH)
    assert ModelCard(merged).data.to_dict() == ModelCard(FRESH).data.to_dict()
    assert text in merged
    assert cards.merge_card(merged, FRESH) == merged


@pytest.mark.parametrize("text", [FRESH, readme(AUTHORS), readme("a: 1", "")])
@pytest.mark.parametrize("head", ["\n \n", ""])
def test_a_card_is_split_where_the_hub_splits_it(head, text):
    card = ModelCard(head + text) if "!mine" not in text else None
    metadata, body = front_matter.split(head + text)
    assert card is None or (body == card.text and yaml.safe_load(metadata) == yaml.safe_load(card.data.to_yaml()))
    assert body == text.rpartition("\n---\n")[2]


# --- what cannot be merged is refused in words ---

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 30)
)
REFUSED = {
    "tags: [[a]]": "'tags'",
    "tags: {a: b}": "'tags'",
    "license: {a: b}": "'license'",
    BOMB + "tags: *a29": "'tags'",
    "license: [[mit]]": "'license'",
    "- a": "key: value",
    "a": "key: value",
    "a: [": "YAML",
    "a: \x1b[31m": "YAML",
    "a: \x00": "YAML",
    "a: '": "YAML",
    "a: *nowhere": "YAML",
    "a: 1\n---x\nb: 2\n--- \nc: 3": "YAML",
    "a: 1\na: 2": "'a' twice",
    "tags: [a]\n'tags': [b]": "'tags' twice",
    "? [a]\n: 1": "no word",
    "a: " + "[" * 60 + "]" * 60: "50 deep",
    "a: " + "[" * 90_000: "deep|depth",
    "a: " + "{a: " * 20_000: "50 deep",
    "\n".join(f"{' ' * n}a:" for n in range(300)): "50 deep",
    "a: " + "x" * 100_000: "100,000",
}


@pytest.mark.parametrize("head", REFUSED, ids=[head[:20] for head in REFUSED])
def test_what_is_refused(head):
    start = time.process_time()
    key = "license" if "'license'" in REFUSED[head] else "tags"
    with pytest.raises(FormatError, match=f"^mine: .*({REFUSED[head]})") as caught:
        cards.metadata_words(readme(head), key, where="mine")
    assert str(caught.value).isprintable()
    if key == "tags":
        with pytest.raises(FormatError, match=r"^mine: "):
            cards.merge_card(readme(head), FRESH, where="mine")
    assert time.process_time() - start < 2


ACCEPTED = [
    *("tags: 1.5", "tags: mine", "tags: 2024-05-01", "tags: [a, 1, 2.50, ~, no]", "to_dict: 5", "get: 1", "data: 3"),
    *("model-index: 3", "model-index: [1]", "model-index: [{a: b}, {name: {a: b}}]", "model-index: {name: rws-fog}"),
    *("license: [a]", "license: [a, b]", "license: no", "license: 1.10", "2024-05-01: a", "1: 2", "~: 3"),
    *("a: !!python/object/apply:os.system [ls]", "a: !x y", "a: 2024-99-99", "a: 0x", "a: .nan", "<<: {a: 1}"),
    *("base_model: 3", "library_name: [x]", "metrics: {a: b}", "pipeline_tag:", "datasets: 1.0", "a: &a [*a]"),
    *(BOMB, MERGE_BOMB),
    *(
        "eval_results: 3",
        "model_name: 4",
        "ignore_metadata_errors: 5",
        "self: 6",
        "a: 1__1",
        "a: 1:60",
        "a: =",
        "a: <<",
    ),
]


@pytest.mark.parametrize("head", ACCEPTED, ids=[head[:20] for head in ACCEPTED])
def test_what_is_merged_although_it_is_strange(head):
    start = time.process_time()
    merged = cards.merge_card(readme(head), FRESH)
    cards.is_unedited(readme(head))
    readdressed = cards.readdress(readme(head), "rws-fog", {"rws-fog": "user/x"})
    assert time.process_time() - start < 2
    assert cards.merge_card(merged, FRESH) == merged
    before, after, moved = words(readme(head)), words(merged), words(readdressed)
    assert after.keys() >= OURS | before.keys()
    for key in before.keys() - (OURS - {"license"}):
        assert after[key] == before[key]
    for key in before.keys() - {"model-index"}:
        assert moved[key] == before[key]


def words(card):
    """Each key of a card's metadata with its value as YAML has it, written in one way."""
    return {key: yaml.serialize(entry.value) for key, entry in front_matter.read(head_of(card)).items()}


def test_only_our_own_results_get_another_name():
    index = "model-index:\n- name: rws-fog\n  results: []\n- name: theirs\n  results: [1.10]\n- 3"
    card = cards.readdress(readme(f"a: no\n{index}\nb: 1.10"), "rws-fog", {"rws-fog": "user/x"})
    assert head_of(card).replace("\n  results: []", "").split("\n") == [
        "a: no", "model-index:", "- name: x", "- name: theirs", "  results: [1.10]", "- 3", "b: 1.10"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("head", "found"),
    [("license: mit", ["mit"]), ("license: [a, 1.10]", ["a", "1.10"]), ("a: 1", []), ("license: ~", []), ("", [])],
)
def test_words_of_a_key(head, found):
    assert cards.metadata_words(readme(head), "license") == found


PIECES = [
    *(
        "a: 1.10\n",
        "tags: [x]\n",
        "tags:\n- y\n",
        "license: no\n",
        "model-index:\n- name: z\n",
        "? [a]\n",
        ": b\n",
        "- c\n",
    ),
    *(
        "  d: e\n",
        "# f\n",
        "\n",
        "---\n",
        "...\n",
        "&a ",
        "*a\n",
        "!t ",
        "{",
        "}",
        "[",
        "]",
        "'",
        '"',
        "|\n",
        ">-\n  g\n",
    ),
    *(
        "\t",
        "%YAML 1.1\n",
        "<<: *a\n",
        "\x1b",
        "\x00",
        "\u202e",
        "\ufeff",
        "\u2028",
        "\x85",
        "\r\n",
        "🙂",
        "h: i\n",
        ", ",
    ),
    *(
        "<!-- hf-rws:results -->",
        "<!-- /hf-rws:results -->",
        "<!-- hf-rws:unedited 0123456789abcdef -->",
        "```python\n",
    ),
]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_stands_there_is_merged_or_refused(seed):
    rng = random.Random(seed)
    merged = 0
    for _ in range(80):
        existing = "---\n" * (rng.random() < 0.9) + "".join(rng.choices(PIECES, k=rng.randrange(1, 9)))
        existing += rng.choice(["\n---\nHello.\n", "---\n", ""])
        try:
            once = cards.merge_card(existing, FRESH)
            cards.readdress(existing, "rws-fog", {"rws-fog": "user/x"})
            cards.is_unedited(existing)
        except FormatError:
            continue
        merged += 1
        assert cards.merge_card(once, FRESH) == once, existing
        assert words(once.replace("\r\n", "\n")).keys() >= OURS, existing
    assert merged > 10


# --- time ---

SHAPES = {
    "newlines": ("\n", ""),
    "spaces": (" ", "x"),
    "markers": (cards.RESULTS_BEGIN, ""),
    "ends": (cards.RESULTS_END, ""),
    "marks": ("<!-- hf-rws:unedited 0123456789abcdef -->", ""),
    "marks in lines": ("\n\n<!-- hf-rws:unedited 0123456789abcdef -->\n", "x"),
    "rules": ("---\n", ""),
    "rules with spaces": ("--- \t", ""),
    "fences": ("```python\n", ""),
    "half fences": ("```python\n`` ", ""),
    "comments": ("<!--", ""),
    "titles": ("# rws-fog \n", ""),
    "returns": ("\r\n\r", ""),
}


@pytest.mark.parametrize("before", ["", "---\n", "---\na: 1\n---\n"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_text_takes_long(shape, before):
    piece, end = SHAPES[shape]
    text = before + piece * (1_000_000 // len(piece)) + end
    start = time.process_time()
    for fresh in (FRESH, cards.signature_card({"corruption": {"name": "fog"}})):
        cards.merge_card(text, fresh)
    cards.is_unedited(text)
    cards.readdress(text, "rws-fog", {"rws-fog": "user/x"})
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "piece", ["a: 1\n", "- a\n", "x", "[", "&a ", "# a\n", "\n", "? a\n", "'a' ", "!a ", "{a: ", "a:\n "]
)
def test_no_metadata_takes_long(piece):
    text = readme("k: " * (piece != "a: 1\n") + piece * (99_990 // len(piece)))
    start = time.process_time()
    with suppress(FormatError):
        cards.merge_card(text, FRESH)
    assert time.process_time() - start < 2


def test_a_readme_that_is_too_large():
    with pytest.raises(FormatError, match=r"README.md: is larger than the 4,000,000 characters"):
        cards.merge_card("x" * 4_000_001, FRESH)
