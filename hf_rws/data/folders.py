"""Folders of image files as datasets: every file in them is listed here, and what is not used is said.

Folders that are called train, test, val, ... are the splits if they hold class folders, or if there is nothing beside
them; then each folder beside them is a split of its own name. Everywhere else all images are one split, "train". Names
of files never decide. The class of an image is the folder that it lies in.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

from hf_rws.data.pictures import IMAGE_ENDINGS
from hf_rws.errors import AccessError, FormatError, warn

if TYPE_CHECKING:
    import datasets

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}
_ONE_SPLIT = "train"
_CONTAINERS = (".parquet", ".arrow", ".tar", ".zip")  # of images
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of images, as the library datasets knows them
_BESIDES = ("readme", "license", "licence", "thumbs.db", "desktop.ini")  # how files begin that nobody misses
_JUNK = ("__MACOSX", "__pycache__")
_LISTED = 5
_CHUNK = 10_000  # files


def split_of(name: str) -> str:
    """The usual name of a split, "validation" for "val"; other names stay."""
    return _SPLIT_WORDS.get(name.lower(), name)


def open_image_folder(folder: Path) -> "ImageFolder | None":
    """A folder of image files; None if it holds a dataset's tables, or images whose metadata say what they are."""
    files = list_files(folder)
    images = sum(map(_is_image, files))
    containers = sum(path.lower().endswith(_CONTAINERS) for path in files)
    if images <= containers or any(os.path.basename(path) in _METADATA for path in files) or _has_configs(folder):
        return None
    return ImageFolder(folder, files)


@dataclass(frozen=True)
class _Split:
    """Files, by their paths in the dataset's folder, and the class of each: None where there is no class folder."""

    files: Sequence[str]
    labels: Sequence[str | None]


class ImageFolder(Mapping[str, "datasets.Dataset"]):
    """The splits of a folder of image files.

    Args:
        folder: The folder.
        files: All files in it, as `list_files` gives them; a warning says which are not used.
    """

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self._folder = folder
        images = [path for path in files if _is_usable(path)]
        self._splits = _splits(images)
        left = [path for path in files if not _is_usable(path)] if len(images) < len(files) else []
        if sum(len(split.files) for split in self._splits.values()) < len(images):
            used = {path for split in self._splits.values() for path in split.files}
            left += [path for path in images if path not in used]
        _say_what_is_left(folder, left)

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def files(self, split: str) -> Sequence[str]:
        """The files of a split, by their paths in the folder."""
        return self._splits[split].files

    def real_files(self, split: str) -> Iterator[str]:
        """Where they really are, by links or not."""
        real_folder = lru_cache(None)(os.path.realpath)
        for path in self.files(split):
            yield _real_file(os.path.join(self._folder, path), real_folder)

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        """Those of all splits: one may lack some."""
        return tuple(sorted({name for split in self._splits.values() for name in split.labels if name is not None}))

    def __getitem__(self, split: str) -> "datasets.Dataset":
        """The images, not decoded, and where there are class folders their labels; None for images in no such folder.

        Raises:
            FormatError: The folder's own path cannot be written down, or a file is gone.
        """
        chosen = self._splits[split]
        labels = chosen.labels if self._classes else None
        paths = (os.path.join(self._folder, path) for path in chosen.files)
        return _as_dataset(paths, split, labels, self._classes)


def _real_file(path: str, real_folder: Callable[[str], str]) -> str:
    """As `os.path.realpath`, which looks at all the folders above each file."""
    folder, name = os.path.split(path)
    place = os.path.join(real_folder(folder), name)
    if not os.path.islink(place):
        return place
    folder, name = os.path.split(os.path.join(os.path.dirname(place), _link_target(place)))
    target = os.path.join(real_folder(folder), name)
    return os.path.realpath(place) if name in ("", os.curdir, os.pardir) or os.path.islink(target) else target


def _link_target(link: str) -> str:
    r"""Where a link leads, written as other paths are: without the `\\?\` or `\\?\UNC\` that Windows puts before it."""
    target = os.readlink(link)
    if target.startswith("\\\\?\\UNC\\"):
        return "\\\\" + target.removeprefix("\\\\?\\UNC\\")
    return target.removeprefix("\\\\?\\")


def files_dataset(paths: Sequence[str]) -> "datasets.Dataset":
    """Image files as a dataset; FormatError if a path is not Unicode, or its file is gone."""
    return _as_dataset(paths, "", None, ())


def _as_dataset(
    paths: Iterable[str], name: str, labels: Sequence[str | None] | None, classes: Sequence[str]
) -> "datasets.Dataset":
    import datasets
    import pyarrow as pa

    features: dict[str, Any] = {"image": datasets.Image()}
    chunks = []
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    remaining = iter(paths)
    while some := list(islice(remaining, _CHUNK)):  # not all as text and in the table at once
        unnamed = [path for path in some if not _is_text(path)]
        if unnamed:
            raise FormatError(f"{unnamed[0]}: the path of an image must be Unicode")
        digest.update("".join(map(_state_of, some)).encode())
        contents = [pa.nulls(len(some), pa.binary()), pa.array(some, pa.string())]
        chunks.append(pa.StructArray.from_arrays(contents, ["bytes", "path"]))
    columns = {"image": pa.chunked_array(chunks, features["image"].pa_type)}
    if labels is not None:
        features["label"] = datasets.ClassLabel(names=list(classes))
        number = {name: label for label, name in enumerate(classes)}
        columns["label"] = pa.array([name and number[name] for name in labels], pa.int64())
    schema = datasets.Features(features)
    return datasets.Dataset(
        pa.table(columns).cast(schema.arrow_schema),
        info=datasets.DatasetInfo(features=schema),
        split=datasets.NamedSplit(name) if name.isidentifier() else None,
        fingerprint=digest.hexdigest()[:16],
    )


