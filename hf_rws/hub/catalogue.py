"""Looking at signatures without downloading them: one by its id, and those on the Hub by what they are for."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from huggingface_hub import is_offline_mode

from hf_rws import cards
from hf_rws._choices import SORTS
from hf_rws._files import LARGEST_JSON, is_file, parse_json, read_bytes
from hf_rws._text import one_line
from hf_rws._transport.exchange import ask_pages
from hf_rws._transport.headers import Header, read_header
from hf_rws._transport.ids import COMMIT, REPO_ID, Location, parse_id
from hf_rws._transport.reading import fetch
from hf_rws.cards.metadata import checked_metrics, corruption_tag
from hf_rws.errors import FormatError, IntegrityError, OptionError
from hf_rws.signature.config import (
    ARRAYS,
    CONFIG_NAME,
    WEIGHTS_NAME,
    SignatureConfig,
    StoredBits,
    array_lengths,
    parse_config,
)
from hf_rws.signature.saving import read_folder
from hf_rws.timm_repo import MODEL_NAME

_ORDERS = dict(zip(SORTS, ("createdAt", "downloads", "lastModified", "likes", "trendingScore"), strict=True))
_PAGE = 100  # models that are asked for at once

# What a listing brings of each model: enough to tell two signatures of one name apart.
_SHOWN = ("tags", "sha", "private", "downloads", "likes", "lastModified", "model-index")
_SEVERITIES = ("1", "2", "3", "4", "5")

_OURS = ("robust-weight-signatures", "rws")  # tags of every signature's card; the Hub does not know our library


@dataclass(frozen=True, repr=False)
class SignatureInfo:
    """What a signature is, from its config and the header of its weight file.

    Attributes:
        id: "user/name", or the folder.
        revision: The commit on the Hub.
        corruptions: What it makes robust to.
        severity: Severity of the corruption, 1 to 5, if it has one.
        dataset: What it was made on.
        base_model: Hub id of the model that it was made from, if it has one.
        base_revision: That model's commit.
        architecture: That model's architecture.
        num_classes: How many classes that model tells apart.
        kind: "extracted", "distilled" or "combined".
        num_layers: How many first layers it touches.
        bits: How the weights of each of these layers are stored: 1 to 8, "ternary", 16 or 32.
        recommended_scale: The scale that its maker recommends.
        nbytes: Size of signature.safetensors.
        download_nbytes: Size of all that loading it fetches, config.json included.
        metrics: What was measured, as far as it is well-formed: "standard", "patched" and "robust", each {"ta", "ra"}
            in [0, 1]; "scale_curve"; "dataset", "split", "n".
        misfits: Why it cannot be put on the base that was asked about: empty if it can. None if none was.
    """

    id: str
    revision: str | None
    corruptions: tuple[str, ...]
    severity: int | None
    dataset: str | None
    base_model: str | None
    base_revision: str | None
    architecture: str
    num_classes: int
    kind: str
    num_layers: int
    bits: tuple[StoredBits, ...]
    recommended_scale: float
    nbytes: int
    download_nbytes: int
    metrics: Mapping[str, Any]
    misfits: tuple[str, ...] | None = None

    @property
    def fits(self) -> bool | None:
        """Whether it can be put on the base that was asked about; None if none was."""
        return None if self.misfits is None else not self.misfits

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps({**asdict(self), "fits": self.fits}, indent=2)

    def __repr__(self) -> str:
        base = f"{_at(self.base_model, self.base_revision)}, " if self.base_model else ""
        fits = "yes (architecture, names and shapes)" if self.fits else "; ".join((self.misfits or ())[:3])
        lines = [
            ("signature", _at(self.id, self.revision)),
            ("corruption", ", ".join(self.corruptions) + (f", severity {self.severity}" if self.severity else "")),
            ("base", f"{base}{self.architecture}, {self.num_classes} classes"),
            ("made by", f"{self.kind}, {self.num_layers} layers"),
            ("bits", ", ".join(map(str, self.bits))),
            ("size", f"{self.nbytes:,} bytes; whole download {self.download_nbytes:,} bytes"),
            ("scale", f"{self.recommended_scale:g} recommended"),
            ("accuracy", _accuracy(self.metrics)),
            ("fits", fits),
        ]
        return "\n".join(f"{name:<11}{one_line(text)}" for name, text in lines if text)


def info(
    id: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> SignatureInfo:
    """Look at a signature: of its weights only the header is fetched, some 4 kB.

    Args:
        id: Folder or Hub id, possibly followed by "@revision".
        base: Folder or Hub id of a timm repo: `misfits` and `fits` say whether the signature can be put on it, from its
            config and the header of its weights. Whether it is the very base or a transfer shows when it is loaded.
        revision: Branch, tag or commit of the signature.
        token: As in huggingface_hub: None for the one logged in with, False for none.
        cache_dir: Instead of the Hub's own cache.
        local_files_only: Do not ask the Hub; HF_HUB_OFFLINE has the same effect.

    Raises:
        FormatError: It is no signature, or its weights are not what its config says; or the base is no timm model.
        NotFoundError: No such folder, repo, revision or file.
        AccessError: A private or gated repo, or a wrong token.
        NetworkError: The Hub cannot be reached; or offline, and not in the cache.
    """
    options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    where, config, config_nbytes, header = _look_at_signature(parse_id(id, revision=revision), options)
    _check_arrays(header, config, f"{where} {WEIGHTS_NAME}")
    origin, corruption, method = config.base_model, config.corruption, config.method
    bits = {spec.layer: spec.bits for spec in config.tensors}
    bits |= {spec.layer: spec.bits for spec in config.tensors if spec.kind == "weight"}
    return SignatureInfo(
        id=where.id,
        revision=where.revision,
        corruptions=corruption.names,
        severity=corruption.severity,
        dataset=corruption.dataset,
        base_model=origin.repo_id,
        base_revision=origin.revision,
        architecture=origin.architecture,
        num_classes=origin.num_classes,
        kind=method.kind,
        num_layers=method.num_layers,
        bits=tuple(bits[layer] for layer in sorted(bits)),
        recommended_scale=config.recommended_scale,
        nbytes=header.nbytes,
        download_nbytes=header.nbytes + config_nbytes,
        metrics=checked_metrics(config.metrics),
        misfits=None if base is None else _misfits(config, base, options),
    )


@dataclass(frozen=True)
class ListedSignature:
    """A signature on the Hub, as a listing shows it.

    Attributes:
        id: "user/name".
        corruptions: What it makes robust to, as its tags say.
        severity: Of that, 1 to 5, as they say too.
        kind: "extracted", "distilled" or "combined".
        ra: Accuracy under that with the signature on, in [0, 1], as its card says; None if it does not.
        ta: Accuracy on clean images with the signature on, likewise.
        base_model: Hub id of the model that it was made from.
        revision: The head of its main branch.
        private: Whether only its owner sees it.
        downloads: In the last 30 days.
        likes: How many.
        last_modified: When, in ISO format.
    """

    id: str
    corruptions: tuple[str, ...]
    severity: int | None
    kind: str | None
    ra: float | None
    ta: float | None
    base_model: str | None
    revision: str | None
    private: bool
    downloads: int
    likes: int
    last_modified: str | None


def list_signatures(
    *,
    base: str | None = None,
    corruption: str | Sequence[str] = (),
    kind: str | None = None,
    author: str | None = None,
    search: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    token: bool | str | None = None,
) -> list[ListedSignature]:
    """The signatures on the Hub that pass all filters; the Hub does the filtering.

    Args:
        base: Hub id of the model that they were made from.
        corruption: What they make robust to; of several names, all.
        kind: "extracted", "distilled" or "combined".
        author: User or organisation.
        search: A part of their ids.
        sort: One of `SORTS`; the Hub's own order if None.
        limit: At most so many.
        token: As in huggingface_hub; with one, your private ones are listed, too.

    Raises:
        OptionError: A base that is no Hub id, an unknown `sort`, or a limit below 1.
        NetworkError: The Hub cannot be reached, or is not to be (HF_HUB_OFFLINE).
        AccessError: A wrong token.
    """
    if sort is not None and sort not in SORTS:
        raise OptionError(f"sort must be one of {SORTS}, got {sort!r}")
    if limit is not None and limit < 1:
        raise OptionError(f"limit must be at least 1, got {limit!r}")
    tags = [*_OURS, *([f"rws-{kind}"] if kind else [])]
    tags += [corruption_tag(name) for name in ([corruption] if isinstance(corruption, str) else corruption)]
    if base is not None:
        where = parse_id(base if base.startswith("hf-hub:") else f"hf-hub:{base}")
        tags.append(f"base_model:adapter:{where.id}")
    page = _PAGE if limit is None else min(_PAGE, limit)
    asked: dict[str, Any] = {"filter": tags, "author": author, "search": search, "limit": page, "expand": _SHOWN}
    params = {name: value for name, value in asked.items() if value} | ({"sort": _ORDERS[sort]} if sort else {})
    found: list[ListedSignature] = []
    for models in ask_pages(Location("hub", "the Hub's list of models"), "/api/models", token=token, params=params):
        found += [_listed(model) for model in models if _is_model(model)]
        if limit is not None and len(found) >= limit:
            break
    return found[:limit]


def _is_model(model: Any) -> bool:
    """Whether an entry of the Hub's list names a model; what does not is left out."""
    return isinstance(model, dict) and isinstance(model.get("id"), str) and bool(REPO_ID.fullmatch(model["id"]))


