"""The machine-readable head of a card: results, datasets, tags; made of what is well-formed and nothing else."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

TASK = "image-classification"
MODELS = (("standard", "standard"), ("patched", "patched"), ("robust", "robust model"))  # rows of the results

_LARGEST_SCALE = 1e6  # of a scale curve: what can be drawn
_MOST_POINTS = 1000  # of it
_MOST_NAMES = 50  # of corruptions

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_REPORTED = ("images", "held_out", "steps")  # of a distillation
_COUNTS = ("n", "seed", "severity", "base_nbytes", "signature_nbytes", "download_nbytes")


def corruption_tag(name: str) -> str:
    """The tag by which signatures against a corruption are found on the Hub."""
    return f"corruption:{'-'.join(name.split())}"


def hub_ids(*names: Any) -> list[str] | None:
    """Those names that can be ids of models on the Hub, each once."""
    return list(dict.fromkeys(name for name in names if _is_hub_id(name))) or None


def severity_tag(severity: int) -> str:
    """The tag that says how strong the corruption was."""
    return f"severity:{severity}"


def dataset_ids(*names: Any) -> list[str] | None:
    """Those names that are ids of datasets on the Hub, each once: a name without its owner may be a folder's."""
    return hub_ids(*(name for name in names if isinstance(name, str) and "/" in name))


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def base_facts(value: Any) -> dict[str, Any]:
    """What a card can show of a signature's base."""
    return _known(
        value, repo_id=_is_hub_id, revision=_is_text, architecture=_is_text, input_size=_are_numbers, mean=_are_numbers,
        std=_are_numbers,
    )  # fmt: skip


def corruption_facts(value: Any) -> dict[str, Any]:
    """What a card can show of a corruption; its "names", none, one or several, are always there."""
    given = mapping(value)
    names = given["names"] if isinstance(given.get("names"), list) else []
    names = [name for name in names if _is_text(name)][:_MOST_NAMES] or list(filter(_is_text, [given.get("name")]))
    return {**_known(given, severity=_is_count, dataset=_is_text), "names": names}


def method_facts(value: Any) -> dict[str, Any]:
    """What a card can show of how a signature was made; "training", perhaps empty, is always there."""
    found = _known(value, kind=_is_text, num_layers=_is_count, projection=_is_text, codec=_is_text)
    return {**found, "training": mapping(mapping(value).get("training"))}


def tensor_facts(value: Any) -> list[dict[str, Any]]:
    """Those of a signature's tensors that a card can show."""
    checks = {"name": _is_text, "shape": _are_sizes, "kind": _is_text, "layer": _is_index, "bits": _is_bits}
    found = [_known(entry, **checks) for entry in (value if isinstance(value, list) else ())]
    return [entry for entry in found if len(entry) == len(checks)]