def _state_of(path: str) -> str:
    """What the image in a file is known by: another file in its place is another image.

    Raises:
        FormatError: The file is gone or cannot be looked at.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    return f"{path}\n{status.st_size}\n{status.st_mtime_ns}\n"


def list_files(folder: Path) -> list[str]:
    """All files at any depth, sorted, by their paths in the folder; hidden files and folders are left out.

    Links are followed, also several to one folder, but not those that lead back to a folder around them.

    Raises:
        AccessError: A folder in it cannot be read.
    """
    found = []
    around: dict[str, tuple[str, ...]] = {}  # by folder: where those that it lies in really are
    for place, names, files in os.walk(folder, followlinks=True, onerror=_refuse):
        real, outer = os.path.realpath(place), around.get(os.path.dirname(place), ())
        if any(f"{one}{os.sep}".startswith(f"{real.rstrip(os.sep)}{os.sep}") for one in outer):
            names.clear()
            continue
        around[place] = (*outer, real)
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in _JUNK)
        inner = os.path.relpath(place, folder)
        prefix = "" if inner == os.curdir else os.path.join(inner, "")
        found += [prefix + name for name in files if not name.startswith(".")]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise AccessError(f"the folder {error.filename} cannot be read: {error.strerror}") from error


def _splits(images: Sequence[str]) -> dict[str, _Split]:
    top, groups = _outermost(images)
    loose = len(images) > sum(map(len, groups.values()))
    words = [name for name in groups if name.lower() in _SPLIT_WORDS]
    classed = any(path.count(os.sep) > top + 1 for name in words for path in groups[name])
    if not words or (not classed and (loose or len(words) < len(groups))):
        return {_ONE_SPLIT: _labelled(images, top)}
    names = [split_of(name) for name in groups]
    names = names if len(set(names)) == len(names) else list(groups)
    return {name: _labelled(group, top + 1) for name, group in zip(names, groups.values(), strict=True)}


def _outermost(images: Sequence[str]) -> tuple[int, dict[str, list[str]]]:
    """The depth of the folders that may be splits, below folders that are alone, and the images in each of them."""
    top = 0
    while True:
        groups: dict[str, list[str]] = {}
        for path in images:
            if path.count(os.sep) > top:
                groups.setdefault(path.split(os.sep, top + 1)[top], []).append(path)
        first = next(iter(groups), "")
        if not groups or len(groups[first]) < len(images) or first.lower() in _SPLIT_WORDS:
            return top, groups
        inner = {path.split(os.sep, top + 2)[top + 1].lower() for path in images if path.count(os.sep) > top + 1}
        if not inner & _SPLIT_WORDS.keys():
            return top, groups
        top += 1


def _labelled(images: Sequence[str], depth: int) -> _Split:
    """The class of an image is the folder that it lies in, below `depth`."""
    labels = [intern(path.rsplit(os.sep, 2)[-2]) if path.count(os.sep) > depth else None for path in images]
    return _Split(images, labels)


def _is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_ENDINGS)


def _is_usable(path: str) -> bool:
    return _is_image(path) and _is_text(path)


def _is_text(path: str) -> bool:
    """Whether a path is Unicode: tables cannot hold others."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def _has_configs(folder: Path) -> bool:
    """Whether the folder's README.md says, as on the Hub, what its splits are."""
    readme = folder / "README.md"
    if not readme.is_file():
        return False
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.startswith(("configs:", "dataset_info:")) for line in lines)


def _say_what_is_left(folder: Path, left: Sequence[str]) -> None:
    images = [path for path in left if _is_usable(path)]
    unnamed = [path for path in left if not _is_text(path)]
    others = [
        path
        for path in left
        if not _is_image(path) and _is_text(path) and not os.path.basename(path).lower().startswith(_BESIDES)
    ]
    for noun, where, paths in (
        ("image", " beside the folders of the splits", images),
        ("file", " with a name that is not Unicode", unnamed),
        ("file", " of another kind than images", others),
    ):
        if paths:
            warn(f"{folder}: {left_out(len(paths), noun, where)}: {some_of(paths)}")


def left_out(count: int, noun: str, where: str = "") -> str:
    """That so many are left out: "1 file is left out", "2 files are left out"."""
    return f"{count:,} {noun}{where} is left out" if count == 1 else f"{count:,} {noun}s{where} are left out"


def some_of(paths: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(paths[:_LISTED]) + (", ..." if len(paths) > _LISTED else "")
