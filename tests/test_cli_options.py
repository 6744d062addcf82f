"""Laws over all commands: which options are where, and that what messages ask for can be given."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import click
import pytest

import hf_rws
from hf_rws import cli
from hf_rws.cli import options
from hf_rws.cli.wording import _ARGUMENT, _names_argument, _options_by_argument
from hf_rws.copies import write_corrupted_copy
from hf_rws.data import as_images, load_split, load_splits, open_benchmark
from hf_rws.hub import bundle, push_all, push_folder, save_base
from hf_rws.loading import save_patched
from hf_rws.study import run_study
from hf_rws.training import TrainingArguments, train
from tests.test_cli import call  # noqa: F401

COMMANDS = cli.cli.commands
FLAGS = {
    name: {flag for option in command.params for flag in [*option.opts, *option.secondary_opts]}
    for name, command in COMMANDS.items()
}
ROWS = [
    (flag, set(row[2].split()))
    for row in re.findall(r"^\|( --[^|]*)\|([^|]*)\|$", options.__doc__, re.MULTILINE)
    for row in [(None, *row)]
    for flag in row[1].split()
]


@pytest.mark.parametrize(("flag", "names"), ROWS, ids=[flag for flag, _ in ROWS])
def test_shared_options_are_where_the_table_says(flag, names):
    assert names == {name for name, flags in FLAGS.items() if flag in flags}


def test_what_several_commands_share_means_the_same_everywhere():
    """An option has one name for the code and one type, on whatever command it is."""
    kinds = {}
    for name, command in COMMANDS.items():
        for option in command.params:
            if isinstance(option, click.Option) and option.opts[0] in dict(ROWS):
                kinds.setdefault(option.opts[0], {}).setdefault((option.name, type(option.type).__name__), []).append(
                    name
                )
    assert not {flag: found for flag, found in kinds.items() if len(found) > 1}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is(name):
    command = COMMANDS[name]
    assert re.search(r"Examples?:\n +hf-rws ", command.help), "no example"
    assert command.get_short_help_str(80).endswith("."), "no sentence for the list of commands"
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help.rstrip(".")[0].isupper() or option.help.startswith(("auto", "timm", "1-8", "bf16"))
            assert len(option.help.partition("One of ")[0]) <= 100, f"{option.name}: longer than a line"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_parsed(name, tmp_path, monkeypatch):
    """Every example is a command line that its command takes: names, types and required options."""
    monkeypatch.chdir(tmp_path)
    lines = re.findall(
        r"(?m)^\s*(?:hf-rws|(?:accelerate launch.*? -m|python -m) hf_rws\.cli) ([a-z].*)$",
        re.sub(r"\\\n\s*", " ", COMMANDS[name].help.partition("Example")[2]),
    )
    assert name in {line.split()[0] for line in lines}
    for line in lines:
        called, *words = shlex.split(line.partition("&&")[0], comments=True)
        with click.Context(COMMANDS[called], info_name=called) as context:
            COMMANDS[called].parse_args(context, words)


# --- what messages ask for ---

CALLED = (
    hf_rws.load_patched, hf_rws.distill, hf_rws.extract, hf_rws.evaluate, hf_rws.info, hf_rws.list_signatures,
    save_patched, save_base, bundle, push_all, push_folder, load_split, load_splits, as_images, open_benchmark,
    write_corrupted_copy, train, TrainingArguments, run_study,
)  # fmt: skip
ARGUMENTS = {name for function in CALLED for name in inspect.signature(function).parameters}
# What only Python can say, because the command line says it otherwise or not at all.
PYTHON_ONLY = {
    "signature_revisions",  # user/rws-fog@v1
    "preprocessing",
    "signatures",  # arguments
    "images",
}


def _messages():
    """All texts of several words in the package that are no docstrings, with X for what is put into them."""
    for path in sorted(Path(hf_rws.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        holders = (ast.Module, ast.FunctionDef, ast.ClassDef)
        docs = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, holders) and _has_doc(node)}
        docs |= {
            id(part) for node in ast.walk(tree) if "repr" in str(getattr(node, "name", "")) for part in ast.walk(node)
        }
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr) and id(node) not in docs:
                text = "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | parts:
                text = node.value
            else:
                continue
            if " " in text:
                yield f"{path.name}:{node.lineno}", text


def _has_doc(node):
    return bool(node.body) and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)


def test_what_a_message_names_is_an_option_of_some_command():
    known = {name for command in COMMANDS.values() for name in _options_by_argument(command)}
    asked = [
        f"{where} {found['name']}: {text}"
        for where, text in _messages()
        for found in _ARGUMENT.finditer(text)
        if _names_argument(found) and found["name"] in ARGUMENTS - known - PYTHON_ONLY
    ]
    assert not asked


def test_the_walk_finds_messages():
    texts = [text for _, text in _messages()]
    assert any("pass token=" in text for text in texts)
    assert any("image_column" in text for text in texts)


# --- where results go ---

ASKED = {
    "train": ["--model", "vgg16_gap", "--dataset", "nowhere"],
    "study": ["--model", "vgg16_gap", "--dataset", "nowhere", "--corruption", "fog"],
    "extract": ["nowhere", "nowhere", "nowhere", "--corruption", "fog"],
    "distill": ["--base", "nowhere", "--images", "nowhere", "--corruption", "fog"],
    "corrupt": ["--dataset", "nowhere", "--corruption", "fog"],
    "apply": ["nowhere", "nowhere"],
    "bundle": ["nowhere", "nowhere"],
    "save-base": ["nowhere"],
    "quickstart": ["--dataset", "nowhere"],
}


@pytest.mark.parametrize("name", [name for name, flags in FLAGS.items() if "--output-dir" in flags])
def test_where_nothing_can_be_written_no_work_begins(name, call, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, out, err = call(cli.cli, name, *ASKED[name], "--output-dir", "file/below")
    assert (code, out, err) == (1, "", "error: cannot save the results in file/below: Not a directory\n")
    assert "nowhere" in call(cli.cli, name, *ASKED[name], "--output-dir", "new")[2]  # which comes after that
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
