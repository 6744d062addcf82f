"""Putting signatures on a model and taking them off, in place and exactly."""

import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from hf_rws.errors import IntegrityError, MismatchError, OptionError
from hf_rws.fitting import check_fit, transfer_reasons
from hf_rws.format import TensorSpec
from hf_rws.layers import architecture, unwrap
from hf_rws.patch_recipe import write_recipe
from hf_rws.signature import Signature

SignatureLike: TypeAlias = Signature | str | Path | tuple[str, Signature | str | Path]

if TYPE_CHECKING:
    from hf_rws.hub import Location

    class PatchedModel(nn.Module):
        """For type checkers: a timm model that carries a patcher. At run time it keeps its own class."""

        rws: "Patcher"


_CHANGED = (
    "the weights of this model were changed by something else since the patcher last wrote them (an optimizer step, "
    "load_state_dict, ...). Keep them as they are with bake(), then patch again; or go back to the clean weights with "
    "clear(force=True)"
)


def patch(
    model: nn.Module,
    signatures: Sequence[SignatureLike] | SignatureLike,
    *,
    scales: Sequence[float] | None = None,
    strict: bool = False,
    **load_options: Any,
) -> "Patcher":
    """Put signatures on a timm model, in place.

    Args:
        model: The base; a DDP or `torch.compile` wrapper is seen through. It stays what it is: same class, same
            parameters at the same addresses, same state-dict keys.
        signatures: `Signature`s, folders or Hub ids, or pairs (name, one of these).
        scales: One factor per signature. Without, one signature has 1 and n have 1/n each (the sum of several
            extracted signatures falls below the clean model).
        strict: Make it an error that a signature was made from another base, or with another normalisation.
        load_options: Options of `Signature.from_pretrained` for ids.

    Returns:
        The patcher, which is also `model.rws`.

    Raises:
        MismatchError: A signature does not fit the model; the model is as it was.
        OptionError: Scales of the wrong length or not finite, a name twice, a model that cannot be patched.
    """
    patcher = Patcher(model, strict=strict)
    patcher._attach(listed(signatures), scales, load_options)
    patcher._model.rws = patcher
    return patcher


@dataclass(frozen=True)
class _Attached:
    signature: Signature
    transfer: tuple[str, ...]  # why this is a transfer; empty when it is not
    scale: float


