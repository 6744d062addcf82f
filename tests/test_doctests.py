"""The examples in docstrings give what they say."""

import doctest
import importlib
import pkgutil

import pytest
import timm
import torch

import hf_rws

NAMES = {"hf_rws": hf_rws, "timm": timm, "torch": torch}
MODULES = [module.name for module in pkgutil.walk_packages(hf_rws.__path__, "hf_rws.")]
EXAMPLES = {
    example.name: example
    for module in MODULES
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module), extraglobs=NAMES)
    if example.examples
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    printed = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(EXAMPLES[name], out=printed.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(printed)


@pytest.mark.parametrize("name", ["corrupt", "evaluate", "extract", "patch", "Signature"])
def test_what_users_begin_with_has_an_example(name):
    assert ">>>" in getattr(hf_rws, name).__doc__
