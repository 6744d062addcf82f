"""Model cards, from the config and the measured results alone; what is not known is left out.

A card never computes accuracies and never asks the Hub. Its results stand between two HTML comments, so that a later
push can replace them and leave the rest of a README to its author (`merge_card`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData

from hf_rws.errors import FormatError, NotFoundError

RESULTS_BEGIN = "<!-- hf-rws:results -->"
RESULTS_END = "<!-- /hf-rws:results -->"

_TASK = "image-classification"
_RESULTS = re.compile(f"{re.escape(RESULTS_BEGIN)}.*?{re.escape(RESULTS_END)}", re.DOTALL)
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_OUR_TAGS = ("corruption:", "rws-")  # tags with these beginnings say what a signature is: stale ones are taken off
_USERS_FIRST = ("license", "license_name", "license_link")  # metadata that a card's author knows better
_MODELS = (("standard", "standard"), ("patched", "patched"), ("robust", "robust model"))  # rows of the results
_LOCAL = " (local)"  # what is left of a path is its last component, and this
_PATH = re.compile(r"[/~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\")
_SECRET = re.compile(r"token|secret|password|api_?key|credential", re.IGNORECASE)
_UNSAFE = str.maketrans({"|": "/", "`": "'", '"': "'", "<": "(", ">": ")", "[": "(", "]": ")", "\\": "/"})


def signature_card(
    config: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    nbytes: int | None = None,
    license: str | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """The README.md of a signature.

    Args:
        config: The signature's config.json.
        repo_id: "user/name" on the Hub, or the name of a local folder: for the title and the usage snippet.
        nbytes: Size of signature.safetensors; the config's metrics may say it too.
        license: The base's license, as the Hub writes it (e.g. "apache-2.0").
        pictures: File names of pictures in the repo.
    """
    config = _clean(config)
    base, corruption = config.get("base_model") or {}, config.get("corruption") or {}
    metrics, method = config.get("metrics") or {}, config.get("method") or {}
    names = corruption.get("names") or [name for name in [corruption.get("name")] if name]
    where = _clean(repo_id or "-".join(["rws", *names]))
    name = where.rpartition("/")[2]
    data = ModelCardData(
        library_name="hf-rws",
        base_model=base.get("repo_id"),
        base_model_relation="adapter" if base.get("repo_id") else None,
        pipeline_tag=_TASK,
        datasets=_hub_ids(corruption.get("dataset"), metrics.get("dataset")),
        metrics=["accuracy"],
        license=license,
        tags=[
            "robust-weight-signatures",
            "rws",
            *([f"rws-{method['kind']}"] if method.get("kind") else []),
            *(f"corruption:{name.replace(' ', '-')}" for name in names),
        ],
        **_model_index(name, _signature_results(metrics, names)),
    )
    nbytes = nbytes or metrics.get("signature_nbytes")
    return _render(
        "signature.md.jinja",
        data,
        name=name,
        where=where,
        base=base,
        names=names,
        corruption=corruption,
        method=method,
        training=_rows(method.get("training") or {}),
        layers=_layers(config.get("tensors") or []),
        tensors=config.get("tensors") or [],
        nbytes=nbytes,
        base_nbytes=metrics.get("base_nbytes"),
        download_nbytes=metrics.get("download_nbytes"),
        scale=config.get("recommended_scale", 1.0),
        metrics=metrics,
        models=[(label, metrics[key]) for key, label in _MODELS if metrics.get(key)],
        pictures=_pictures(pictures),
    )


def base_card(
    config: Mapping[str, Any],
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
    nbytes: int | None = None,
    license: str | None = None,
    needs_import: bool = False,
    pictures: Sequence[str] = (),
) -> str:
    """The README.md of a base: an ordinary timm repo.

    Args:
        config: timm's config.json.
        training: How it was trained (training_args.json); paths and secrets in it are left out.
        metrics: `{"ta": 0.7, "ra": {"fog-5": 0.3}, "n": 10000}`, accuracies in [0, 1]; also "dataset" and "split".
        repo_id: "user/name" on the Hub, or the name of a local folder: for the title and the usage snippet.
        nbytes: Size of model.safetensors.
        license: The license as the Hub writes it; by default the one in timm's config.
        needs_import: Whether timm knows the architecture only after `import hf_rws`.
        pictures: File names of pictures in the repo.
    """
    config, training, metrics = _clean(config), _clean(training or {}), _clean(metrics or {})
    pretrained = config.get("pretrained_cfg") or {}
    where = _clean(repo_id or config.get("architecture", "model"))
    name = where.rpartition("/")[2]
    dataset = metrics.get("dataset") or training.get("dataset")
    data = ModelCardData(
        library_name="timm",
        pipeline_tag=_TASK,
        datasets=_hub_ids(dataset),
        metrics=["accuracy"],
        license=license or pretrained.get("license"),
        tags=["timm", _TASK, "robust-weight-signatures"],
        **_model_index(name, _base_results({"dataset": dataset, **metrics})),
    )
    return _render(
        "base.md.jinja",
        data,
        name=name,
        where=where,
        on_the_hub="/" in where,
        needs_import=needs_import,
        config=config,
        pretrained=pretrained,
        training=_rows(training),
        metrics=metrics,
        dataset=dataset,
        nbytes=nbytes,
        pictures=_pictures(pictures),
    )


def merge_card(existing: str, fresh: str) -> str:
    """The README of a repo, brought up to date: its text stays, its metadata and results are renewed.

    New metadata wins over old, but the license and all that the new card says nothing about stay as they are; tags
    come together. Results are replaced between their markers, or added at the end where there are none. A README
    without text becomes the new card.

    Raises:
        FormatError: The metadata of the existing README cannot be read.
    """
    windows = "\r\n" in existing
    old, new = _parse(existing.replace("\r\n", "\n")), _parse(fresh)
    metadata = old.data.to_dict() | new.data.to_dict()
    metadata |= {key: value for key, value in old.data.to_dict().items() if key in _USERS_FIRST}
    metadata["tags"] = _merged_tags(old.data.get("tags"), new.data.get("tags"))
    if "model-index" not in new.data:
        metadata.pop("model-index", None)  # results of weights that are gone
    old.data.__dict__.clear()
    old.data.__dict__.update(metadata)
    old.text = _merged_text(old.text, new.text)
    return str(old).replace("\n", "\r\n") if windows else str(old)


# --- metadata ---


def _model_index(name: str, results: list[EvalResult]) -> dict[str, Any]:
    return {"model_name": name, "eval_results": results} if results else {}


def _signature_results(metrics: Mapping[str, Any], names: Sequence[str]) -> list[EvalResult]:
    label = "+".join(names)
    severity = metrics.get("severity")
    corrupted = label if severity is None else f"{label}-{severity}"
    return [
        result
        for key, model in _MODELS[:2]
        for metric, config in (("ta", None), ("ra", corrupted))
        if (result := _result(metrics, (metrics.get(key) or {}).get(metric), f"{metric.upper()}, {model}", config))
    ]


def _base_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    values = {None: metrics.get("ta"), **(metrics.get("ra") or {})}
    return [
        result
        for config, value in values.items()
        if (result := _result(metrics, value, "RA" if config else "TA", config))
    ]


def _result(metrics: Mapping[str, Any], value: Any, name: str, config: str | None) -> EvalResult | None:
    """One accuracy; the corruption stands in the dataset's config, because entries that share it are merged."""
    dataset = metrics.get("dataset")
    if dataset is None or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return EvalResult(
        task_type=_TASK,
        dataset_type=dataset if _hub_ids(dataset) else "custom",
        dataset_name=dataset.rpartition("/")[2],
        dataset_config=config,
        dataset_split=metrics.get("split"),
        metric_type="accuracy",
        metric_name=name,
        metric_value=round(value, 4),
    )


