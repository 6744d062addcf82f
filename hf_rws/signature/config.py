"""The file format of a signature: config.json and signature.safetensors <-> checked Python values.

The bytes are specified in the README. Nothing read here chooses code, a path or another repo.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from hf_rws._files import LARGEST_JSON, parse_json
from hf_rws.errors import FormatError, OptionError, warn
from hf_rws.signature.bits import CODECS, Bits, BitsLike, packed_sizes, resolve_bits

if TYPE_CHECKING:
    from hf_rws.layers import Kind, LayerTensor

_FORMAT_VERSION = "1.0"
LIBRARY_NAME = "hf-rws"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "signature.safetensors"
ARRAYS = {"codes": "U8", "scales": "F16", "vectors": "F16", "values": "F32"}  # of the weight file, and their dtypes
_MOST_TENSORS = 10_000
_MOST_DIMENSIONS = 8
_MOST_VALUES = 2**40  # of a tensor: what can be addressed

_KINDS: tuple[Kind, ...] = ("weight", "vector", "running_mean", "running_var")
_METHODS = ("extracted", "distilled", "combined")
PROJECTIONS = ("weights", "all", None)
_TOP_LEVEL = {
    "format_version", "library_name", "hf_rws_version", "base_model", "corruption", "method", "tensors", "sha256",
    "recommended_scale", "metrics", "statistics",
}  # fmt: skip

StoredBits = Bits | Literal[16, 32]


@dataclass(frozen=True)
class TensorSpec:
    """One stored tensor.

    Attributes:
        name: Its name in the base's state dict.
        shape: Its shape.
        kind: "weight", "vector", "running_mean" or "running_var" (which holds a difference of log variances).
        layer: Index of its layer; 0 is the shallowest.
        bits: 1 to 8 or "ternary": quantized, in `codes` and `scales`; 16: float16, in `vectors`; 32: float32, in
            `values`.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    layer: int
    bits: StoredBits

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def sizes(self, codec: str) -> dict[str, int]:
        """How many elements it takes in each array."""
        if self.bits == 32:
            return {"values": self.numel}
        if self.bits == 16:
            return {"vectors": self.numel}
        codes, scales = packed_sizes(self.shape, self.bits, codec=codec)
        return {"codes": codes, "scales": scales}


def tensor_specs(
    tensors: Iterable[LayerTensor], shapes: Mapping[str, Sequence[int]], bits: BitsLike
) -> tuple[TensorSpec, ...]:
    """What is stored of the tensors of some first layers; errors as for `with_bits`."""
    return with_bits((TensorSpec(one.name, tuple(shapes[one.name]), one.kind, one.layer, 32) for one in tensors), bits)


def with_bits(tensors: Iterable[TensorSpec], bits: BitsLike) -> tuple[TensorSpec, ...]:
    """Specs with the storage that `bits` asks for: weights by layer, everything else float16 (float32 with None).

    Raises:
        OptionError: `bits` makes no sense, or is a list of another length than there are layers.
    """
    tensors = tuple(tensors)
    per_layer = resolve_bits(bits, 1 + max(spec.layer for spec in tensors))

    def stored(spec: TensorSpec) -> StoredBits:
        if spec.kind == "weight":
            chosen = per_layer[spec.layer]
            return 32 if chosen is None else chosen
        return 32 if bits is None else 16

    return tuple(replace(spec, bits=stored(spec)) for spec in tensors)


def array_lengths(tensors: Sequence[TensorSpec], codec: str, where: str) -> dict[str, int]:
    """How many elements each array has; FormatError if a tensor cannot be stored as it says."""
    lengths = dict.fromkeys(ARRAYS, 0)
    for spec in tensors:
        try:
            sizes = spec.sizes(codec)
        except OptionError as error:
            raise FormatError(f"{where}: tensor {spec.name!r} cannot be stored so ({error})") from error
        for name, size in sizes.items():
            lengths[name] += size
    return lengths


@dataclass(frozen=True)
class BaseModel:
    """The standard model that a signature was made from."""

    architecture: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, ...]
    fingerprint: Mapping[str, str]
    repo_id: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class CorruptionSpec:
    """What a signature makes robust to."""

    names: tuple[str, ...]
    severity: int | None = None
    dataset: str | None = None

    @property
    def label(self) -> str:
        """The name, or several names joined by "+"."""
        return "+".join(self.names)


