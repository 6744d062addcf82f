"""The house: what may import what, how long a file may be, and which names are for whom."""

import ast
import importlib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_rws

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_rws"
FILES = sorted(PACKAGE.rglob("*.py"))

# The modules and packages of hf_rws; each imports from earlier floors only.
FLOORS = (
    {"_text", "_version"},
    {"errors"},
    {"_files", "_ambient"},
    {"layers", "models", "timm_repo", "_accelerator", "corruptions", "plots"},
    {"fingerprints", "data", "cards"},
    {"_transport", "evaluation"},
    {"signature", "bases", "training"},
    {"extraction", "patching"},
    {"distillation"},
    {"loading"},
    {"hub"},
    {"study", "copies"},
    {"cli"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def dotted(path):
    """The name of a file's module, e.g. "hf_rws.signature.config"; a package's for its face."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in FILES}


def room(module):
    """The part of the house that a module is in; the top level itself is ""."""
    return module.removeprefix("hf_rws").removeprefix(".").partition(".")[0]


def imports(path):
    """Pairs (module, whether inside a function) of what a file imports; of ours the very file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module), id(node) in inside


def ours(path):
    return [(name, late) for name, late in imports(path) if room(name) and name in MODULES]


def test_every_module_has_its_floor():
    assert {room(module) for module in MODULES} - {""} == FLOOR.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for name, _ in ours(MODULES[module]):
        if room(module) and room(name) != room(module):
            assert FLOOR[room(name)] < FLOOR[room(module)], f"{module} imports {name}, which is not below it"


def test_no_file_imports_itself_in_a_circle():
    graph = {module: {name for name, _ in ours(path)} - {module} for module, path in MODULES.items()}
    assert set(TopologicalSorter(graph).static_order()) == MODULES.keys()  # CycleError names the circle


@pytest.mark.parametrize("module", MODULES)
def test_our_own_modules_are_imported_at_the_top(module):
    late = [name for name, inside in ours(MODULES[module]) if inside]
    assert not late or room(module) == "cli", f"{module} imports {late} inside a function"


@pytest.mark.parametrize("module", MODULES)
def test_what_is_private_to_a_package_stays_in_it(module):
    for name, _ in ours(MODULES[module]):
        inner = name.split(".")[2:]
        assert room(name) == room(module) or not any(part.startswith("_") for part in inner), f"{module}: {name}"


def test_only_cards_transport_and_hub_import_huggingface_hub():
    for module, path in MODULES.items():
        if room(module) not in ("cards", "_transport", "hub"):
            at_run_time = ast.parse(path.read_text())
            for_types = {
                id(node)
                for check in ast.walk(at_run_time)
                if isinstance(check, ast.If) and ast.unparse(check.test) == "TYPE_CHECKING"
                for node in ast.walk(check)
            }
            found = [
                node.module
                for node in ast.walk(at_run_time)
                if isinstance(node, ast.ImportFrom) and id(node) not in for_types
            ]
            assert not [name for name in found if (name or "").partition(".")[0] == "huggingface_hub"], module


def test_what_is_slow_or_optional_is_imported_late():
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        for_types = {
            id(node)
            for check in ast.walk(tree)
            if isinstance(check, ast.If) and ast.unparse(check.test) == "TYPE_CHECKING"
            for node in ast.walk(check)
        }
        for node in tree.body:
            if id(node) not in for_types and isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                heavy = {name.partition(".")[0] for name in names} & {"datasets", "accelerate", "matplotlib"}
                assert not heavy, f"{module} imports {heavy} at the top"


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_documented_and_short(module):
    text = MODULES[module].read_text()
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 500


# --- names ---


def test_the_top_level_offers_what_users_want():
    assert len(hf_rws.__all__) <= 12
    assert sorted(hf_rws.__all__) == list(hf_rws.__all__)
    for name in dir(hf_rws):
        value = getattr(hf_rws, name)
        assert isinstance(value, tuple | str) or (value.__doc__ or "").strip(), f"{name} says nothing about itself"
    assert set(dir(hf_rws)) >= {*hf_rws.__all__, "corruptions", "data", "errors", "hub", "plots"}
    assert not [name for name in dir(hf_rws) if name.startswith("_") and name != "__version__"]


def defined(tree):
    """Names that a module defines at its top level, imports aside."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def words(path):
    """Names and strings in a file: what it may be using."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


def test_a_name_without_underscore_is_used_elsewhere_or_shown_by_its_package():
    users = [*FILES, *(ROOT / "scripts").glob("*.py")]
    used = {path: set(words(path)) for path in users}
    private = {}
    for module, path in MODULES.items():
        if path.name == "__init__.py" or any(part.startswith("_") for part in module.split(".")):
            continue
        shown = getattr(importlib.import_module(module), "__all__", ())
        names = {name for name in defined(ast.parse(path.read_text())) if not name.startswith("_")} - set(shown)
        elsewhere = set().union(*(found for user, found in used.items() if user != path))
        if left := names - elsewhere:
            private[module] = sorted(left)
    assert not private, "used in their own module only: begin them with an underscore, or show them"
