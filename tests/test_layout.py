"""The house: what may import what, how long a file may be, and which names are for whom."""

import ast
import importlib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_rws
from hf_rws import _choices
from hf_rws.corruptions import definition, registry
from hf_rws.distillation.arguments import OPTIMIZERS
from hf_rws.evaluation.adversary import _NORMS
from hf_rws.training.arguments import RECIPES
from hf_rws.training.augmentation import _AUGMENTATIONS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_rws"
FILES = sorted(PACKAGE.rglob("*.py"))

# The modules and packages of hf_rws; each imports from earlier floors only.
FLOORS = (
    {"_text", "_version", "_environment", "_choices", "_lazy", "_interrupts"},
    {"errors"},
    {"_files", "_ambient", "_checks", "_progress"},
    {"logging"},
    {"layers", "models", "timm_repo", "_accelerator", "_at_once", "corruptions", "plots"},
    {"fingerprints", "data", "cards"},
    {"_transport", "evaluation"},
    {"signature", "bases", "training"},
    {"extraction", "patching"},
    {"distillation"},
    {"loading"},
    {"hub"},
    {"study", "copies"},
    {"cli"},
    {"__main__"},
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


def inside(tree, *kinds, when=lambda node: True):
    """The ids of all nodes within nodes of some kinds."""
    return {
        id(node)
        for holder in ast.walk(tree)
        if isinstance(holder, kinds) and when(holder)
        for node in ast.walk(holder)
        if node is not holder
    }


@cache
def parsed(path):
    return ast.parse(path.read_text())


@cache
def imports(path):
    """Triples (module, whether inside a function, whether for types only) of what a file imports; of ours the file."""
    return list(_imports(path))


def _imports(path):
    tree = parsed(path)
    late = inside(tree, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for_types = inside(tree, ast.If, when=lambda node: ast.unparse(node.test) == "TYPE_CHECKING")
    for node in ast.walk(tree):
        how = id(node) in late, id(node) in for_types
        if isinstance(node, ast.Import):
            yield from ((alias.name, *how) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module), *how


def ours(path):
    return [(name, late) for name, late, _ in imports(path) if room(name) and name in MODULES]


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
    assert not late or room(module) in ("cli", "__main__"), f"{module} imports {late} inside a function"


LAZY = [module for module, path in MODULES.items() if "lazy_names" in path.read_text() and path.name == "__init__.py"]


@pytest.mark.parametrize("module", LAZY)
def test_type_checkers_read_the_names_that_are_imported_late(module):
    face = importlib.import_module(module)
    read = {}
    for node in ast.walk(parsed(MODULES[module])):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("hf_rws") and node.module != "hf_rws._lazy":
            read |= {alias.name: node.module for alias in node.names}
    assert sorted(read) == dir(face)
    assert set(face.__all__) <= set(read)
    for name, home in read.items():
        inner = MODULES.get(f"{home}.{name}")
        wanted = importlib.import_module(f"{home}.{name}" if inner else home)
        assert getattr(face, name) is (wanted if inner else getattr(wanted, name)), name
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nonsense'"):
        _ = face.nonsense


@pytest.mark.parametrize("module", MODULES)
def test_what_is_private_to_a_package_stays_in_it(module):
    for name, _ in ours(MODULES[module]):
        inner = name.split(".")[2:]
        assert room(name) == room(module) or not any(part.startswith("_") for part in inner), f"{module}: {name}"


def test_only_a_few_import_huggingface_hub():
    for module, path in MODULES.items():
        if room(module) not in ("_progress", "cards", "_transport", "hub", "cli"):
            found = [name for name, _, for_types in imports(path) if not for_types]
            assert not [name for name in found if name.partition(".")[0] == "huggingface_hub"], module


def test_what_is_slow_or_optional_is_imported_late():
    for module, path in MODULES.items():
        at_once = {name.partition(".")[0] for name, late, for_types in imports(path) if not (late or for_types)}
        assert not at_once & {"datasets", "accelerate", "matplotlib"}, module


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_documented_and_short(module):
    text = MODULES[module].read_text()
    assert ast.get_docstring(parsed(MODULES[module]))
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


def test_options_list_what_there_is():
    assert tuple(registry._BY_NAME) == _choices.CORRUPTIONS + _choices.BAR
    assert {name for one in registry._BY_NAME.values() for name in one.constants} == {*_choices.PARAMETER_SETS}
    assert {len(each) for one in registry._BY_NAME.values() for each in one.constants.values()} == {
        len(_choices.SEVERITIES)
    }
    assert (definition.CIFAR, definition.TINY_IMAGENET, definition.IMAGENET) == _choices.PARAMETER_SETS
    assert tuple(RECIPES) == _choices.RECIPE_NAMES
    assert {recipe["schedule"] for recipe in RECIPES.values()} <= {*_choices.SCHEDULES}
    assert tuple(_AUGMENTATIONS) == _choices.AUGMENTATION_NAMES
    assert tuple(OPTIMIZERS) == _choices.OPTIMIZER_NAMES
    assert tuple(_NORMS) == _choices.ADVERSARIES


def defined(tree):
    """Names that a module defines at its top level, imports aside."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def used(path):
    """Pairs (module, name) of what a file takes from our modules, imported by name or as an attribute."""
    tree, modules = parsed(path), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES:
                    modules[alias.asname or alias.name] = inner
                else:
                    yield node.module, alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


READ_BY_TIMM = {"default_cfgs"}  # from the module of a network that is registered


def test_a_name_without_underscore_is_used_elsewhere_or_shown_by_its_package():
    """Of the modules at the top their own list counts: they are packages of one file."""
    elsewhere = {pair for path in [*FILES, *(ROOT / "scripts").rglob("*.py")] for pair in used(path)}
    private = {}
    for module, path in MODULES.items():
        if path.name == "__init__.py" or any(part.startswith("_") for part in module.split(".")):
            continue
        shown = getattr(importlib.import_module(module), "__all__", ()) if module.count(".") == 1 else ()
        names = {name for name in defined(parsed(path)) if not name.startswith("_")}
        if left := {name for name in names - {*shown, *READ_BY_TIMM} if (module, name) not in elsewhere}:
            private[module] = sorted(left)
    assert not private, "used in their own module only: begin them with an underscore, or show them"