def _hub_ids(*names: Any) -> list[str] | None:
    """Those names that can be ids of datasets on the Hub, each once."""
    ids = [name for name in names if isinstance(name, str) and _HUB_ID.fullmatch(name)]
    return list(dict.fromkeys(ids)) or None


# --- text ---


def _render(template: str, data: ModelCardData, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_templates()),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": _percent, "size": _size}
    markers = {"results_begin": RESULTS_BEGIN, "results_end": RESULTS_END}
    text = environment.get_template(template).render(**markers, **values)
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _templates() -> Path:
    """The folder of the templates: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "model_cards", package.parent / "model_cards"):
        if (folder / "signature.md.jinja").is_file():
            return folder
    raise NotFoundError("the card templates are missing from this installation: install hf-rws again")


def _percent(accuracy: Any) -> str:
    return f"{100 * accuracy:.1f}" if isinstance(accuracy, (int, float)) and math.isfinite(accuracy) else ""


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:,.1f} kB"


def _clean(value: Any) -> Any:
    """The same value, its strings safe in a line of Markdown, a table and a Python string; no paths, no None."""
    if isinstance(value, str):
        if _PATH.match(value):
            value = re.split(r"[/\\]", value.rstrip("/\\"))[-1] + _LOCAL
        return " ".join(value.split()).translate(_UNSAFE)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value if item is not None]
    return value


def _rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A table of cleaned settings, without paths, secrets and what is empty or nested."""
    rows = []
    for key, value in settings.items():
        values = [str(item) for item in (value if isinstance(value, list) else [value])]
        hidden = isinstance(value, dict) or _SECRET.search(str(key)) or any(text.endswith(_LOCAL) for text in values)
        if any(values) and not hidden:
            rows.append((str(key), ", ".join(values)))
    return rows


def _pictures(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(_clean(re.sub(r"[-_]", " ", Path(name).stem)), quote(name)) for name in names]


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


# --- merging ---


def _parse(text: str) -> Any:
    from huggingface_hub import RepoCard

    try:
        return RepoCard(text if text.lstrip().startswith("---") else f"---\n\n---\n{text}")
    except Exception as error:
        raise FormatError(
            f"the metadata at the head of the README.md is not valid YAML: mend it there ({error})"
        ) from error


def _merged_tags(old: Any, new: Sequence[str]) -> list[str]:
    old = [old] if isinstance(old, str) else old or []
    kept = [tag for tag in old if not str(tag).startswith(_OUR_TAGS)]
    return list(dict.fromkeys([*kept, *new]))


def _merged_text(old: str, new: str) -> str:
    if not old.strip():
        return new
    found = _RESULTS.search(new)
    results = found[0] if found else f"{RESULTS_BEGIN}\n{RESULTS_END}"
    if _RESULTS.search(old):
        return _RESULTS.sub(lambda _: results, old, count=1)
    return f"{old.rstrip()}\n\n{results}\n" if found else old
