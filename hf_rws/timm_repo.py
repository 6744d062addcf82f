"""The files of a timm repo: what they are called, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hf_rws._files import MODEL, README_NAME, check_room, output_folder, parse_json, write_together, writing
from hf_rws.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG_NAME = "config.json"
MODEL_NAME = "model.safetensors"
TRAINING_NAME = "training_args.json"  # our trainer's: how the model was trained
METRICS_NAME = "metrics.jsonl"  # our trainer's: what was measured meanwhile


def save_timm_repo(
    model: nn.Module,
    folder: str | Path,
    *,
    label_names: Sequence[str] = (),
    preprocessing: Mapping[str, Any] = MappingProxyType({}),
    card: Callable[[dict[str, Any], int], str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write any timm model as a timm repo: config.json and model.safetensors.

    `timm.create_model("local-dir:<folder>", pretrained=True)` loads it, and `hf-hub:` does once it is on the Hub. The
    files are complete before they replace older ones.

    Args:
        model: A timm model; its `pretrained_cfg` says what preprocessing is written.
        folder: Directory, made if needed.
        label_names: Class names by index; by default those in the `pretrained_cfg`, if there are any.
        preprocessing: What replaces parts of the `pretrained_cfg`: input_size, mean, std, crop_pct, ...
        overwrite: Write also into a folder that holds something else than a timm model.
        card: Makes the text of README.md from the config and the size of model.safetensors; without, none is written.

    Returns:
        The folder.

    Raises:
        OptionError: `folder` is a file, can be no folder or holds something else; or it is no timm model.
        AccessError: It cannot be written to, or the disk is full.
    """
    from safetensors.torch import save

    folder = output_folder(folder, "the model")
    check_room(folder, "the model", MODEL, overwrite=overwrite)
    contents = {
        CONFIG_NAME: _config(model, label_names, preprocessing),
        MODEL_NAME: save(_weights(model), metadata={"format": "pt"}),
    }
    if card is not None:
        contents[README_NAME] = card(parse_json(contents[CONFIG_NAME], CONFIG_NAME), len(contents[MODEL_NAME])).encode()
    write_together(folder, contents, what="the model")
    return folder


def drop_test_settings(config: dict[str, Any], given: Collection[str]) -> None:
    """Take from a `pretrained_cfg` what its architecture says of test images, where other images are `given`.

    timm prefers test_input_size and test_crop_pct to input_size and crop_pct, and those are of weights that are gone.

    Args:
        config: The `pretrained_cfg`, which changes.
        given: Keys that are set anew. A crop belongs to a size, and so goes with either.
    """
    if "input_size" in given:
        config.pop("test_input_size", None)
        config.pop("test_pool_size", None)
    if "input_size" in given or "crop_pct" in given:
        config.pop("test_crop_pct", None)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as safetensors takes it: no channels_last layout, and no two names for the same memory.

    A tensor that a model has under several names is written under each of them, since timm asks for all.
    """
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        if value.is_meta:
            raise OptionError(f"{name} is on the meta device: load the model's weights first, then save it")
        weights[name] = value.detach().cpu().contiguous()
        memory = weights[name].untyped_storage().data_ptr()
        if memory in seen:
            weights[name] = weights[name].clone()
        seen.add(memory)
    return weights


def _config(model: nn.Module, label_names: Sequence[str], preprocessing: Mapping[str, Any]) -> bytes:
    """The config as timm writes it, with the class names where the Hub looks for them, and there only."""
    from timm.models._hub import save_config_for_hf

    given: dict[str, Any] = {"label_names": list(label_names)} if label_names else {}
    given |= {"pretrained_cfg": dict(preprocessing)} if preprocessing else {}
    with writing("write a temporary file"), TemporaryDirectory() as temporary:
        path = Path(temporary, CONFIG_NAME)
        try:
            save_config_for_hf(model, str(path), model_config=given)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise OptionError(f"this model cannot be saved, its pretrained_cfg is none of timm's: {error}") from error
        config = parse_json(path.read_bytes(), CONFIG_NAME)
    drop_test_settings(config["pretrained_cfg"], preprocessing)
    if names := config["pretrained_cfg"].pop("label_names", None):
        config.setdefault("label_names", names)
    return json.dumps(config, indent=2).encode()
