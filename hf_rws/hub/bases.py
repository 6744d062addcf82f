"""A timm model of one's own as a base: a timm repo with a card, in a folder or on the Hub."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import CommitInfo
from torch import nn

from hf_rws import cards
from hf_rws._files import README_NAME, check_room, output_folder
from hf_rws._transport.pushing import destination, push_folder_files
from hf_rws.bases import base_of_weights, check_preprocessing, license_of, load_base
from hf_rws.errors import FormatError, NotFoundError, OptionError
from hf_rws.layers import unwrap
from hf_rws.patching.patcher import check_clean
from hf_rws.timm_repo import CONFIG_NAME, MODEL_NAME, save_timm_repo

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_PREPROCESSING = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")


def save_base(
    source: nn.Module | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    label_names: Sequence[str] = (),
    preprocessing: Mapping[str, Any] = _NOTHING,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    license: str | None = None,
    overwrite: bool = False,
    token: bool | str | None = None,
    **model_options: Any,
) -> Path:
    """Make a base of a model of one's own: a folder that `load_patched`, `distill`, `push` and timm take.

    ```python
    hf_rws.hub.save_base("model.pt", "mybase", architecture="resnet18", preprocessing={"input_size": (3, 32, 32)})
    hf_rws.hub.save_base(model, "mybase")
    ```

    Args:
        source: A timm model; a file with the weights of one (`torch.save(model.state_dict(), ...)`, a checkpoint of
            timm's trainer, a safetensors file), of which only tensors are read; or what `load_base` takes.
        folder: Directory, made if needed. A README.md there keeps the text that its author wrote.
        architecture: timm's name of the model whose weights a file holds.
        label_names: Class names by index, as many as the model has classes.
        preprocessing: What images it was trained on, where that is not what timm says of the architecture: input_size
            (C, H, W), mean, std, crop_pct, crop_mode, interpolation.
        training: How it was trained, for the card (what training_args.json says).
        metrics: What it reaches, for the card: `{"ta": 0.7, "ra": {"fog-5": 0.3}, "n": 10000}`, accuracies in [0, 1].
        license: For the card, as the Hub writes it, e.g. "apache-2.0". By default that of `source` where it is known:
            of timm's own weights, or named by the README.md of a folder.
        overwrite: Write also into a folder that holds a model or something else already.
        token: Hub token for `source`; by default the stored one.
        model_options: Options of `timm.create_model` for a file, such as `num_classes` where it cannot be told.

    Returns:
        The folder.

    Raises:
        OptionError: It is no timm model, has signatures on, or is a file without an architecture; there are more or
            fewer names than classes; or the folder holds something already.
        FormatError: The file holds something else than tensors.
        MismatchError: Its tensors are not those of the architecture.
        RWSError: Others of its subclasses, as `load_base` raises them.
    """
    folder = output_folder(folder, "the base")
    check_room(folder, "the base", None, overwrite=overwrite)
    opened = _opened(source, architecture, label_names, preprocessing, model_options, token, "save")
    readme, relicensed = folder / README_NAME, license is not None
    fresh = _card(training, metrics, folder.resolve().name, license or opened.license)

    def card(config: dict[str, Any], nbytes: int) -> str:
        return cards.updated(readme, fresh(config, nbytes), relicensed=relicensed)

    return save_timm_repo(
        opened.model, folder, label_names=label_names, preprocessing=preprocessing, card=card, overwrite=overwrite
    )


def push_base(
    model: nn.Module | str | os.PathLike[str],
    repo_id: str,
    *,
    architecture: str | None = None,
    label_names: Sequence[str] = (),
    preprocessing: Mapping[str, Any] = _NOTHING,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    tag: str | None = None,
) -> CommitInfo:
    """Push a timm model as a timm repo with a card: `timm.create_model("hf-hub:user/name", pretrained=True)` loads it.

    Args:
        model: The model, without signatures on; or a file with its weights, or a folder, as `save_base` takes them.
        repo_id: "user/name".
        architecture: As for `save_base`, and so are label_names, preprocessing, training, metrics and license.
        label_names: See there.
        preprocessing: See there.
        training: See there.
        metrics: See there.
        license: See there.
        private: This and all further options, the result and the errors are those of `push_folder_files`.
        token: See there.
        revision: See there.
        create_pr: See there.
        commit_message: See there.
        tag: See there.
    """
    destination(repo_id, revision, create_pr=create_pr, tag=tag)
    opened = _opened(model, architecture, label_names, preprocessing, {}, token, "push")
    card = _card(training, metrics, repo_id, license or opened.license)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_timm_repo(
            opened.model, temporary, label_names=label_names, preprocessing=preprocessing, card=card
        )
        return push_folder_files(
            repo_id,
            folder,
            [CONFIG_NAME, MODEL_NAME, README_NAME],
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            tag=tag,
            relicensed=license is not None,
        )


@dataclass(frozen=True)
class _Opened:
    """A clean timm model of one's own, and the license of its weights if it is known."""

    model: Any
    license: str | None = None


def _opened(
    source: nn.Module | str | os.PathLike[str],
    architecture: str | None,
    label_names: Sequence[str],
    preprocessing: Mapping[str, Any],
    model_options: Mapping[str, Any],
    token: bool | str | None,
    verb: str,
) -> _Opened:
    """What is to be a base; errors as for `save_base`."""
    if unknown := [key for key in preprocessing if key not in _PREPROCESSING]:
        raise OptionError(f"preprocessing has no {', '.join(unknown)}; it has {', '.join(_PREPROCESSING)}")
    try:
        check_preprocessing(preprocessing, "preprocessing")
    except FormatError as error:
        raise OptionError(str(error)) from error
    if isinstance(source, nn.Module):
        opened = _Opened(_checked(unwrap(source), architecture, model_options, verb))
    elif os.path.isfile(source):
        opened = _Opened(base_of_weights(Path(source), architecture, **model_options))
    elif architecture is None:
        base = load_base(source if isinstance(source, str) else Path(source), token=token, **model_options)
        opened = _Opened(base.model, license_of(base.origin, base.model))
    elif os.path.isdir(source):
        raise OptionError(f"architecture={architecture!r} is for a file with weights; {source!r} says its own")
    else:
        raise NotFoundError(
            f"there is no file {os.fspath(source)!r}; architecture={architecture!r} is for a file with weights"
        )
    classes = opened.model.num_classes
    if label_names and len(label_names) != classes:
        raise OptionError(f"label_names must name every class, got {len(label_names)} names for {classes} classes")
    return opened


def _checked(model: nn.Module, architecture: str | None, model_options: Mapping[str, Any], verb: str) -> nn.Module:
    """A model that is one already; OptionError if it is none of timm's, has signatures on or is given options."""
    if architecture is not None or model_options:
        raise OptionError("architecture and options of it are for a file with weights; this is a model already")
    check_clean(model, verb)
    if not getattr(model, "pretrained_cfg", None):
        raise OptionError(f"{type(model).__name__} is not a timm model: it has no pretrained_cfg")
    return model


def _card(
    training: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None, repo_id: str, license: str | None
) -> Callable[[dict[str, Any], int], str]:
    def card(config: dict[str, Any], nbytes: int) -> str:
        return cards.base_card(
            config, training=training, metrics=metrics, repo_id=repo_id, nbytes=nbytes, license=license
        )

    return card