class Patcher:
    """The signatures on a model. `model.rws` is one; made by `patch` and `load_patched`.

    Weights are always computed from the kept clean values, in float32 and in a fixed order, and copied into the model's
    own tensors: nothing drifts, the order of calls does not matter, `clear()` gives identical bits. A lock keeps
    concurrent `set` calls apart; a forward pass that runs in another thread meanwhile may see some tensors of the old
    and some of the new setting.
    """

    def __init__(self, model: nn.Module, *, strict: bool = False) -> None:
        """Use `patch`. Raises OptionError if the model carries a patcher already."""
        self._model: Any = unwrap(model)
        if isinstance(getattr(self._model, "rws", None), Patcher):
            raise OptionError(
                "this model carries signatures already; use model.rws.add(...), or model.rws.bake() to keep the "
                "patched weights and start anew"
            )
        self.base: Location | None = None  # where the model was loaded from, if `load_patched` did
        self._strict = strict
        self._attached: dict[str, _Attached] = {}
        self._clean: dict[str, Tensor] = {}
        self._seen: dict[str, tuple[int, int] | None] = {}
        self._lock = threading.RLock()

    # --- what is on ---

    @property
    def scales(self) -> dict[str, float]:
        """The scale of every attached signature; 0 is off."""
        return {name: attached.scale for name, attached in self._attached.items()}

    @property
    def signatures(self) -> dict[str, Signature]:
        """The attached signatures by name."""
        return {name: attached.signature for name, attached in self._attached.items()}

    def recipe(self) -> dict[str, Any]:
        """What makes this model again, bit for bit: base, signatures and scales, with commits and digests, as JSON.

        `load_patched(recipe=...)` takes it. A base that was given as a model has a digest only: give it again there.

        Raises:
            OptionError: A signature was made in memory, so nobody else can load it.
            IntegrityError: Something else changed the weights.
        """
        with self._lock:
            return write_recipe(self.base, self._sync() | self._clean, self.signatures, self.scales)

    def __repr__(self) -> str:
        if self._model is None:
            return "Patcher (taken off by bake())"
        where = f" ({self.base.repo_id or self.base.name})" if self.base else ""
        lines = [f"Patcher on {architecture(self._model)}{where}"]
        for name, attached in self._attached.items():
            transfer = f", transfer: {'; '.join(attached.transfer)}" if attached.transfer else ""
            lines.append(f"  {name}: scale {attached.scale:g}, {attached.signature.nbytes:,} bytes{transfer}")
        if not self._attached:
            lines.append("  no signatures")
        return "\n".join(lines)

    # --- changing it ---

    def set(self, scales: Mapping[str, float]) -> None:
        """Set the scales of the attached signatures, absolutely; one that is not named goes to 0.

        Raises:
            OptionError: A name that is not attached, or a scale that is not a finite number.
            IntegrityError: Something else changed the weights; they are left as they are.
        """
        with self._lock:
            if not isinstance(scales, Mapping):
                raise OptionError(f"set takes a mapping of names to scales, got {scales!r}")
            unknown = [name for name in scales if name not in self._attached]
            if unknown:
                raise OptionError(
                    f"no signature called {', '.join(map(repr, unknown))} is attached; attached: "
                    f"{', '.join(map(repr, self._attached)) or 'none'}"
                )
            self._sync()
            wanted = {name: _checked_scale(scales.get(name, 0.0)) for name in self._attached}
            self._apply({name: replace(old, scale=wanted[name]) for name, old in self._attached.items()})

    def clear(self, *, force: bool = False) -> None:
        """Set every scale to 0: the clean model, bit for bit. The signatures stay attached.

        Args:
            force: Also discard changes that something else made to the touched tensors.

        Raises:
            IntegrityError: Something else changed the weights (without `force`).
        """
        with self._lock:
            self._sync(check=not force)
            self._apply({name: replace(attached, scale=0.0) for name, attached in self._attached.items()})

    @contextmanager
    def using(self, scales: Mapping[str, float]) -> Iterator[None]:
        """Other scales for a while; what was on before comes back, also after an exception.

        What the body attaches stays as it is. Threads that use it at the same time see each other's settings.
        """
        with self._lock:
            before = self.scales
            self.set(scales)
        try:
            yield
        finally:
            self.set(self.scales | {name: scale for name, scale in before.items() if name in self._attached})

    def add(
        self, signature: Signature | str | Path, scale: float = 1.0, *, name: str | None = None, **load_options: Any
    ) -> None:
        """Attach one more signature.

        Args:
            signature: A `Signature`, a folder or a Hub id.
            scale: Its scale; those of the others stay.
            name: What to call it; by default its own name.
            load_options: Options of `Signature.from_pretrained`.

        Raises:
            MismatchError: It does not fit the model; nothing has changed.
            OptionError: The name is taken, or the scale is not a finite number.
        """
        self._attach([signature if name is None else (name, signature)], [scale], load_options)

    def remove(self, name: str) -> None:
        """Take a signature off and detach it; OptionError if it is not attached."""
        with self._lock:
            if name not in self._attached:
                raise OptionError(
                    f"no signature called {name!r}; attached: {', '.join(map(repr, self._attached)) or 'none'}"
                )
            self._sync()
            remaining = {other: attached for other, attached in self._attached.items() if other != name}
            self._apply(remaining)
            kept = {spec.name for attached in remaining.values() for spec in attached.signature.config.tensors}
            for gone in self._clean.keys() - kept:
                del self._clean[gone]

    def verify(self) -> None:
        """Check every value: IntegrityError unless the weights are the clean ones plus what is on."""
        with self._lock:
            self._seen.clear()
            self._sync()

    def bake(self) -> nn.Module:
        """Keep the weights as they are for good and take the patcher off.

        Returns:
            The model, with no handle left on it; this patcher can no longer be used.
        """
        with self._lock:
            self._tensors()
            if getattr(self._model, "rws", None) is self:
                del self._model.rws
            model, self._model = self._model, None
            self._attached, self._clean = {}, {}
            return model

    # --- inside ---

    def _attach(
        self, given: Sequence[SignatureLike], scales: Sequence[float] | None, load_options: Mapping[str, Any]
    ) -> None:
        named = [_open(item, load_options) for item in given]
        if scales is None:
            scales = [1 / len(named) for _ in named]
        if not isinstance(scales, Sequence) or isinstance(scales, str) or len(scales) != len(named):
            raise OptionError(f"scales must be a list with one number per signature ({len(named)}), got {scales!r}")
        checked = [_checked_scale(scale) for scale in scales]
        with self._lock:
            tensors = self._sync()
            wanted = dict(self._attached)
            for (name, signature), scale in zip(named, checked, strict=True):
                if name in wanted:
                    raise OptionError(
                        f"a signature called {name!r} is attached already; give it another name: (name, id)"
                    )
                check_fit(signature, name, self._model, tensors)
                touched = {
                    spec.name: self._clean.get(spec.name, tensors[spec.name]) for spec in signature.config.tensors
                }
                reasons = transfer_reasons(signature, self._model, touched)
                if reasons and self._strict:
                    raise MismatchError(f"{name}: {'; '.join(reasons)} (strict=True)")
                wanted[name] = _Attached(signature, reasons, scale)
            for name, attached in wanted.items():
                if attached.transfer and name not in self._attached:
                    warnings.warn(f"{name} is a transfer: {'; '.join(attached.transfer)}", stacklevel=4)
            names = {spec.name for attached in wanted.values() for spec in attached.signature.config.tensors}
            fresh = {name: tensors[name].detach().clone() for name in names - self._clean.keys()}
            self._clean.update(fresh)
            try:
                self._apply(wanted)
            except BaseException:
                for name in fresh:
                    del self._clean[name]
                raise

    def _tensors(self) -> dict[str, Tensor]:
        if self._model is None:
            raise OptionError("this patcher was taken off by bake(); patch the model again")
        return dict(self._model.state_dict(keep_vars=True))

    def _sync(self, *, check: bool = True) -> dict[str, Tensor]:
        """The model's tensors, after the clean values followed them to another device or dtype.

        With `check`, tensors that look written to since (by identity and version counter) must still have the values
        that the patcher gave them.
        """
        tensors = self._tensors()
        for name, clean in self._clean.items():
            now = tensors.get(name)
            if now is None:
                raise IntegrityError(f"{name} is gone from the model; it was patched. Use bake() and patch again")
            if now.shape != clean.shape:
                raise IntegrityError(f"{name} has another shape than when it was patched. Use bake() and patch again")
            mark = _mark(now)
            if check and (mark is None or self._seen.get(name) != mark):
                expected = self._patched(name, clean, self._attached).to(now.device, now.dtype)
                if not torch.equal(now, expected):
                    raise IntegrityError(f"{name}: {_CHANGED}")
            self._clean[name] = clean.to(now.device, now.dtype)
            self._seen[name] = mark
        return tensors

    def _apply(self, wanted: dict[str, _Attached]) -> None:
        """Write the weights for `wanted`; on any error go back to what was on."""
        try:
            self._write(wanted)
        except BaseException:
            self._write(self._attached)
            raise
        self._attached = wanted

    @torch.no_grad()
    def _write(self, wanted: Mapping[str, _Attached]) -> None:
        tensors = self._tensors()
        for name, clean in self._clean.items():
            value = self._patched(name, clean, wanted)
            if value is not clean and not bool(torch.isfinite(value).all()):
                raise OptionError(
                    f"{name} would no longer be finite in {value.dtype} with scales "
                    f"{ {key: attached.scale for key, attached in wanted.items()} }; they are too large"
                )
            tensors[name].copy_(value)
            self._seen[name] = _mark(tensors[name])

    @torch.no_grad()
    def _patched(self, name: str, clean: Tensor, wanted: Mapping[str, _Attached]) -> Tensor:
        """The value of one tensor: clean values and what is on, summed in float32 in the order of names."""
        total: Tensor | None = None
        spec: TensorSpec | None = None
        for attached in (wanted[key] for key in sorted(wanted)):
            found = attached.signature.specs.get(name)
            if found is None or attached.scale == 0:
                continue
            spec = found
            term = attached.signature.delta(name).to(clean.device).mul_(attached.scale)
            total = term if total is None else total.add_(term)
        if total is None or spec is None:
            return clean
        if spec.kind == "running_var":
            eps = self._eps(name)
            return (clean.float() + eps).mul_(total.exp_()).sub_(eps).clamp_(min=0).to(clean.dtype)
        return total.add_(clean.float()).to(clean.dtype)

    def _eps(self, name: str) -> float:
        return float(self._model.get_submodule(name.rpartition(".")[0]).eps)

    def __getstate__(self) -> dict[str, Any]:
        """For deepcopy and pickle: the copy has a lock of its own and looks at the values before it trusts them."""
        return self.__dict__ | {"_lock": None, "_seen": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()


def listed(signatures: Sequence[SignatureLike] | Signature | str | Path) -> list[SignatureLike]:
    """One signature or several as a list; pairs (name, signature) are looked for inside a sequence only."""
    return [signatures] if isinstance(signatures, Signature | str | Path) else list(signatures)


def split_name(item: SignatureLike) -> tuple[str | None, Any]:
    """A pair (name, signature), or (None, signature) where no name is given."""
    if not isinstance(item, tuple):
        return None, item
    if len(item) != 2 or not isinstance(item[0], str) or not item[0]:
        raise OptionError(f"a named signature is a pair (name, signature), got {item!r}")
    return item


def _open(item: SignatureLike, load_options: Mapping[str, Any]) -> tuple[str, Signature]:
    name, source = split_name(item)
    if isinstance(source, str | Path):
        source = Signature.from_pretrained(source, **load_options)
    if not isinstance(source, Signature):
        raise OptionError(f"a signature must be a Signature, a folder or an id, got {type(source).__name__}")
    return name or source.name, source


def _checked_scale(scale: float) -> float:
    try:
        value = float(scale) if isinstance(scale, Real) and not isinstance(scale, bool) else math.nan
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise OptionError(f"a scale must be a finite number, got {scale!r}")
    return value


def _mark(tensor: Tensor) -> tuple[int, int] | None:
    """Identity and version of a tensor; None where it has no version counter (made in inference mode)."""
    return None if tensor.is_inference() else (id(tensor), tensor._version)
