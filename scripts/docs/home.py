"""The README as the first page of the site, with its links as they are from `scripts/`, the folder of all pages."""

from pathlib import Path

from mkdocs.structure.files import File

_ROOT = Path(__file__).resolve().parents[2]


def on_files(files, config):
    """Add the pages of the top level."""
    for name, page in (
        ("README.md", "index.md"),
        ("CONTRIBUTING.md", "CONTRIBUTING.md"),
        ("CHANGELOG.md", "CHANGELOG.md"),
    ):
        text = (_ROOT / name).read_text(encoding="utf-8").replace("](scripts/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to the README lead to the first page."""
    return markdown.replace("](../../README.md", "](../index.md")
