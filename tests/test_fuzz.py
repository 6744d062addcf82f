import random
import time
import warnings

import pytest

from hf_rws.errors import FormatError
from hf_rws.signature.config import parse_config
from tests import fuzzing

CASES = {"config": 600, "weights": 600, "lockfile": 500, "id": 1000, "signature": 40, "folder": 6, "readme": 20}
OTHERS = {False: 5, True: 20}  # without and with a model


@pytest.fixture(scope="module", autouse=True)
def samples():
    yield fuzzing.samples()
    fuzzing.clean_up()


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_whatever_is_read_succeeds_or_raises_an_error_of_ours(kind):
    cases = CASES.get(kind, OTHERS[fuzzing.KINDS[kind].with_model])
    tally = fuzzing.run_cases(kind, range(cases), seed=0)
    assert not tally.faults
    assert tally.outcomes.total() == cases
    assert kind not in CASES or tally.outcomes["success"]  # not all are broken beyond reading


def test_a_case_is_told_by_its_number():
    one, other = (fuzzing.mutated(fuzzing.samples().config, random.Random("0 config 5")) for _ in range(2))
    assert repr(one) == repr(other)


@pytest.mark.parametrize("fault", [KeyError("a"), RecursionError(), OSError("disk")])
def test_what_is_no_error_of_ours_is_a_fault(monkeypatch, fault):
    def broken(generator):
        raise fault

    monkeypatch.setitem(fuzzing.KINDS, "config", fuzzing.Kind(broken, 1))
    assert [number for number, _ in fuzzing.run_cases("config", range(2), seed=0).faults] == [0, 1]


@pytest.mark.parametrize(
    "filler",
    [
        "[" + "0," * 1_900_000 + "0]",
        "[" + "[]," * 1_200_000 + "0]",
        "[" + "{}," * 1_200_000 + "0]",
        '"' + "\\u00e9" * 600_000 + '"',
        "{" + ",".join(f'"{n:x}":0' for n in range(380_000)) + "}",
        "[" + "1e5," * 950_000 + "0]",
        "[" + '"\\u00e9",' * 430_000 + "0]",
    ],
    ids=["numbers", "lists", "objects", "escapes", "keys", "floats", "texts"],  # else the texts are in the tests' names
)
@pytest.mark.parametrize("key", ["tensors", "shiny"])
def test_the_largest_configs(key, filler):
    """Within two seconds; the memory is what Python takes for such JSON."""
    text = f'{{"format_version": "1.0", "{key}": {filler}}}'
    assert len(text) < 4_000_000
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FormatError):
            parse_config(text, "config.json")
    assert time.process_time() - start < fuzzing.TIME_LIMIT