@dataclass(frozen=True)
class Method:
    """How a signature was made."""

    kind: Literal["extracted", "distilled", "combined"]
    num_layers: int
    projection: Literal["weights", "all"] | None
    codec: str = "symmetric"
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SignatureConfig:
    """The content of config.json but for its versions and the weight file's sha256."""

    base_model: BaseModel
    corruption: CorruptionSpec
    method: Method
    tensors: tuple[TensorSpec, ...]
    recommended_scale: float = 1.0
    metrics: Mapping[str, Any] | None = None
    statistics: Mapping[str, Any] | None = None

    def with_bits(self, bits: BitsLike) -> SignatureConfig:
        """The same with tensors that are stored as `bits` says; errors as for the function of this name."""
        return replace(self, tensors=with_bits(self.tensors, bits))

    def to_json(self, *, version: str, sha256: str) -> str:
        """config.json as text, with sorted keys."""
        try:
            text = json.dumps(self._content(version, sha256), indent=2, sort_keys=True, allow_nan=False) + "\n"
            parse_config(text, "this config")  # what is written can be read again
        except (TypeError, ValueError, RecursionError, FormatError) as error:
            raise OptionError(f"this signature cannot be saved: {error}") from error
        return text

    def _content(self, version: str, sha256: str) -> dict[str, Any]:
        corruption = asdict(self.corruption)
        names = corruption.pop("names")
        corruption |= {"name": names[0]} if len(names) == 1 else {"names": list(names)}
        return {
            "format_version": _FORMAT_VERSION,
            "library_name": LIBRARY_NAME,
            "hf_rws_version": version,
            "base_model": asdict(self.base_model),
            "corruption": corruption,
            "method": asdict(self.method),
            "tensors": [asdict(spec) for spec in self.tensors],
            "sha256": sha256,
            "recommended_scale": self.recommended_scale,
            **{key: value for key in ("metrics", "statistics") if (value := getattr(self, key)) is not None},
        }


def parse_config(text: str | bytes, where: str) -> tuple[SignatureConfig, str]:
    """Read config.json.

    Args:
        text: The file's content.
        where: What to call the file in errors, e.g. "user/rws-fog@abc config.json".

    Returns:
        The config and the sha256 that the weight file must have.

    Raises:
        FormatError: It is no config of a signature, is broken, or is of a newer major format version.
    """
    read = _Reader(_object(text, where), where)
    version = read("format_version", str)
    if version.split(".")[0] != _FORMAT_VERSION.split(".")[0]:
        raise FormatError(
            f"{where}: format_version {version} is not one that this hf-rws reads ({_FORMAT_VERSION}); if it is newer, "
            "upgrade: pip install -U hf-rws"
        )
    entries = _entries(read, where)
    if unknown := _unknown_keys(read.data):
        warn(f"{where}: ignoring unknown keys {', '.join(unknown)[:300]}")
    base, corruption, method = (
        _Reader(read(key, dict), f"{where}: {key}") for key in ("base_model", "corruption", "method")
    )
    names = corruption.strings("names") if "names" in corruption.data else (corruption("name", str),)
    config = SignatureConfig(
        base_model=BaseModel(
            architecture=base("architecture", str),
            num_classes=base("num_classes", int),
            mean=base.numbers("mean"),
            std=base.numbers("std"),
            input_size=base.sizes("input_size"),
            fingerprint=base("fingerprint", dict),
            repo_id=base.optional("repo_id", str),
            revision=base.optional("revision", str),
        ),
        corruption=CorruptionSpec(
            names=names,
            severity=None
            if corruption.data.get("severity") is None
            else corruption.choice("severity", (1, 2, 3, 4, 5)),
            dataset=corruption.optional("dataset", str),
        ),
        method=Method(
            kind=method.choice("kind", _METHODS),
            num_layers=method.count("num_layers"),
            projection=method.choice("projection", PROJECTIONS),
            codec=method.choice("codec", CODECS),
            training=method.optional("training", dict) or {},
        ),
        tensors=tuple(_parse_tensor(entry, f"{where}: tensor {i}") for i, entry in enumerate(entries)),
        recommended_scale=read.numbers("recommended_scale", (read.data.get("recommended_scale"),))[0],
        metrics=read.optional("metrics", dict),
        statistics=read.optional("statistics", dict),
    )
    repeated = [spec.name for spec in config.tensors]
    if len(set(repeated)) != len(repeated) or not repeated:
        raise FormatError(f"{where}: tensors must be at least one, each named once")
    if not config.corruption.names:
        raise FormatError(f"{where}: corruption has no name")
    return config, read("sha256", str)


