import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hf_rws
from hf_rws import cards

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "hf_rws").rglob("*.py"))
TEMPLATES = {path.name for path in (ROOT / "model_cards").glob("*.jinja")}

# Each imports from earlier tiers only. A package is one module here.
TIERS = (
    {"errors"},
    {"packing"},
    {"decoding"},
    {"layers", "quantization", "corruptions", "models", "augmentation"},
    {"format", "data", "recipes", "mixtures"},
    {"saving", "benchmarks", "unlabelled"},
    {"signature"},
    {"evaluation", "sums"},
    {"recalibration", "touched", "extraction", "fitting", "training", "patch_recipe"},
    {"distiller"},
    {"patching", "distillation"},
    {"routing", "plots"},
    {"cards"},
    {"hub"},
    {"loading"},
    {"study", "copies"},
    {"quickstart"},
    {"cli"},
)
# From inside functions: signatures are fetched, pushed and saved with a card; `extract` takes folders and ids; a bundle
# is loaded once before it is in place.
REACHES_UP = {
    ("signature", "hub"),
    ("signature", "cards"),
    ("extraction", "loading"),
    ("distillation", "loading"),
    ("hub", "loading"),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


# --- the wheel ---


def test_the_wheel_holds_the_package_and_its_templates(wheel):
    assert wheel.stat().st_size < 1_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"hf_rws-{hf_rws.__version__}.dist-info/entry_points.txt").decode()
    assert "hf-rws = hf_rws.cli:main" in entry_points
    package = {name for name in names if not name.startswith("hf_rws-")}
    expected = {path.relative_to(ROOT).as_posix() for path in MODULES}
    assert package == expected | {"hf_rws/py.typed"} | {f"hf_rws/model_cards/{name}" for name in TEMPLATES}
    assert any(name.endswith("LICENSE") for name in names - package)


INSIDE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, timm
import hf_rws
print(hf_rws.__file__)
print(*{"datasets", "accelerate", "matplotlib"} & set(sys.modules))
from hf_rws import cards
print(cards.base_card({"architecture": "vgg16_gap"}, repo_id="user/base"))
"""


def _import_cost(log):
    """What `import hf_rws` adds to `import torch, timm`, in shares of it, from the log of -X importtime."""
    microseconds = {}
    for line in log.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[2][1:] in ("torch", "timm", "hf_rws"):  # not within another import
            microseconds[parts[2].strip()] = int(parts[1])
    return microseconds["hf_rws"] / (microseconds["torch"] + microseconds["timm"])


def test_the_installed_wheel_is_quick_to_import_and_renders_cards(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    command = [sys.executable, "-X", "importtime", "-c", INSIDE, str(tmp_path / "installed")]
    environment = {**os.environ, "PYTHONPATH": ""}
    costs = []
    while not costs or (min(costs) > 0.2 and len(costs) < 3):  # a busy machine may stop in the middle of an import
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        costs.append(_import_cost(done.stderr))
    assert min(costs) <= 0.2
    where, heavy, card = done.stdout.split("\n", 2)
    assert Path(where).is_relative_to(tmp_path / "installed")
    assert heavy == ""
    assert card.strip() == cards.base_card({"architecture": "vgg16_gap"}, repo_id="user/base").strip()


def test_the_checkout_renders_cards():
    assert Path(hf_rws.__file__).is_relative_to(ROOT)
    assert cards.base_card({"architecture": "vgg16_gap"}, repo_id="user/base").startswith("---\n")
    assert {"base.md.jinja", "signature.md.jinja"} <= TEMPLATES


# --- the surface ---


def test_public_names():
    assert len(hf_rws.__all__) <= 12
    assert sorted(hf_rws.__all__) == list(hf_rws.__all__)
    for name in hf_rws.__all__:
        value = getattr(hf_rws, name)
        assert isinstance(value, tuple) or (value.__doc__ or "").strip(), f"{name} says nothing about itself"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT / "hf_rws").as_posix())
def test_modules_are_documented_and_short(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)) or not text.strip()
    assert text.count("\n") < 400


# --- the direction of imports ---


def _module(path):
    parts = path.relative_to(ROOT / "hf_rws").parts
    return parts[0].removesuffix(".py")


def _imported(path):
    """Pairs (module, whether that is on import) of everything that a file imports, but for types."""
    tree = ast.parse(path.read_text())
    late, for_types = set(), set()
    for parent in ast.walk(tree):
        if isinstance(parent, ast.FunctionDef):
            late |= {id(node) for node in ast.walk(parent)}
        elif isinstance(parent, ast.If) and ast.unparse(parent.test) == "TYPE_CHECKING":
            for_types |= {id(node) for node in ast.walk(parent)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"hf_rws.{alias.name}" for alias in node.names] if node.module == "hf_rws" else [node.module]
            yield from ((name, id(node) not in late) for name in names)


def test_imports_point_one_way():
    tier = {name: number for number, names in enumerate(TIERS) for name in names}
    for path in MODULES:
        module = _module(path)
        if module == "__init__":
            continue
        assert module in tier, f"give {module} a place in TIERS"
        for name, on_import in _imported(path):
            target = name.removeprefix("hf_rws.").partition(".")[0]
            if not name.startswith("hf_rws.") or target in (module, "__version__"):
                continue
            allowed = tier[target] < tier[module] or ((module, target) in REACHES_UP and not on_import)
            assert allowed, f"{module} imports {target}, which is not below it"


def test_only_cards_and_hub_import_huggingface_hub():
    for path in MODULES:
        if _module(path) not in ("cards", "hub"):
            assert not [name for name, _ in _imported(path) if name.partition(".")[0] == "huggingface_hub"], path.name


def test_what_is_slow_or_optional_is_imported_late():
    for path in MODULES:
        on_import = {name.partition(".")[0] for name, at_once in _imported(path) if at_once}
        assert not on_import & {"datasets", "accelerate", "matplotlib"}, path.name


# --- the commands that the project promises ---


def test_ci_runs_the_readmes_test_command():
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert command.endswith("-m pytest")
    assert command in (ROOT / "README.md").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("folder", ["hf_rws", "tests", "scripts", "model_cards"])
def test_no_path_of_one_machine(folder):
    places = ("/" + "work/", "/" + "root/", "/" + "tmp/")
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in (".py", ".jinja", ".md", ".json") and path.is_file():
            text = path.read_text()
            assert not [place for place in places if place in text], path.relative_to(ROOT)


def test_the_quickstarts_data_is_small_and_says_where_it_is_from():
    files = [path for path in (ROOT / "scripts" / "quickstart").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".parquet") < 10_000_000
    assert any(path.name.startswith("NOTICE") for path in files)
