"""`Signature`: what is added to the first layers of a model to make it robust, with its algebra and its files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

from hf_rws import cards
from hf_rws._files import README_NAME, SIGNATURE, check_room, output_folder, write_together
from hf_rws._text import one_line
from hf_rws._transport import repos
from hf_rws._transport.ids import Location, parse_id
from hf_rws._transport.pushing import push_folder_files
from hf_rws._transport.reading import fetch
from hf_rws._version import __version__
from hf_rws.errors import MismatchError, OptionError, warn
from hf_rws.signature._html import page
from hf_rws.signature.arrays import pack_arrays, read_arrays, tensor_parts, unpack_tensor
from hf_rws.signature.bits import BitsLike
from hf_rws.signature.config import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Method,
    SignatureConfig,
    TensorSpec,
)
from hf_rws.signature.saving import read_folder

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


@dataclass(frozen=True, eq=False, repr=False)
class Signature:
    """A robust weight signature. Make one by `extract` or `from_pretrained`, never by hand.

    Attributes:
        config: What it is for, what it was made from and how, and the list of its tensors.
        arrays: The flat arrays of signature.safetensors, on the CPU.
        name: What it is called when it is put on a model: the last part of its id, or its corruption.
        origin: Where it was loaded from, with the commit of a Hub repo; None if it was made in memory.

    Example:
        >>> base, foggy, snowy = (timm.create_model("resnet18", num_classes=10) for _ in range(3))
        >>> fog = hf_rws.extract(foggy, base, None, projection=None, corruption="fog")
        >>> snow = hf_rws.extract(snowy, base, None, projection=None, corruption="snow")
        >>> (0.5 * fog + snow).config.corruption.names
        ('fog', 'snow')
        >>> fog.quantize(bits=2).nbytes < fog.nbytes
        True
        >>> folder = fog.save_pretrained("rws-fog")
        >>> hf_rws.Signature.from_pretrained("rws-fog").sha256 == fog.sha256
        True
    """

    config: SignatureConfig
    arrays: Mapping[str, Tensor]
    name: str
    origin: Location | None = None

    @classmethod
    def from_deltas(
        cls,
        deltas: Mapping[str, Tensor],
        config: SignatureConfig,
        *,
        name: str | None = None,
    ) -> "Signature":
        """Quantize float32 tensors by name into a signature.

        Args:
            deltas: A tensor for each of `config.tensors`, which say in how many bits it is stored.
            config: The config.
            name: The signature's name; the corruption's label if None.

        Raises:
            OptionError: Values are not finite or too large for float16.
        """
        for spec in config.tensors:
            if not bool(torch.isfinite(deltas[spec.name]).all()):
                raise OptionError(f"{spec.name}: the difference holds NaN or infinite values; the models are broken")
        arrays = pack_arrays(deltas, config.tensors, config.method.codec)
        return cls(config, arrays, name or config.corruption.label)

    def __getstate__(self) -> dict[str, Any]:
        """For deepcopy and pickle: without the views of the arrays, each of which would take its whole array along."""
        return {key: value for key, value in self.__dict__.items() if key in self.__dataclass_fields__}

    def __repr__(self) -> str:
        config = self.config
        severity = "" if config.corruption.severity is None else f"-{config.corruption.severity}"
        return one_line(
            f"Signature({self.name!r}: {config.corruption.label}{severity} for {config.base_model.architecture}, "
            f"{config.method.kind}, {config.method.num_layers} layers, {self.nbytes:,} bytes)"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return page(self.name, self.config, self.nbytes, cards.checked_metrics(self.config.metrics))

    @cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """The stored tensors by name."""
        return {spec.name: spec for spec in self.config.tensors}

    def delta(self, name: str) -> Tensor:
        """The float32 tensor to add to the state-dict entry `name` (for a running_var: to its log)."""
        spec, parts = self.stored[name]
        return unpack_tensor(parts, spec, self.config.method.codec)

    def deltas(self) -> dict[str, Tensor]:
        """All float32 tensors by state-dict name, in storage order; `running_var` entries are differences of logs."""
        return {spec.name: self.delta(spec.name) for spec in self.config.tensors}

    @cached_property
    def nbytes(self) -> int:
        """Size of signature.safetensors in bytes."""
        return len(self._serialized)

    @cached_property
    def sha256(self) -> str:
        """sha256 of signature.safetensors, as hex digits."""
        return hashlib.sha256(self._serialized).hexdigest()

    def norms(self) -> dict[int, float]:
        """Euclidean norm of each layer's weights (tensors of two or more dimensions), by layer index."""
        squares: dict[int, float] = {}
        for spec in self.config.tensors:
            if len(spec.shape) >= 2:
                squares[spec.layer] = squares.get(spec.layer, 0.0) + float(
                    self.delta(spec.name).double().square().sum()
                )
        return {layer: square**0.5 for layer, square in squares.items()}

    def cosine(self, other: "Signature") -> float:
        """Cosine between two signatures' weights (tensors of two or more dimensions, concatenated).

        Raises:
            MismatchError: They are of different architectures or touch different tensors.
        """
        _check_same_tensors(self, other)
        products = torch.zeros(3, dtype=torch.float64)
        for spec in self.config.tensors:
            if len(spec.shape) >= 2:
                a, b = self.delta(spec.name).double().flatten(), other.delta(spec.name).double().flatten()
                products += torch.stack([a @ b, a @ a, b @ b])
        dot, aa, bb = products.tolist()
        return dot / (aa * bb) ** 0.5 if aa and bb else 0.0

    def __add__(self, other: "Signature") -> "Signature":
        """The sum, in float32; scales and corruptions of both are in it.

        Raises:
            MismatchError: They were made from different bases, or touch different tensors.
        """
        if not isinstance(other, Signature):
            return NotImplemented
        _check_same_tensors(self, other)
        mine, theirs = self.config, other.config
        if mine.base_model.fingerprint != theirs.base_model.fingerprint:
            raise MismatchError(
                f"{self.name} and {other.name} were made from different base models; only signatures of one base add "
                "up. Patching a model with both is possible: load_patched(base, [a, b])"
            )
        names = tuple(dict.fromkeys(mine.corruption.names + theirs.corruption.names))
        same = mine.corruption.severity == theirs.corruption.severity
        config = replace(
            mine.with_bits(None),
            corruption=replace(mine.corruption, names=names, severity=mine.corruption.severity if same else None),
            method=replace(mine.method, kind="combined", training={}),
            metrics=None,
            statistics=None,
            recommended_scale=1.0,
        )
        summed = {name: delta + other.delta(name) for name, delta in self.deltas().items()}
        return Signature.from_deltas(summed, config)

    def __sub__(self, other: "Signature") -> "Signature":
        return self + -other if isinstance(other, Signature) else NotImplemented

    def __mul__(self, factor: float) -> "Signature":
        """The signature with every tensor multiplied by `factor`, in float32."""
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            return NotImplemented
        config = replace(self.config.with_bits(None), method=_unmeasured(self.config.method), metrics=None)
        return Signature.from_deltas({k: factor * v for k, v in self.deltas().items()}, config, name=self.name)

    __rmul__ = __mul__

    def __neg__(self) -> "Signature":
        return self * -1.0

    def quantize(self, bits: BitsLike, *, codec: str = "symmetric") -> "Signature":
        """The same signature with other bits, from the stored values; the same setting again gives equal codes.

        Args:
            bits: As in `extract`.
            codec: "symmetric", or the released code's "linear" or "log".
        """
        config, method = self.config.with_bits(bits), self.config.method
        if config == self.config and codec == method.codec:
            return self
        config = replace(config, method=replace(_unmeasured(method), codec=codec), metrics=None)
        return Signature.from_deltas(self.deltas(), config, name=self.name)

    def with_results(self, **results: Any) -> "Signature":
        """The same signature with other `metrics`, `recommended_scale` or `statistics` in its config."""
        return replace(self, config=replace(self.config, **results))

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        repo_id: str | None = None,
        license: str | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write config.json, signature.safetensors and the card, with a picture where there are results; no network.

        All files are complete before the first replaces an older one, and a save that is killed leaves the old or the
        new signature to load. An existing README.md keeps the text that its author
        wrote; its metadata and results are brought up to date. The picture needs matplotlib, and is left out without.

        Args:
            folder: Directory, made if needed.
            repo_id: Hub id by which the card loads the signature; by default it loads the folder.
            license: For the card: the base's license, as the Hub writes it. It replaces the one of a README.md that is
                there; without, that one stays.
            overwrite: Write also into a folder that holds something else than a signature.

        Returns:
            The folder.

        Raises:
            AccessError: The folder cannot be written to.
            FormatError: Its README.md is not UTF-8 text.
            OptionError: It is a file, can be no folder or holds something else (a base, say); or the config holds what
                JSON cannot.
        """
        folder = output_folder(folder, "the signature")
        check_room(folder, "the signature", SIGNATURE, overwrite=overwrite)
        weights = self._serialized
        config = self.config.to_json(version=__version__, sha256=self.sha256)
        files = cards.signature_files(
            config, repo_id=repo_id or folder.resolve().name, nbytes=self.nbytes, license=license
        )
        files[README_NAME] = cards.updated(
            folder / README_NAME, files[README_NAME].decode(), relicensed=license is not None
        ).encode()
        contents = {WEIGHTS_NAME: weights, CONFIG_NAME: config.encode(), **files}
        write_together(folder, contents, what="the signature")
        return folder

    @classmethod
    def from_pretrained(
        cls,
        id: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> "Signature":
        """Load a signature from a folder or from the Hub.

        Args:
            id: A folder, "user/name", "hf-hub:user/name", each possibly followed by "@revision".
            name: What to call it; by default the last part of the id.
            revision: Branch, tag or commit on the Hub.
            token: Hub token; by default the stored one.
            cache_dir: Hub cache.
            local_files_only: Use the cache only.
            force_download: Fetch again what is cached.

        Raises:
            NotFoundError: No such folder, repo, revision or file.
            AccessError: The Hub refuses access.
            NetworkError: The Hub cannot be reached.
            FormatError: The files are not a signature.
            IntegrityError: The weight file is not the one that config.json was written with.
        """
        location = parse_id(id, revision=revision)
        fetched = fetch(
            location,
            (CONFIG_NAME, WEIGHTS_NAME),
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        origin = replace(location, revision=fetched.revision)
        return replace(cls._load(fetched.folder, name or location.name, str(origin)), origin=origin)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        base: str | None = None,
        license: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        tag: str | None = None,
    ) -> "CommitInfo":
        """Push config, weights and card as one commit; no commit if nothing changed.

        Args:
            repo_id: "user/name".
            base: Hub id, possibly with "@revision", of the model that it was made from, if its config names none. Where
                nobody names one, the card cannot say how to load the signature; a warning says so.
            license: For the card: the base's license, as the Hub writes it.
            private: Visibility of a repo that is made now; for one that exists, what it must be.
            token: A token with write access; None for the one logged in with.
            revision: Branch to push to, made if needed.
            create_pr: Open a pull request instead.
            commit_message: First line of the commit.
            tag: Tag to put on the commit.

        Returns:
            huggingface_hub's `CommitInfo`, of the present head if nothing changed.

        Raises:
            AccessError: The token may not write there.
            NetworkError: The Hub cannot be reached.
        """
        with TemporaryDirectory() as temporary:
            named = self.with_base(None if base is None else resolved_base(base, token))
            folder = named.save_pretrained(temporary, repo_id=repo_id, license=license)
            return push_folder_files(
                repo_id,
                folder,
                sorted(path.name for path in folder.iterdir()),
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or f"Signature for {self.config.corruption.label}",
                tag=tag,
                relicensed=license is not None,
            )

    def with_base(self, base: Location | None) -> "Signature":
        """For a push: with its base in its config, if that names none; a warning where nobody names one."""
        known = self.config.base_model
        if known.repo_id is not None:
            return self
        if base is None:
            warn(
                f"{self.name} does not say which model on the Hub it was made from, so its card cannot say how to load "
                "it: push it again with base=, the id of that model"
            )
            return self
        return self.with_results(base_model=replace(known, repo_id=base.id, revision=base.revision))

    @classmethod
    def _load(cls, folder: Path, name: str, where: str) -> "Signature":
        saved = read_folder(folder, where)
        config, where = saved.config, f"{where} {WEIGHTS_NAME}"
        return cls(config, read_arrays(saved.weights, config.tensors, config.method.codec, where), name)

    @cached_property
    def _serialized(self) -> bytes:
        return save(dict(self.arrays), metadata={"format": "pt"})

    @cached_property
    def stored(self) -> dict[str, tuple[TensorSpec, dict[str, Tensor]]]:
        """What is stored of each tensor: its spec, and its parts of the arrays (views)."""
        tensors, codec = self.config.tensors, self.config.method.codec
        parts = tensor_parts(self.arrays, tensors, codec)
        return {spec.name: (spec, part) for spec, part in zip(tensors, parts, strict=True)}


def _unmeasured(method: Method) -> Method:
    """A method without what was measured of the signature that it made."""
    return replace(method, training={key: value for key, value in method.training.items() if key != "agreement"})


def resolved_base(base: str, token: bool | str | None) -> Location:
    """A model on the Hub, pinned to a commit."""
    where = parse_id(base if base.startswith("hf-hub:") else f"hf-hub:{base}")
    return replace(where, revision=repos.look(where, token=token).commit)


def similarity(signatures: Sequence[Signature]) -> Tensor:
    """Cosines between all pairs, float64 of shape (n, n); OptionError for what is no `Signature`."""
    if strange := [one for one in signatures if not isinstance(one, Signature)]:
        raise OptionError(f"similarity takes signatures, got {strange[0]!r}: load it with Signature.from_pretrained")
    matrix = torch.eye(len(signatures), dtype=torch.float64)
    for i, a in enumerate(signatures):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = a.cosine(signatures[j])
    return matrix


def _check_same_tensors(a: Signature, b: Signature) -> None:
    mine, theirs = a.config.base_model.architecture, b.config.base_model.architecture
    if mine != theirs:
        raise MismatchError(f"{a.name} is for {mine}, {b.name} is for {theirs}")
    shapes_a, shapes_b = ({spec.name: spec.shape for spec in s.config.tensors} for s in (a, b))
    differing = sorted(name for name in shapes_a.keys() | shapes_b.keys() if shapes_a.get(name) != shapes_b.get(name))
    if differing:
        raise MismatchError(
            f"{a.name} and {b.name} do not touch the same tensors; they differ in {', '.join(differing[:5])}"
            + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        )