def _object(text: str | bytes, where: str) -> dict[str, Any]:
    data = parse_json(text, where, limit=LARGEST_JSON)
    if "architecture" in data:
        raise FormatError(f"{where}: this is a timm model's config, not a signature's")
    return data


def _entries(read: _Reader, where: str) -> list[Any]:
    entries: list[Any] = read("tensors", list)
    if len(entries) > _MOST_TENSORS:
        raise FormatError(f"{where}: lists {len(entries):,} tensors; at most {_MOST_TENSORS:,} are read")
    return entries


def _unknown_keys(data: Mapping[str, Any]) -> list[str]:
    """Keys that this version does not read, those of inner objects as "method.shiny"; metrics hold what they like."""
    known = {
        "base_model": _names(BaseModel),
        "corruption": _names(CorruptionSpec) | {"name"},
        "method": _names(Method),
        "tensors": _names(TensorSpec),
    }
    found = set(data.keys() - _TOP_LEVEL)
    for key, names in known.items():
        value = data.get(key)
        for entry in value if isinstance(value, list) else [value]:
            found |= {f"{key}.{name}" for name in entry.keys() - names} if isinstance(entry, dict) else set()
    return sorted(found)


def _names(described: type) -> set[str]:
    return {entry.name for entry in fields(described)}


def _parse_tensor(entry: Any, where: str) -> TensorSpec:
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: must be an object, not {type(entry).__name__}")
    read = _Reader(entry, where)
    return TensorSpec(
        name=read("name", str),
        shape=read.sizes("shape"),
        kind=read.choice("kind", _KINDS),
        layer=read.count("layer"),
        bits=read.choice("bits", (*range(1, 9), "ternary", 16, 32)),
    )


@dataclass(frozen=True)
class _Reader:
    """Typed access to a JSON object, with errors that say where."""

    data: dict[str, Any]
    where: str

    def __call__(self, key: str, kind: Any) -> Any:
        value = self.data.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FormatError(f"{self.where}: {key!r} is missing or of the wrong type ({value!r:.80})")
        return value

    def optional(self, key: str, kind: Any) -> Any:
        return None if self.data.get(key) is None else self(key, kind)

    def choice(self, key: str, choices: Sequence[Any]) -> Any:
        value = self.data.get(key)
        if isinstance(value, bool | dict | list | float) or value not in choices:
            raise FormatError(f"{self.where}: {key!r} must be one of {choices}, got {value!r:.80}")
        return value

    def numbers(self, key: str, given: Sequence[Any] | None = None) -> tuple[float, ...]:
        values = self._items(key, (int, float), given)
        if any(not -sys.float_info.max <= value <= sys.float_info.max for value in values):
            raise FormatError(f"{self.where}: {key!r} holds values that are not finite numbers ({values!r:.80})")
        return tuple(float(value) for value in values)

    def count(self, key: str) -> int:
        value = self(key, int)
        if not 0 <= value < 100_000:
            raise FormatError(f"{self.where}: {key!r} must be a number of layers, got {value!r:.80}")
        return value

    def sizes(self, key: str) -> tuple[int, ...]:
        values = self._items(key, int)
        if any(value < 0 for value in values):
            raise FormatError(f"{self.where}: {key!r} holds a negative size")
        if len(values) > _MOST_DIMENSIONS or math.prod(max(value, 1) for value in values) > _MOST_VALUES:
            raise FormatError(f"{self.where}: {key!r} is larger than any model's ({values!r:.80})")
        return tuple(values)

    def strings(self, key: str) -> tuple[str, ...]:
        return tuple(self._items(key, str))

    def _items(self, key: str, kind: Any, given: Sequence[Any] | None = None) -> Sequence[Any]:
        values = self(key, list) if given is None else given
        if any(not isinstance(value, kind) or isinstance(value, bool) for value in values):
            raise FormatError(f"{self.where}: {key!r} holds values of the wrong type ({values!r:.80})")
        return values