def _listed(model: Mapping[str, Any]) -> ListedSignature:
    """What an entry says, as far as it is well-formed."""

    def said(name: str, kind: type) -> Any:
        value = model.get(name)
        return value if type(value) is kind else None

    tags = [tag for tag in said("tags", list) or () if isinstance(tag, str)]
    commit = said("sha", str)

    def after(prefix: str) -> list[str]:
        return [tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)]

    accuracies = cards.patched_accuracies(model.get("model-index"))
    return ListedSignature(
        id=model["id"],
        corruptions=tuple(after("corruption:")),
        severity=next((int(word) for word in after("severity:") if word in _SEVERITIES), None),
        kind=next(iter(after("rws-")), None),
        ra=accuracies.get("ra"),
        ta=accuracies.get("ta"),
        base_model=next(iter(after("base_model:adapter:")), None),
        revision=commit if commit and COMMIT.fullmatch(commit) else None,
        private=bool(said("private", bool)),
        downloads=said("downloads", int) or 0,
        likes=said("likes", int) or 0,
        last_modified=_iso(said("lastModified", str)),
    )


def _iso(time: str | None) -> str | None:
    """A time as the Hub writes it ("2026-01-31T12:00:00.000Z"), as Python does; None if it is none."""
    try:
        return datetime.fromisoformat(time.replace("Z", "+00:00")).isoformat() if time else None
    except ValueError:
        return None


