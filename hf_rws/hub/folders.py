"""Pushing what lies in folders: a signature, a timm model, or a whole study with a collection."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from safetensors import safe_open

from hf_rws import cards
from hf_rws._files import README_NAME, is_file, read_json, read_json_lines, read_text, writing
from hf_rws._progress import bar
from hf_rws._transport import repos
from hf_rws._transport.collections import collect
from hf_rws._transport.headers import read_header
from hf_rws._transport.ids import REPO_ID, Location
from hf_rws._transport.pushing import destination, push_folder_files
from hf_rws.errors import AccessError, FormatError, MismatchError, NotFoundError, OptionError, RWSError
from hf_rws.fingerprints import has_fingerprint
from hf_rws.signature.config import CONFIG_NAME, WEIGHTS_NAME
from hf_rws.signature.signature import Signature, resolved_base
from hf_rws.timm_repo import METRICS_NAME, MODEL_NAME, TRAINING_NAME

BASE = "base"  # what a study calls the folder of its standard model

_LONGEST_TITLE = 59  # of a collection


@dataclass(frozen=True)
class PushedStudy:
    """What `push_all` has pushed.

    Attributes:
        base: Hub id of the base.
        commits: The commit of every repo, by Hub id; the present head where nothing had changed.
        collection: URL of the collection; None if there is to be none.
    """

    base: str
    commits: Mapping[str, CommitInfo] = field(repr=False)
    collection: str | None


def push_all(
    folder: str | os.PathLike[str],
    *,
    namespace: str | None = None,
    name: str | None = None,
    collection: str | bool = True,
    license: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    commit_message: str | None = None,
    progress: bool = False,
) -> PushedStudy:
    """Push a base and its signatures, as a study leaves them, and put them into a collection.

    `base/` becomes "namespace/name"; every folder with a signature beside it, such as `rws-fog/`, becomes
    "namespace/name-rws-fog", with the pushed base and its commit as `base_model` in its config. Nothing else is pushed,
    and nothing in the folder is changed. Pushed again, what has not changed makes no commit.

    Args:
        folder: Holds base/ and the folders of the signatures.
        namespace: User or organisation; by default the user whose token it is.
        name: Name of the base's repo, and what those of the signatures begin with; the folder's name if None.
        collection: Title of the collection, which is made if needed; True for one with the base's name, False for none.
        license: Of the base and its signatures, for their cards; by default what their README.md files name, and the
            base's for signatures that name none.
        private: Visibility of repos and collection that are made now; for repos that exist, what it must be.
        token: A token with write access; None for the one logged in with.
        commit_message: First line of the commits.
        progress: Show a bar.

    Raises:
        NotFoundError: There is no base in the folder.
        MismatchError: A signature there was not made from that base; nothing has been pushed.
        RWSError: Others, as `push_folder_files` raises them. What has been pushed until then stays: push again.
    """
    folder = Path(folder)
    if not is_file(folder / BASE / MODEL_NAME):
        raise NotFoundError(f"{os.fspath(folder)!r} holds no {BASE}/{MODEL_NAME}: give the folder of a study")
    found = sorted(path.parent for path in folder.glob(f"[!.]*/{WEIGHTS_NAME}"))
    signatures = {path.name: Signature.from_pretrained(path) for path in found if path.name != BASE}
    for signature in signatures.values():
        _check_base(signature, folder / BASE)
    namespace = namespace or _whoami(token)
    name = name or _name(folder)
    addresses = {BASE: f"{namespace}/{name}"} | {key: f"{namespace}/{name}-{key}" for key in signatures}
    for repo_id in addresses.values():
        if not REPO_ID.fullmatch(repo_id):
            raise OptionError(f"{repo_id!r} cannot be a Hub id: give another name, or rename the folder")
    options: dict[str, Any] = {"private": private, "token": token, "commit_message": commit_message}
    options["relicensed"] = license is not None
    of_base: str | None = None
    commits: dict[str, CommitInfo] = {}
    for key, repo_id in bar(addresses.items(), shown=progress, desc="pushing", unit="repo"):
        with writing("prepare the push"), tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary)
            if key == BASE:
                metrics = _base_metrics(folder / BASE, list(signatures.values()))
                _write_base(folder / BASE, target, addresses, metrics, license)
                of_base = cards.folder_license(target)
            else:
                at = Location("hub", addresses[BASE], commits[addresses[BASE]].oid)
                named = license or cards.folder_license(folder / key) or of_base
                _write_signature(folder / key, target, addresses, at, named)
            commits[repo_id] = push_folder_files(repo_id, target, _names(target), **options)
    url = None
    if collection:
        title = collection if isinstance(collection, str) else f"{name}: base and robust weight signatures"
        url = collect(title[:_LONGEST_TITLE], namespace, list(addresses.values()), private=bool(private), token=token)
    return PushedStudy(addresses[BASE], commits, url)


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    base: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    tag: str | None = None,
) -> CommitInfo:
    """Push one saved signature or timm model, with a card that loads it from the Hub. The folder stays as it is.

    Args:
        folder: Holds config.json and signature.safetensors or model.safetensors; nothing but these, the card and
            training_args.json is pushed, the latter without paths and secrets.
        repo_id: "user/name".
        base: Hub id, possibly with "@revision", of the model that a signature was made from, if its config names none.
            Where nobody names one, the card cannot say how to load the signature; a warning says so.
        license: For the card, as the Hub writes it, e.g. "apache-2.0"; by default what the folder's README.md names.
        private: This and all further options, the result and the errors are those of `push_folder_files`.
        token: See there.
        revision: See there.
        create_pr: See there.
        commit_message: See there.
        tag: See there.
    """
    destination(repo_id, revision, create_pr=create_pr, tag=tag)  # refuses what cannot be
    folder = Path(folder)
    with writing("prepare the push"), tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary)
        if is_file(folder / WEIGHTS_NAME):
            at = None if base is None else resolved_base(base, token)
            addresses = ({BASE: at.id} if at else {}) | {_name(folder): repo_id}
            _write_signature(folder, target, addresses, at, license or cards.folder_license(folder))
        elif is_file(folder / MODEL_NAME):
            if base is not None:
                raise OptionError(f"{os.fspath(folder)!r} holds a model, not a signature: leave out base")
            _write_base(folder, target, {_name(folder): repo_id}, _base_metrics(folder, ()), license)
        else:
            raise NotFoundError(
                f"{os.fspath(folder)!r} holds neither {WEIGHTS_NAME} nor {MODEL_NAME}; hf_rws.hub.save_base makes the "
                "latter of a model of your own"
            )
        return push_folder_files(
            repo_id,
            target,
            _names(target),
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            tag=tag,
            relicensed=license is not None,
        )


# --- what is pushed: written to a temporary folder ---


def _write_signature(
    source: Path, target: Path, addresses: Mapping[str, str], base: Location | None, license: str | None
) -> None:
    """A signature with its base filled in, and its card."""
    signature, name = Signature.from_pretrained(source).with_base(base), _name(source)
    existing, where = _text(source / README_NAME), str(source / README_NAME)
    if existing is not None and not cards.is_unedited(existing):
        (target / README_NAME).write_text(cards.readdress(existing, name, addresses, where=where), encoding="utf-8")
    signature.save_pretrained(target, repo_id=addresses[name], license=license)


def _write_base(
    source: Path, target: Path, addresses: Mapping[str, str], metrics: Mapping[str, Any], license: str | None
) -> None:
    """A timm repo, its training record without paths and secrets, and its card."""
    name, config = _name(source), _json(source / CONFIG_NAME)
    if not isinstance(config.get("architecture"), str):
        raise FormatError(f"{source / CONFIG_NAME}: not a timm model's config (it names no architecture)")
    read_header(Location("local", os.fspath(source)), source / MODEL_NAME, MODEL_NAME)
    for filename in (CONFIG_NAME, MODEL_NAME):
        shutil.copyfile(_no_link(source / filename), target / filename)
    training = cards.publishable(_json(source / TRAINING_NAME)) if is_file(source / TRAINING_NAME) else {}
    if training:
        (target / TRAINING_NAME).write_text(json.dumps(training, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    card = cards.base_card(
        config,
        training=training,
        metrics=metrics,
        repo_id=addresses[name],
        nbytes=(source / MODEL_NAME).stat().st_size,
        license=license or cards.folder_license(source),
    )
    existing, where = _text(source / README_NAME), str(source / README_NAME)
    if existing is not None and "merge" in cards.metadata_words(existing, "tags", where=where):
        card = cards.readdress(existing, name, addresses, where=where)
    elif existing is not None and not cards.is_unedited(existing):
        readdressed = cards.readdress(existing, name, addresses, where=where)
        card = cards.merge_card(readdressed, card, relicensed=license is not None, where=where)
    (target / README_NAME).write_text(card, encoding="utf-8")


def _base_metrics(folder: Path, signatures: Sequence[Signature]) -> dict[str, Any]:
    """What is known of a base's accuracy: from its training, and from the signatures that were measured on it."""
    metrics: dict[str, Any] = {}
    if is_file(folder / METRICS_NAME):
        try:
            last = read_json_lines(folder / METRICS_NAME, str(folder / METRICS_NAME))[-1]
            accuracies = dict(last["test_accuracy"])
            metrics = {"ta": accuracies.pop("clean"), "ra": accuracies, "n": last["n"], "split": "test"}
        except (RWSError, ValueError, TypeError, KeyError, IndexError):
            metrics = {}
    for signature in signatures:
        measured, corruption = cards.checked_metrics(signature.config.metrics), signature.config.corruption
        standard, n = measured.get("standard", {}), metrics.get("n", measured.get("n"))
        if "ra" not in standard or measured.get("n") != n:
            continue
        label = corruption.label if corruption.severity is None else f"{corruption.label}-{corruption.severity}"
        metrics = {**{key: measured.get(key) for key in ("dataset", "split", "n")}, "ta": standard.get("ta"), **metrics}
        metrics["ra"] = {**metrics.get("ra", {}), label: standard["ra"]}
    return metrics


