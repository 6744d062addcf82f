"""Datasets of the Hub and of folders as mappings from splits to rows, of which only those asked for are fetched."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_rws._progress import bars_as_ours
from hf_rws.data.folders import ImageFolder, left_out, list_files, open_image_folder, some_of, split_of
from hf_rws.errors import AccessError, FormatError, NotFoundError, OptionError, RWSError, warn

if TYPE_CHECKING:
    import datasets

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_PATTERN = re.compile(r"[\[*?]|::")  # what the library datasets takes for more than a name
_INFO = "dataset_info.json"
_SHORTEST_COMMIT = 7  # characters


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
        if "/" not in dataset:
            _ask_once(dataset)
        return _Built(dataset, dataset, config, revision)
    images = open_image_folder(folder) if config is None else None
    return _Built(_plainly_named(folder), dataset, config, None, folder) if images is None else images


def pick(splits: Mapping[str, Any], name: str) -> str | None:
    """The split of that name, or of what it is called usually ("validation" for "val"); None if there is none."""
    return next((known for known in (name, split_of(name)) if known in splits), None)


def check_disjoint(splits: Mapping[str, Any], one: str, other: str, dataset: str) -> None:
    """FormatError if two splits share a file, by whatever links."""
    if isinstance(splits, ImageFolder | _Built):
        places = list(splits.real_files(other))  # of the smaller one, as a rule
        known = set(places).intersection(splits.real_files(one))
        shared = sorted(path for path, real in zip(splits.files(other), places, strict=True) if real in known)
        if shared:
            files = f"{len(shared):,} file{'s' * (len(shared) > 1)}"
            raise FormatError(
                f"dataset {dataset!r}: the splits {one!r} and {other!r} share {files} ({some_of(shared)}): "
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
            except (FileNotFoundError, ConnectionError, ValueError) as error:
                if self._local or _was_answered(error):
                    raise
                self._parts = _built_earlier(path, config, revision)
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

    def __contains__(self, split: object) -> bool:
        return split in list(self)  # without building it

    def files(self, split: str) -> list[str]:
        """The files of a split, by their URLs; none where that is not known."""
        return [] if self._parts else list(self._files.get(split, ()))

    def real_files(self, split: str) -> Iterator[str]:
        """Where they really are, by links or not."""
        return map(os.path.realpath if self._local else str, self.files(split))

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
                f"{folder}: {left_out(len(left), 'file')}, as the names tell no split beside "
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
            nowhere = "" if self._local or "/" in dataset else f"there is no folder {dataset!r} here, and "
            raise NotFoundError(f"{nowhere}dataset {dataset!r} could not be loaded from {where}: {error}") from error
        except (ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
            if str(error).startswith(("Config name is missing", "BuilderConfig")):
                what = " ".join(str(error).splitlines()[:2])
                raise OptionError(f"dataset {dataset!r}: choose a configuration by config= ({what})") from error
            raise FormatError(f"dataset {dataset!r} could not be read: {error}") from error
        except OSError as error:
            raise AccessError(f"dataset {dataset!r} could not be read, or kept in the cache: {error}") from error


def _builder(path: str, config: str | None, revision: str | None, **options: Any) -> "datasets.DatasetBuilder":
    """What builds a dataset; NotFoundError if it is one that was built earlier, of another commit than `revision`."""
    import datasets  # slow to import; only needed when a dataset is read
    from datasets.packaged_modules.cache.cache import Cache

    builder = datasets.load_dataset_builder(path, config, revision=revision, **options)
    if isinstance(builder, Cache) and revision not in (None, "main") and not _is_commit(str(builder.hash), revision):
        raise NotFoundError(
            f"dataset {path!r}: the Hub cannot be asked for revision {revision!r}, and the cache holds commit "
            f"{builder.hash}; give that commit if it is the one that is meant"
        )
    return builder


def _is_commit(commit: str, revision: str) -> bool:
    return len(revision) >= _SHORTEST_COMMIT and commit.startswith(revision)


def _was_answered(error: Exception) -> bool:
    """Whether an error is the Hub's answer, so that nothing which is kept here may stand in for it."""
    import datasets

    if isinstance(error, ValueError):
        return not str(error).startswith("Couldn't find cache")
    answers = (datasets.exceptions.FileNotFoundDatasetsError, datasets.data_files.EmptyDatasetError)
    return isinstance(error, answers)


def repo_file(dataset: str, name: str, revision: str | None = None) -> Path:
    """A file of a dataset's repo on the Hub, asked for once; errors are FileNotFoundError and those of its client."""
    import datasets

    once = datasets.DownloadConfig(max_retries=0, disable_tqdm=True)
    manager = datasets.DownloadManager(download_config=once, record_checksums=False)
    return Path(manager.download(f"hf://datasets/{dataset}@{revision or 'main'}/{name}"))


def _ask_once(name: str) -> None:
    """NotFoundError if a name that may be a mistyped folder is not in the cache, and the Hub cannot be reached.

    The library `datasets` would try again and again, with pauses; where the Hub answers, that library says what it has.
    """
    import datasets

    if datasets.config.HF_HUB_OFFLINE or any(_is_kept(name, place) for place in _cache_folders()):
        return
    try:
        repo_file(name, "README.md")
    except FileNotFoundError:
        return
    except Exception as error:  # of whatever HTTP library the client uses; those with a response are answers
        if getattr(error, "response", None) is None:
            raise NotFoundError(f"there is no folder {name!r} here, and the Hub cannot be reached: {error}") from error


@bars_as_ours("datasets")
def _prepared(builder: "datasets.DatasetBuilder", split: str, **options: Any) -> "datasets.Dataset":
    builder.download_and_prepare(verification_mode="no_checks", **options)
    return builder.as_dataset(split)


def _parts_folder() -> str:
    """Where splits are kept that were built alone: each in a folder that looks like the whole cache of `datasets`."""
    import datasets

    return os.path.join(datasets.config.HF_DATASETS_CACHE, "hf_rws", "splits")


def _cache_folders() -> list[Path]:
    """The cache of `datasets`, and one for each split that was ever built alone."""
    import datasets

    parts = Path(_parts_folder())
    return [Path(datasets.config.HF_DATASETS_CACHE), *(sorted(parts.iterdir()) if parts.is_dir() else ())]


def _is_kept(path: str, place: Path) -> bool:
    from datasets.naming import camelcase_to_snakecase

    *owner, name = path.split("/")
    return (place / "___".join([*owner, camelcase_to_snakecase(name)])).is_dir()


def _built_earlier(path: str, config: str | None, revision: str | None) -> "dict[str, datasets.DatasetBuilder]":
    """Splits of a Hub dataset that are in the cache; NotFoundError if they are of other commits."""
    found, refused = {}, None
    for place in _cache_folders()[1:]:
        if not _is_kept(path, place):
            continue
        try:
            found[place.name] = _builder(path, config, revision, cache_dir=str(place))
        except NotFoundError as error:
            refused = error
        except (FileNotFoundError, ConnectionError, ValueError):
            continue
    if refused is not None and not found:
        raise refused
    return found


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