def _look(asked: Location, weights: str, options: Mapping[str, Any]) -> tuple[Location, bytes, Header]:
    """Where a repo is, pinned to a commit; its config.json; and the header of its weights."""
    fetched = fetch(asked, (CONFIG_NAME,), **options)
    where = replace(asked, revision=fetched.revision)
    if not is_file(fetched.folder / weights) and (
        where.path is not None or options["local_files_only"] or is_offline_mode()
    ):
        fetch(asked, (weights,), **options)  # says what is in the way
    text = read_bytes(fetched.folder / CONFIG_NAME, f"{where} {CONFIG_NAME}", limit=LARGEST_JSON)
    return where, text, read_header(where, fetched.folder / weights, weights, token=options["token"])


def _look_at_signature(asked: Location, options: Mapping[str, Any]) -> tuple[Location, SignatureConfig, int, Header]:
    """Where it is, its config, the size of that, and the header of its weights; a folder is read as a load reads it."""
    if asked.path is not None:
        fetch(asked, (CONFIG_NAME, WEIGHTS_NAME), **options)  # says what is missing
        path = asked.path / WEIGHTS_NAME
        try:
            saved = read_folder(asked.path, str(asked))
        except IntegrityError:
            text = read_bytes(asked.path / CONFIG_NAME, f"{asked} {CONFIG_NAME}", limit=LARGEST_JSON)
            config, _ = parse_config(text, f"{asked} {CONFIG_NAME}")
            _check_arrays(read_header(asked, path, WEIGHTS_NAME), config, f"{asked} {WEIGHTS_NAME}")  # may say more
            raise
        return asked, saved.config, saved.config_nbytes, read_header(asked, path, WEIGHTS_NAME, content=saved.weights)
    where, text, header = _look(asked, WEIGHTS_NAME, options)
    config, _ = parse_config(text, f"{where} {CONFIG_NAME}")
    return where, config, len(text), header


def _check_arrays(header: Header, config: SignatureConfig, where: str) -> None:
    """FormatError unless the weight file holds just the arrays that the config asks for."""
    lengths = array_lengths(config.tensors, config.method.codec, where)
    expected = {name: (ARRAYS[name], (length,)) for name, length in lengths.items() if length}
    if {name: found for name, found in header.tensors.items() if found[1] != (0,)} != expected:
        raise FormatError(f"{where}: holds {dict(header.tensors)!r:.300}, config.json asks for {expected}")


def _misfits(config: SignatureConfig, base: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[str, ...]:
    where, text, header = _look(parse_id(base), MODEL_NAME, options)
    architecture = parse_json(text, f"{where} {CONFIG_NAME}").get("architecture")
    if not isinstance(architecture, str):
        raise FormatError(f"{where} {CONFIG_NAME}: not a timm model's config (it names no architecture)")
    problems = []
    if architecture != config.base_model.architecture:
        problems.append(f"the signature is for {config.base_model.architecture}, {where} is {architecture}")
    for spec in config.tensors:
        found = header.tensors.get(spec.name)
        if found is None:
            problems.append(f"{where} has no tensor {spec.name}")
        elif found[1] != spec.shape:
            problems.append(f"{spec.name} is {found[1]} in {where}, {spec.shape} in the signature")
    return tuple(problems)


def _at(id: str, revision: str | None) -> str:
    return f"{id}@{revision[:7]}" if revision else id


def _accuracy(metrics: Mapping[str, Any]) -> str:
    """TA and RA before and after, in percent; empty where one of the two is not known."""
    before, after = (metrics.get(who, {}) for who in ("standard", "patched"))
    both = [what for what in ("ta", "ra") if what in before and what in after]
    changes = ", ".join(f"{what.upper()} {100 * before[what]:.1f} -> {100 * after[what]:.1f}" for what in both)
    images = f" on {metrics['n']:,} images" if "n" in metrics else ""
    return f"{changes}{images}{' of ' + metrics['dataset'] if 'dataset' in metrics else ''}" if both else ""
