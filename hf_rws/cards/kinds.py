"""The cards of a signature, of a base, and of a base with signatures baked in."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from huggingface_hub import ModelCardData

from hf_rws import plots
from hf_rws._files import README_NAME
from hf_rws.cards.metadata import (
    MODELS,
    TASK,
    base_facts,
    base_results,
    checked_metrics,
    corruption_facts,
    corruption_tag,
    dataset_ids,
    distillation_report,
    hub_ids,
    mapping,
    method_facts,
    model_index,
    scale_of,
    severity_tag,
    signature_results,
    tensor_facts,
    timm_facts,
)
from hf_rws.cards.text import clean, local_name, render, rows, titled
from hf_rws.errors import MissingExtraError
from hf_rws.models import is_ours

PICTURE_NAME = "before-and-after.png"


def signature_files(
    config: str, *, repo_id: str | None = None, nbytes: int | None = None, license: str | None = None
) -> dict[str, bytes]:
    """The card of a signature and, if matplotlib is installed and there are results, its picture; by file name.

    Args:
        config: The text of the signature's config.json.
        repo_id: As for `signature_card`.
        nbytes: Size of signature.safetensors.
        license: The base's license.
    """
    content, names = json.loads(config), []
    metrics = checked_metrics(content.get("metrics"))
    files = {}
    if "ta" in metrics.get("patched", {}) and "ra" in metrics.get("patched", {}):
        try:
            files[PICTURE_NAME] = plots.png(plots.before_and_after(metrics))
            names = [PICTURE_NAME]
        except MissingExtraError:
            pass
    download = nbytes and nbytes + len(config.encode())
    card = signature_card(
        content, repo_id=repo_id, nbytes=nbytes, download_nbytes=download, license=license, pictures=names
    )
    return {README_NAME: card.encode(), **files}


def signature_card(
    config: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    nbytes: int | None = None,
    download_nbytes: int | None = None,
    license: str | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """The README.md of a signature.

    Args:
        config: The signature's config.json; what is broken in its metrics is left out.
        repo_id: "user/name" on the Hub, or the name of a local folder: for the title and the usage snippet.
        nbytes: Size of signature.safetensors; the config's metrics may say it too.
        download_nbytes: Size of all files that loading it fetches; the config's metrics may say it too.
        license: The base's license, as the Hub writes it (e.g. "apache-2.0").
        pictures: File names of pictures in the repo.
    """
    config = clean(config)
    base, corruption = base_facts(config.get("base_model")), corruption_facts(config.get("corruption"))
    method, metrics = method_facts(config.get("method")), checked_metrics(config.get("metrics"))
    tensors, names, training = tensor_facts(config.get("tensors")), corruption["names"], method["training"]
    report = distillation_report(training, names) if method.get("kind") == "distilled" else {}
    where = clean(repo_id or "-".join(["rws", *names]))
    name = where.rpartition("/")[2]
    data = ModelCardData(
        library_name="hf-rws",
        base_model=base.get("repo_id"),
        base_model_relation="adapter" if base.get("repo_id") else None,
        pipeline_tag=TASK,
        datasets=dataset_ids(corruption.get("dataset"), metrics.get("dataset")),
        metrics=["accuracy"],
        license=clean(license),
        tags=[
            "robust-weight-signatures",
            "rws",
            *([f"rws-{method['kind']}"] if method.get("kind") else []),
            *(corruption_tag(name) for name in names),
            *([severity_tag(corruption["severity"])] if "severity" in corruption else []),
        ],
        **model_index(name, signature_results(metrics, names)),
    )
    return render(
        "signature.md.jinja",
        data,
        name=name,
        where=where,
        on_the_hub="/" in where,
        base=base,
        names=names,
        corruption=corruption,
        method=method,
        training=rows({key: value for key, value in training.items() if key not in report}),
        report=report,
        layers=_layers(tensors),
        tensors=tensors,
        nbytes=nbytes or metrics.get("signature_nbytes"),
        base_nbytes=metrics.get("base_nbytes"),
        download_nbytes=download_nbytes or metrics.get("download_nbytes"),
        scale=scale_of(config.get("recommended_scale")),
        metrics=metrics,
        models=[(label, metrics[key]) for key, label in MODELS if key in metrics],
        pictures=titled(pictures),
    )


def base_card(
    config: Mapping[str, Any],
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
    nbytes: int | None = None,
    license: str | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """The README.md of a base: an ordinary timm repo.

    Args:
        config: timm's config.json.
        training: How it was trained (training_args.json); paths and secrets in it are left out.
        metrics: `{"ta": 0.7, "ra": {"fog-5": 0.3}, "n": 10000}`, accuracies in [0, 1]; also "dataset" and "split".
        repo_id: "user/name" on the Hub, or the name of a local folder: for the title and the usage snippet.
        nbytes: Size of model.safetensors.
        license: The license as the Hub writes it. Without, it is that of timm's weights if the training started from
            these ("pretrained": true), else none: timm's config names one whatever the weights are.
        pictures: File names of pictures in the repo.
    """
    training = clean(mapping(training))
    dataset = mapping(metrics).get("dataset") or training.get("dataset")
    metrics = checked_metrics(clean({**mapping(metrics), "dataset": dataset}))
    values = _timm_values(config, repo_id, nbytes)
    data = ModelCardData(
        library_name="timm",
        pipeline_tag=TASK,
        datasets=dataset_ids(metrics.get("dataset")),
        metrics=["accuracy"],
        license=clean(license) or (values["pretrained"].get("license") if training.get("pretrained") is True else None),
        tags=["timm", TASK, "robust-weight-signatures"],
        **model_index(values["name"], base_results(metrics)),
    )
    return render(
        "base.md.jinja",
        data,
        **values,
        training=rows(training),
        metrics=metrics,
        dataset=metrics.get("dataset"),
        pictures=titled(pictures),
    )


def merged_card(
    config: Mapping[str, Any],
    lockfile: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    nbytes: int | None = None,
    license: str | None = None,
) -> str:
    """The README.md of a timm repo whose weights are a base with signatures added for good.

    Args:
        config: timm's config.json.
        lockfile: What `model.rws.lockfile()` gave. Of folders on this machine only the names are told.
        repo_id: As for `base_card`, and so are all further options.
        nbytes: See there.
        license: See there.
    """
    values = _timm_values(config, repo_id, nbytes)
    parts = [{"name": "base", **lockfile["base"]}, *lockfile["signatures"]]
    public = all(part.get("kind") in ("hub", "name") for part in parts)
    on_the_hub = hub_ids(*(part["id"] for part in parts if part.get("kind") == "hub"))
    data = ModelCardData(
        library_name="timm",
        base_model=on_the_hub,
        base_model_relation="merge" if on_the_hub else None,
        pipeline_tag=TASK,
        license=clean(license),
        tags=["timm", TASK, "robust-weight-signatures", "merge"],
    )
    return render(
        "merged.md.jinja",
        data,
        **values,
        parts=[clean(_part(part)) for part in parts],
        lockfile=json.dumps(clean(lockfile), indent=2) if public else None,
    )


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a lockfile's table."""
    id = part.get("id")
    return {**part, "id": local_name(id) if id and part.get("kind") == "local" else id}


def _timm_values(config: Mapping[str, Any], repo_id: str | None, nbytes: int | None) -> dict[str, Any]:
    """What the templates of timm repos say of the model."""
    facts, pretrained = timm_facts(clean(config))
    where = clean(repo_id) or facts.get("architecture", "model")
    return {
        "name": where.rpartition("/")[2],
        "where": where,
        "on_the_hub": "/" in where,
        "needs_import": is_ours(facts.get("architecture", "")),
        "config": facts,
        "pretrained": pretrained,
        "nbytes": nbytes,
    }


def _layers(tensors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each layer the number of tensors and of values, and the bits of its weights."""
    layers = []
    for index, group in groupby(sorted(tensors, key=lambda tensor: tensor["layer"]), key=lambda t: t["layer"]):
        members = list(group)
        weights = [tensor for tensor in members if tensor["kind"] == "weight"]
        layers.append(
            {
                "index": index,
                "tensors": len(members),
                "size": sum(math.prod(tensor["shape"]) for tensor in members),
                "bits": ", ".join(dict.fromkeys(str(tensor["bits"]) for tensor in weights or members)),
            }
        )
    return layers
