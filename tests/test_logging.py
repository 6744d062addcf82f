"""How much is said: the logger, and warnings on the command line."""

import logging
import subprocess
import sys
import warnings

import click
import pytest

import hf_rws
from hf_rws.errors import RWSWarning, warn
from tests import helpers
from tests.helpers import on_cpu  # noqa: F401
from tests.test_cli import call  # noqa: F401


@pytest.fixture(autouse=True)
def as_it_was():
    before = hf_rws.logging.get_verbosity()
    yield
    hf_rws.logging.set_verbosity(before)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_verbosity(level):
    getattr(hf_rws.logging, f"set_verbosity_{level}")()
    assert hf_rws.logging.get_verbosity() == getattr(logging, level.upper())
    assert logging.getLogger("hf_rws.distillation.loop").getEffectiveLevel() == getattr(logging, level.upper())


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.filterwarnings("ignore:the distillation did not help")
def test_a_distillation_says_how_it_goes_on(caplog):
    work = {"images": helpers.pixels(40), "steps": 2, "batch_size": 8, "mixed_precision": "no", "progress": False}
    hf_rws.distill(helpers.model(), **work)
    assert not caplog.records
    hf_rws.logging.set_verbosity_info()
    hf_rws.distill(helpers.model(), **work)
    assert "step 2 of 2" in caplog.records[-1].getMessage()


def test_what_is_logged_is_seen_once():
    """On stderr where the program has set up nothing, else where it wants it."""
    code = (
        "import logging, sys, hf_rws\n"
        "hf_rws.logging.get_logger('hf_rws.x').info('first')\n"
        "logging.basicConfig(stream=sys.stdout, format='%(name)s %(message)s')\n"
        "hf_rws.logging.get_logger('hf_rws.x').info('second')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True,
        env={"HF_RWS_VERBOSITY": "info", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("hf_rws.x second\n", "first\n")
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", "import hf_rws\nhf_rws.logging"], capture_output=True, text=True,
        env={"HF_RWS_VERBOSITY": "loud", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert "HF_RWS_VERBOSITY=loud is none of debug, info, warning, error, critical" in done.stderr


# --- warnings on the command line ---


@pytest.fixture
def warning():
    @click.command()
    @click.option("--image-size")
    def command(image_size):
        warn("these images differ:\n give an image_size")

    return command


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_sentence_without_a_place(warning, call):  # noqa: F811
    assert call(warning) == (0, "", "warning: these images differ: give an --image-size\n")


@pytest.mark.filterwarnings("default")
def test_only_the_first_process_warns(warning, call, monkeypatch):  # noqa: F811
    monkeypatch.setenv("RANK", "1")
    assert call(warning) == (0, "", "")


def test_warnings_are_pythons_again_afterwards(warning, call):  # noqa: F811
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(warning)
        warn("after")
    assert [str(one.message) for one in caught] == ["after"]
    assert caught[0].category is RWSWarning
    assert caught[0].filename == __file__