def _check_base(signature: Signature, base: Path) -> None:
    """MismatchError unless the signature was made from the weights in this folder."""
    names = [spec.name for spec in signature.config.tensors]
    try:
        with safe_open(base / MODEL_NAME, framework="pt") as weights:
            present = set(weights.keys())
            touched = {name: weights.get_tensor(name) for name in names if name in present}
    except Exception as error:
        raise FormatError(f"{base / MODEL_NAME}: not a safetensors file ({error})") from error
    if len(touched) < len(names) or not has_fingerprint(touched, signature.config.base_model.fingerprint):
        raise MismatchError(
            f"{signature.name} was not made from {base}: move it elsewhere and push it with push_folder, or put its "
            "base there"
        )


# --- the Hub ---


def _whoami(token: bool | str | None) -> str:
    if token is False:
        raise AccessError("a push needs a token: log in with `hf auth login`, or pass token=")
    return repos.whoami(Location("hub", "your account"), token)


# --- files ---


def _name(folder: Path) -> str:
    """What a folder is called, also the current one."""
    return os.path.basename(os.path.abspath(folder))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _no_link(path: Path) -> Path:
    if os.path.islink(path):
        raise OptionError(f"{path} is a link and is not pushed: put the file itself into the folder")
    return path


def _text(path: Path) -> str | None:
    """The text of a README; None if there is none."""
    return read_text(_no_link(path), str(path)) if os.path.exists(path) else None


def _json(path: Path) -> dict[str, Any]:
    return read_json(_no_link(path), str(path))
