"""Datasets of the Hub and of folders as mappings from splits to rows, of which only those asked for are fetched."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_rws._progress import bars_as_ours
from hf_rws.data.folders import ImageFolder, list_files, open_image_folder, some_of, split_of
from hf_rws.errors import AccessError, FormatError, NotFoundError, OptionError, RWSError, warn

if TYPE_CHECKING:
    import datasets

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PATTERN = re.compile(r"[\[*?]|::")  # what the library datasets takes for more than a name
_INFO = "dataset_info.json"


def open_dataset(
    dataset: str, *, config: str | None = None, revision: str | None = None
) -> Mapping[str, "datasets.Dataset"]:
    """The splits of a Hub dataset or a folder; each is fetched when it is asked for.

    Args:
        dataset: Hub id or folder.
        config: Name of the configuration, of a dataset that has several.
        revision: Revision of a Hub dataset.

    Raises:
        NotFoundError: There is no such dataset.
        OptionError: It has several configurations and none is named, or no such one.
        FormatError: It cannot be read.
    """
    folder = Path(dataset)
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(dataset):
            raise NotFoundError(f"dataset {dataset!r}: there is no such folder, and it is no Hub id (user/name)")
        return _Built(dataset, dataset, config, revision)
    images = open_image_folder(folder) if config is None else None
    return _Built(_plainly_named(folder), dataset, config, None, folder) if images is None else images


def pick(splits: Mapping[str, Any], name: str) -> str | None:
    """The split of that name, or of what it is called usually ("validation" for "val"); None if there is none."""
    return next((known for known in (name, split_of(name)) if known in splits), None)


def check_disjoint(splits: Mapping[str, Any], one: str, other: str, dataset: str) -> None:
    """FormatError if two splits share a file, by whatever links."""
    if isinstance(splits, ImageFolder | _Built):
        known = set(splits.real_files(one))
        pairs = zip(splits.files(other), splits.real_files(other), strict=True)
        shared = sorted(path for path, real in pairs if real in known)
        if shared:
            raise FormatError(
                f"dataset {dataset!r}: the splits {one!r} and {other!r} share {len(shared)} files ({some_of(shared)}): "
                "a test on them would be one on training images"
            )


class _Built(Mapping[str, "datasets.Dataset"]):
    """A dataset that the library `datasets` builds, one split at a time.

    What is built is kept where that library keeps it, but for a place for each split; a dataset that was built as a
    whole is taken from where it lies.
    """

    def __init__(
        self, path: str, dataset: str, config: str | None, revision: str | None, folder: Path | None = None
    ) -> None:
        self._dataset = dataset
        self._local = folder is not None
        self._parts: dict[str, Any] = {}  # builders of splits that were built earlier, where there is no network
        with self._errors():
            try:
                self._builder = _builder(path, config, revision)
            except (FileNotFoundError, ConnectionError, ValueError):
                self._parts = {} if self._local else dict(_built_earlier(path, config))
                if not self._parts:
                    raise
                return
        self._files = {str(split): files for split, files in (self._builder.config.data_files or {}).items()}
        self._features = self._builder.info.features
        if folder is not None:
            self._say_what_is_left(folder, path)

    def __iter__(self) -> Iterator[str]:
        if self._parts:
            return iter(self._parts)
        return iter(self._files or map(str, self._builder.info.splits or ()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def files(self, split: str) -> list[str]:
        """The files of a split, by their URLs; none where that is not known."""
        return [] if self._parts else list(self._files.get(split, ()))

    def real_files(self, split: str) -> list[str]:
        """Where they really are, by links or not."""
        files = self.files(split)
        return [os.path.realpath(file) for file in files] if self._local else files

    def __getitem__(self, split: str) -> "datasets.Dataset":
        with self._errors():
            if self._parts:
                return _prepared(self._parts[split], split)
            if not self._files or os.path.isfile(os.path.join(self._builder.cache_dir, _INFO)):
                return _prepared(self._builder, split)
            return self._one_split(split)

    def _one_split(self, split: str) -> "datasets.Dataset":
        import datasets

        files = datasets.data_files.DataFilesDict({split: self._files[split]})
        self._builder.config.data_files = files
        self._builder.info.size_in_bytes = None  # of all splits: the disk need not hold them
        self._builder.info.features = self._features  # not those of a split that was built before
        inner = os.path.relpath(self._builder.cache_dir, datasets.config.HF_DATASETS_CACHE)
        return _prepared(self._builder, split, output_dir=os.path.join(_parts_folder(), split, inner))

    def _say_what_is_left(self, folder: Path, path: str) -> None:
        """Of a folder without a README.md: files of the kind that is read, in no split."""
        used = {os.path.relpath(file, os.path.realpath(path)) for files in self._files.values() for file in files}
        endings = {os.path.splitext(file)[1] for file in used}
        left = [file for file in list_files(folder) if os.path.splitext(file)[1] in endings and file not in used]
        if left and not (folder / "README.md").is_file():
            warn(
                f"{folder}: {len(left):,} files are left out, as their names tell no split beside "
                f"{', '.join(self._files)}: {some_of(left)}"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What `datasets` raises, in our words."""
        import datasets

        dataset = self._dataset
        try:
            yield
        except RWSError:
            raise
        except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
            where = "the folder" if self._local else "the Hub (or the cache, when offline)"
            raise NotFoundError(f"dataset {dataset!r} could not be loaded from {where}: {error}") from error
        except (ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
            if str(error).startswith(("Config name is missing", "BuilderConfig")):
                what = " ".join(str(error).splitlines()[:2])
                raise OptionError(f"dataset {dataset!r}: choose a configuration by config= ({what})") from error
            raise FormatError(f"dataset {dataset!r} could not be read: {error}") from error
        except OSError as error:
            raise AccessError(f"dataset {dataset!r} could not be read, or kept in the cache: {error}") from error


def _builder(path: str, config: str | None, revision: str | None, **options: Any) -> "datasets.DatasetBuilder":
    import datasets  # slow to import; only needed when a dataset is read

    return datasets.load_dataset_builder(path, config, revision=revision, **options)


@bars_as_ours("datasets")
def _prepared(builder: "datasets.DatasetBuilder", split: str, **options: Any) -> "datasets.Dataset":
    builder.download_and_prepare(verification_mode="no_checks", **options)
    return builder.as_dataset(split)


def _parts_folder() -> str:
    """Where splits are kept that were built alone: each in a folder that looks like the whole cache of `datasets`."""
    import datasets

    return os.path.join(datasets.config.HF_DATASETS_CACHE, "hf_rws", "splits")


def _built_earlier(path: str, config: str | None) -> Iterator[tuple[str, "datasets.DatasetBuilder"]]:
    """Splits of a Hub dataset that are in the cache."""
    folder = Path(_parts_folder())
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            yield place.name, _builder(path, config, None, cache_dir=str(place))
        except (FileNotFoundError, ConnectionError, ValueError):
            continue


def _plainly_named(folder: Path) -> str:
    """The folder, or where its path would be taken for a pattern, one of links to what it holds."""
    import datasets

    real = folder.resolve()
    if not _PATTERN.search(str(real)):
        return str(folder)
    links = Path(datasets.config.HF_DATASETS_CACHE, "hf_rws", "folders", hashlib.sha256(bytes(real)).hexdigest()[:24])
    try:
        links.mkdir(parents=True, exist_ok=True)
        for left in set(os.listdir(links)) - set(os.listdir(real)):
            (links / left).unlink()
        for name in set(os.listdir(real)) - set(os.listdir(links)):
            (links / name).symlink_to(real / name)
    except OSError as error:
        raise AccessError(f"{folder} cannot be read under such a name ({error.strerror}): rename it") from error
    return str(links)
