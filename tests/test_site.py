"""The site of guides and API builds without a warning, its links lead somewhere, and every public name is in it."""

import importlib
import os
import pkgutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import hf_rws

ROOT = Path(__file__).resolve().parent.parent
INNER = {"hf_rws.cards", "hf_rws.cli", "hf_rws.layers"}  # what others build upon, not users
CONFIG = ROOT / "scripts" / "docs" / "mkdocs.yml"


class Links(HTMLParser):
    """The anchors of a page, and where its links, pictures, styles and scripts lead."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = {"", "__comments"}
        self.targets: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and tag != "base":
                self.targets.append(value)


def broken_links(site: Path) -> list[str]:
    pages = {page: Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            path, anchor = urldefrag(target)
            if urlsplit(path).scheme or urlsplit(path).netloc:
                continue  # elsewhere
            found = (page.parent / unquote(path)).resolve() if path else page
            found = found / "index.html" if found.is_dir() else found
            if not found.exists() or (found in pages and unquote(anchor) not in pages[found].ids):
                broken.append(f"{page.relative_to(site)}: {target}")
    return broken


def documented(site: Path) -> set[str]:
    """The names in the site's inventory, which mkdocstrings writes for other projects to refer to."""
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(content).decode().splitlines()}


def public_names() -> set[str]:
    """What the package and its modules have in `__all__`, but for numbers (the levels of Python's logging)."""
    names = {f"hf_rws.{name}" for name in hf_rws.__all__}
    for found in pkgutil.iter_modules(hf_rws.__path__, "hf_rws."):
        if not found.name.startswith("hf_rws._") and found.name not in INNER:
            module = importlib.import_module(found.name)
            public = getattr(module, "__all__", ())
            names |= {f"{found.name}.{name}" for name in public if not isinstance(getattr(module, name), int)}
    return names


def test_the_site(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(CONFIG), "-d", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert broken_links(tmp_path) == []
    assert sorted(public_names() - documented(tmp_path)) == []
    assert not [page for page in tmp_path.glob("docs/api/*.html") if "<blockquote>" in page.read_text()]  # examples
    assert not list(tmp_path.rglob("*.py"))  # nothing but pages and pictures of scripts/
