"""What notebooks show of signatures and patchers."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import hf_rws
from tests.models import signature, trio

NAME = "vgg16_gap"
METRICS = {
    "standard": {"ta": 0.7, "ra": 0.3},
    "patched": {"ta": 0.6, "ra": 0.65},
    "scale_curve": [{"scale": s, "ta": 0.7 - s / 10, "ra": 0.3 + s / 3} for s in (0.0, 0.5, 1.0)],
}
EVIL = "<script>alert('x')</script>&\"\n"


class Tags(HTMLParser):
    """The tags of a page, each closed; void ones are of SVG and close themselves."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen = [], set()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_signature_shows_its_facts_and_its_curve():
    shown = signature(NAME).with_results(metrics=METRICS)._repr_html_()
    assert {"table", "svg", "polyline"} <= Tags(shown).seen
    for text in ("fog", "severity 5", NAME, "7 layers", "bytes", "RA 30.0 %", "RA 65.0 %", "scale"):
        assert text in shown
    points = [re.findall(r"[\d.]+,[\d.]+", line) for line in re.findall(r'points="([^"]*)"', shown)]
    heights = [[float(point.split(",")[1]) for point in line] for line in points]
    assert list(map(len, heights)) == [3, 3]
    assert heights[0] == sorted(heights[0])  # TA falls: further down
    assert heights[1] == sorted(heights[1], reverse=True)


@pytest.mark.parametrize("metrics", [None, {}, {"scale_curve": "?"}, {"scale_curve": [{"scale": 1, "ta": 1, "ra": 0}]}])
def test_a_signature_without_a_curve(metrics):
    assert "svg" not in Tags(signature(NAME).with_results(metrics=metrics)._repr_html_()).seen


def test_a_patcher_shows_what_is_on():
    model = trio(NAME).base()
    patcher = hf_rws.patch(model, [signature(NAME), ("winter", signature(NAME, "snow"))])
    shown = patcher._repr_html_()
    assert {"table", "tr"} <= Tags(shown).seen
    for text in (f"Patcher on {NAME}", "fog", "winter", "0.5 (default: 1/n)", f"{signature(NAME).nbytes:,}"):
        assert text in shown
    patcher.remove("fog")
    patcher.remove("winter")
    assert "no signatures" in patcher._repr_html_()
    patcher.bake()
    assert "bake()" in patcher._repr_html_()


def test_names_from_elsewhere_are_text():
    made = signature(NAME)
    config = replace(made.config, corruption=replace(made.config.corruption, names=(EVIL,)))
    shown = replace(made, config=config, name=EVIL)._repr_html_()
    shown += hf_rws.patch(trio(NAME).base(), [(EVIL, made)])._repr_html_()
    assert "script" not in Tags(shown).seen
    assert "<script" not in shown