def timm_facts(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a card can show of timm's config, and of the pretrained_cfg in it."""
    numbers = dict.fromkeys(("input_size", "mean", "std"), _are_numbers)
    pretrained = _known(mapping(value).get("pretrained_cfg"), license=_is_text, **numbers)
    return _known(value, architecture=_is_text, num_classes=_is_count), pretrained


def scale_of(value: Any) -> float:
    """The scale that a signature's maker recommends; 1 if there is none."""
    return value if _is_number(value, most=sys.float_info.max) else 1.0


def checked_metrics(metrics: Any) -> dict[str, Any]:
    """The metrics that a card can show; in a config from elsewhere anything may stand there, and is left out."""
    given = mapping(metrics)
    texts = ("dataset", "split", "attack")
    found: dict[str, Any] = {key: given[key] for key in texts if isinstance(given.get(key), str)}
    found |= {
        key: given[key] for key in _COUNTS if type(given.get(key)) is int and (key != "seed") <= given[key] < 2**63
    }
    for key, _ in MODELS:
        accuracies = {what: mapping(given.get(key)).get(what) for what in ("ta", "ra")}
        if row := {what: value for what, value in accuracies.items() if _is_accuracy(value)}:
            found[key] = row
    if _is_accuracy(given.get("ta")):
        found["ta"] = given["ta"]
    if ra := {
        name: value for name, value in mapping(given.get("ra")).items() if _is_accuracy(value) and _is_text(name)
    }:
        found["ra"] = ra
    curve = given.get("scale_curve")
    points = [mapping(point) for point in curve] if isinstance(curve, list) else []
    if 0 < len(points) <= _MOST_POINTS and all(
        _is_number(p.get("scale"), most=_LARGEST_SCALE) and _is_accuracy(p.get("ta")) and _is_accuracy(p.get("ra"))
        for p in points
    ):
        found["scale_curve"] = sorted(points, key=lambda point: point["scale"])
    return found


def distillation_report(training: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What a card can show of a distillation's record: the numbers of images and steps, and rows of the agreement."""
    found: dict[str, Any] = {key: training[key] for key in _REPORTED if _is_count(training.get(key))}
    agreement = mapping(training.get("agreement"))
    shares = {kind: mapping(agreement.get(kind)) for kind in ("clean", "corrupted")}
    labels = {"clean": "clean", "corrupted": f"under {' + '.join(names)}" if 0 < len(names) < 4 else "corrupted"}
    rows = [(labels[k], row) for k, row in shares.items() if _is_accuracy(row.get("before"), row.get("after"))]
    found |= {"helped": False} if training.get("helped") is False else {}
    return found | ({"agreement": rows} if rows else {})


def signature_results(metrics: Mapping[str, Any], names: Sequence[str]) -> list[EvalResult]:
    """TA and RA, standard against patched, of checked metrics."""
    label = "+".join(names)
    corrupted = f"{label}-{metrics['severity']}" if "severity" in metrics else label
    return [
        _result(metrics, metrics[key][metric], f"{metric.upper()}, {model}", config)
        for key, model in MODELS[:2]
        for metric, config in (("ta", None), ("ra", corrupted))
        if "dataset" in metrics and metric in metrics.get(key, {})
    ]


def base_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    """TA, and RA by corruption, of checked metrics."""
    if "dataset" not in metrics:
        return []
    clean = [_result(metrics, metrics["ta"], "TA", None)] if "ta" in metrics else []
    return clean + [_result(metrics, value, "RA", config) for config, value in metrics.get("ra", {}).items()]


def patched_accuracies(index: Any) -> dict[str, float]:
    """What a signature's model-index, from wherever, says of the patched model: "ta" and "ra" in [0, 1], if it does."""
    names = {f"{what.upper()}, patched": what for what in ("ta", "ra")}
    metrics = [
        mapping(metric)
        for model in _entries(index)
        for result in _entries(mapping(model).get("results"))
        for metric in _entries(mapping(result).get("metrics"))
    ]
    found: dict[Any, Any] = {
        metric.get("name"): metric.get("value") for metric in metrics if isinstance(metric.get("name"), str)
    }
    return {what: found[name] for name, what in names.items() if _is_accuracy(found.get(name))}


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def model_index(name: str, results: list[EvalResult]) -> dict[str, Any]:
    """Arguments of ModelCardData; none without results."""
    return {"model_name": name, "eval_results": results} if results else {}


def _result(metrics: Mapping[str, Any], value: float, name: str, config: str | None) -> EvalResult:
    """One accuracy; the corruption stands in the dataset's config, because entries that share it are merged."""
    dataset = metrics["dataset"]
    return EvalResult(
        task_type=TASK,
        dataset_type=dataset if dataset_ids(dataset) else "custom",
        dataset_name=dataset.rpartition("/")[2],
        dataset_config=config,
        dataset_split=metrics.get("split"),
        metric_type="accuracy",
        metric_name=name,
        metric_value=round(value, 4),
    )


def _known(value: Any, **checks: Callable[[Any], bool]) -> dict[str, Any]:
    """Those entries of an object that pass their checks."""
    given = mapping(value)
    return {key: given[key] for key, passes in checks.items() if key in given and passes(given[key])}


def _is_hub_id(value: Any) -> bool:
    return isinstance(value, str) and _HUB_ID.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(_is_number(item, most=1e6) for item in value)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) < 10 and all(map(_is_index, value))


def _is_index(value: Any) -> bool:
    return _is_count(value, at_least=0)


def _is_bits(value: Any) -> bool:
    return _is_count(value) or _is_text(value)


def _is_count(value: Any, *, at_least: int = 1) -> bool:
    return type(value) is int and at_least <= value < 2**63


def _is_number(value: Any, *, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= most


def _is_accuracy(*values: Any) -> bool:
    return all(_is_number(value, most=1) and value >= 0 for value in values)
