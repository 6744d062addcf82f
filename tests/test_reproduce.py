"""The paper's claims: that a verdict follows from its cases, and that scripts/reproduce.py runs, stops and goes on."""

import json
import math
import sys
from pathlib import Path

import pytest

from hf_rws.errors import NotFoundError, OptionError
from hf_rws.study.plans import PlannedImages
from tests.helpers import toy_dataset

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"

pytestmark = pytest.mark.filterwarnings("ignore:the distillation did not help")  # on noise


@pytest.fixture(scope="module")
def reproduce():
    """The script, as a module; beside it what it imports."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(SCRIPTS))
        import reproduce

        yield reproduce
    for name in [name for name in sys.modules if name.partition(".")[0] in ("claims", "reproduce")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(reproduce, tmp_path_factory):
    """The fixture's plan, trained: its data and studies."""
    folder = tmp_path_factory.mktemp("reproduce")
    toy_dataset(folder / "data", train=100)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ACCELERATE_USE_CPU", "true")
        patched.setattr("hf_rws.cards.signature_picture", lambda *args, **options: None, raising=False)
        reproduce.main(["train", "fixture", *where(folder)])
    return folder


def where(folder):
    return [f"--data=fixture={folder / 'data'}", f"--output-dir={folder / 'studies'}"]


# --- verdicts ---


@pytest.mark.parametrize(
    ("cases", "word"),
    [
        ([(1, 1)], "confirmed"),
        ([(1, 2)], "refuted"),
        ([(2, 1)] * 9 + [(1, 2)], "confirmed"),
        ([(2, 1)] * 8 + [(1, 2)] * 2, "partly"),
        ([(2, 1), (1, 2)], "partly"),
        ([(2, 1)] * 4 + [(1, 2)] * 5, "refuted"),
        ([(2, 1), (math.nan, 1), (1, math.nan), (math.nan, 2)], "confirmed"),
        ([(math.nan, 1)], "not testable here"),
        ([], "not testable here"),
    ],
)
def test_a_verdict_is_the_share_of_the_cases_that_hold(reproduce, cases, word):
    from claims.judging import Case, Claim

    claim = Claim("s", "i", lambda rows: [Case(str(number), *case) for number, case in enumerate(cases)])
    assert claim.judge([]).word == word


def test_a_claim_is_never_confirmed_by_nothing(reproduce):
    for experiment in reproduce.EXPERIMENTS.values():
        for claim in experiment.claims:
            assert claim.judge([]).word == "not testable here"
            assert {x
