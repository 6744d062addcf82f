"""Putting signatures on a model and taking them off, in place and exactly."""

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from hf_rws._text import one_line
from hf_rws.errors import MismatchError, OptionError, RWSError, warn
from hf_rws.layers import LayerTensor, architecture, layer_tensors, unwrap
from hf_rws.patching._touched import OverwrittenError, Touched
from hf_rws.patching.compatibility import check_fit, check_values, transfer_reasons
from hf_rws.patching.lockfile import write_lockfile
from hf_rws.patching.scales import ADDED, OFF, Scale, ScalesLike, as_scales, by_name, find
from hf_rws.patching.statistics import Measured, measure
from hf_rws.signature.signature import Signature

SignatureLike: TypeAlias = Signature | str | Path | tuple[str, Signature | str | Path]

if TYPE_CHECKING:
    from hf_rws._transport.ids import Location

    class PatchedModel(nn.Module):
        """For type checkers: a timm model that carries a patcher. At run time it keeps its own class."""

        rws: "Patcher"


def patch(
    model: nn.Module,
    signatures: Sequence[SignatureLike] | SignatureLike,
    *,
    scales: ScalesLike | None = None,
    strict: bool = False,
    **load_options: Any,
) -> "Patcher":
    """Put signatures on a timm model, in place.

    Args:
        model: The base; a DDP or `torch.compile` wrapper is seen through. It stays what it is: same class, same
            parameters at the same addresses, same state-dict keys.
        signatures: `Signature`s, folders or Hub ids, or pairs (name, one of these).
        scales: One number for all signatures, a list with one for each, or a mapping of names or ids to them (what it
            does not name is off). Without, one signature has 1 and n have 1/n each (the sum of several extracted
            signatures falls below the clean model).
        strict: Make it an error that a signature was made from another base, or with another normalisation.
        load_options: Options of `Signature.from_pretrained` for ids.

    Returns:
        The patcher, which is also `model.rws`: the one that is there, where the model has one that carries nothing.

    Raises:
        MismatchError: A signature does not fit the model; the model is as it was.
        OptionError: Scales of the wrong length or not finite, a name twice, a model that cannot be patched or that
            carries signatures.

    Example:
        >>> model, robust = (timm.create_model("resnet18", num_classes=10) for _ in range(2))
        >>> clean = {name: value.clone() for name, value in model.state_dict().items()}
        >>> patcher = hf_rws.patch(model, hf_rws.extract(robust, model, None, projection=None, corruption="fog"))
        >>> patcher.set({"fog": 0.5})
        >>> patcher.scales
        {'fog': 0.5}
        >>> patcher.clear()
        >>> all(torch.equal(value, clean[name]) for name, value in model.state_dict().items())
        True
    """
    plain: Any = unwrap(model)
    present = getattr(plain, "rws", None)
    if not (isinstance(present, Patcher) and present._model is plain and not present._attached):
        present = Patcher(model)
    present._attach(as_list(signatures), scales, load_options, strict=strict)
    present._strict = strict
    plain.rws = present
    return present


@dataclass(frozen=True)
class _Attached:
    signature: Signature
    transfer: tuple[str, ...]  # why this is a transfer; empty when it is not
    scale: Scale


class Patcher:
    """The signatures on a model. `model.rws` is one; made by `patch` and `load_patched`.

    Weights are always computed from the kept clean values, in float32 and in a fixed order, and copied into the model's
    own tensors: nothing drifts, the order of calls does not matter, `clear()` gives identical bits.

    `state_dict()` of a patched model holds the patched weights, under the same names. `deepcopy` and pickle take
    signatures and clean values along. A tensor with two names in the model (tied weights) is patched once.

    What else is written to the touched tensors (`load_state_dict`, an optimizer step) is refused at the next call, not
    undone. Every call that writes compares version counters, addresses and samples: 16 values or more of every tensor,
    512 or more of all. So it notices every write that raises a version counter, and those that do not (fused
    optimizers, `.data`, numpy, other processes) where they change a sample, as a training step does; on a GPU, which
    nothing waits for, one call late: that call has overwritten the change, and the next one says so. `verify`,
    `lockfile` (and so `save_patched`) and `bake` compare every value.

    Memory: the clean values, and up to as much again to work in, though not under ten bytes for each of 65,536 values
    or of the largest row. A lock keeps concurrent calls apart; a forward pass that runs in another thread meanwhile may
    see some tensors of the old and some of the new setting. A process that is forked gets a lock of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        """Use `patch`. Raises OptionError if the model carries a patcher already."""
        self._model: Any = unwrap(model)
        if isinstance(self._model, torch.jit.ScriptModule):
            raise OptionError("a traced or scripted model cannot be patched: patch the model first, then trace it")
        if not isinstance(getattr(self._model, "rws", None), Patcher | None):
            raise OptionError("the model has an attribute rws of its own, where the patcher would go: rename it")
        if getattr(self._model, "rws", None) is not None:
            raise OptionError(
                "this model carries signatures already; use model.rws.add(...), or model.rws.bake() to keep the "
                "patched weights and start anew"
            )
        self.base: Location | None = None  # where the model was loaded from, if `load_patched` did
        self._strict = False  # what `patch` was told, for what is added later
        self._attached: dict[str, _Attached] = {}
        self._measured = Measured()
        self._touched = Touched(self._model)
        self._renew_lock()

    # --- what is on ---

    @property
    def scales(self) -> dict[str, float]:
        """The scale of every attached signature; 0 is off."""
        return {name: attached.scale.value for name, attached in self._attached.items()}

    @property
    def signatures(self) -> dict[str, Signature]:
        """The attached signatures by name."""
        return {name: attached.signature for name, attached in self._attached.items()}

    @property
    def is_clean(self) -> bool:
        """Whether the model is its base as it was: every scale is 0, and nothing was recalibrated."""
        return not self._measured.values and not any(self.scales.values())

    def lockfile(self) -> dict[str, Any]:
        """What makes this model again, bit for bit: base, signatures and scales, with commits and digests, as JSON.

        `load_patched(lockfile=...)` takes it. A base that was given as a model has a digest only: give it again there.

        Raises:
            OptionError: A signature was made in memory, so nobody else can load it.
                Or statistics were recalibrated, on images that a lockfile does not hold.
            IntegrityError: Something else changed the weights.
        """
        with self._lock:
            self._sync(every_value=True)
            if self._measured.values:
                raise OptionError(
                    "a lockfile does not hold the images of recalibrate(); take it before, or set() again"
                )
            state = self._living().state_dict() | self._touched.clean
            return write_lockfile(self.base, state, self.signatures, self.scales)

    def __repr__(self) -> str:
        if self._model is None:
            return "Patcher (taken off by bake())"
        where = f" ({self.base.repo_id or self.base.name})" if self.base else ""
        lines = [f"Patcher on {architecture(self._model)}{where}"]
        for name, attached in self._attached.items():
            transfer = f", transfer: {'; '.join(attached.transfer)}" if attached.transfer else ""
            lines.append(f"  {name}: scale {attached.scale}, {attached.signature.nbytes:,} bytes{transfer}")
        if not self._attached:
            lines.append("  no signatures")
        if self._measured.values:
            lines.append(f"  batch norm statistics of {self._measured.images:,} images")
        return "\n".join(map(one_line, lines))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        if self._model is None:
            return escape(repr(self))
        first, *others = repr(self).splitlines()
        names = {
            name: (str(one.scale), f"{one.signature.nbytes:,}", "; ".join(one.transfer))
            for name, one in self._attached.items()
        }
        rows = [("signature", "scale", "bytes", "transfer"), *((name, *cells) for name, cells in names.items())]
        html = "".join(f"<tr>{''.join(f'<td>{escape(one_line(cell))}</td>' for cell in row)}</tr>" for row in rows)
        notes = escape("; ".join(line.strip() for line in others[len(names) :]))
        return f"<div><b>{escape(first)}</b>{f'<table>{html}</table>' if names else ''}{notes}</div>"

    # --- changing it ---

    def set(self, scales: Mapping[str, float]) -> None:
        """Set the scales of the attached signatures, absolutely; one that is not named goes to 0.

        A signature is named by what it is called here, or by the id or folder that it was loaded from.

        Statistics that `recalibrate` measured go: they belong to the scales that were on.

        Raises:
            OptionError: A name that is not attached, an id that several are from, or a scale that is no finite number.
            IntegrityError: Something else changed the weights; they are left as they are.
        """
        with self._lock:
            if not isinstance(scales, Mapping):
                raise OptionError(f"set takes a mapping of names to scales, got {scales!r}")
            self._sync()
            wanted = by_name(scales, self.signatures)
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
            self._apply({name: replace(attached, scale=OFF) for name, attached in self._attached.items()})

    @contextmanager
    def using(self, scales: Mapping[str, float]) -> Iterator[None]:
        """Other scales for a while; what was on before comes back, also after an exception.

        What the body attaches stays as it is. Threads that use it at the same time see each other's settings.
        """
        with self._lock:
            before, measured = self._attached, self._measured
            self.set(scales)
        try:
            yield
        finally:
            with self._lock:
                self._sync()
                wanted = {name: before.get(name, attached) for name, attached in self._attached.items()}
                self._apply(wanted, measured if wanted == before else Measured())

    def recalibrate(self, images: Tensor | Iterable[Tensor]) -> None:
        """Re-estimate the statistics of all batch norms from unlabelled images, with the signatures that are on.

        Also the norms of deeper layers: their input is another where signatures are on. Each gets the mean and the
        unbiased variance of its input over all images, pooled, the norms before it having theirs already: what it would
        record in training if all images were one batch. Nothing else changes. `clear()` gives the clean statistics
        back, every other change of scales those of the signatures.

        Args:
            images: A tensor of shape (N, C, H, W), which goes through the model once and at once, or an iterable of
                such batches (`images.split(256)`): as exact, with memory for one batch, at the cost of a pass over the
                layers before it for every norm. uint8 is raw and normalised here, float is normalised already.

        Raises:
            OptionError: The model has no batch norms, or `images` is not as described or too few; nothing changed.
            IntegrityError: Something else changed the weights.
        """
        with self._lock:
            self._sync()
            statistics = [name for name, one in layer_tensors(self._model).items() if one.kind.startswith("running")]
            self._keep(self._attached, statistics)
            try:
                self._apply(self._attached, measure(self._model, images))
            except BaseException:
                self._touched.write(_terms(self._attached), self._measured.values)
                self._keep(self._attached, self._measured.values)
                raise

    def add(
        self,
        signature: Signature | str | Path,
        scale: float | None = None,
        *,
        name: str | None = None,
        **load_options: Any,
    ) -> None:
        """Attach one more signature.

        Args:
            signature: A `Signature`, a folder or a Hub id.
            scale: Its scale, 1 by default; those of the others stay.
            name: What to call it; by default its own name.
            load_options: Options of `Signature.from_pretrained`.

        Raises:
            MismatchError: It does not fit the model; nothing has changed.
            OptionError: The name is taken, or the scale is not a finite number.
        """
        given = [signature if name is None else (name, signature)]
        self._attach(given, [ADDED if scale is None else scale], load_options, strict=self._strict)

    def remove(self, name: str) -> None:
        """Take a signature off and detach it, by its name or id; OptionError if it is not attached."""
        with self._lock:
            found = find(name, self.signatures)
            self._sync()
            self._apply({other: attached for other, attached in self._attached.items() if other != found})

    def verify(self) -> None:
        """Check every value: IntegrityError unless the weights are the clean ones plus what is on."""
        with self._lock:
            self._living()
            self._touched.check(_terms(self._attached), self._measured.values)

    def bake(self) -> nn.Module:
        """Keep the weights as they are for good and take the patcher off.

        Weights that something else changed are kept, too, with a warning that they are not those of base and
        signatures.

        Returns:
            The model, with no handle left on it; this patcher can no longer be used.
        """
        with self._lock:
            model = self._living()
            try:
                try:
                    self._sync(every_value=True)
                except OverwrittenError as error:
                    warn(_brief(error))
                    self._sync(every_value=True)
            except RWSError as error:
                warn(
                    f"the baked weights are not those of base and signatures, but kept as they are: {_brief(error)}",
                )
            if getattr(model, "rws", None) is self:
                del model.rws
            self._model, self._attached, self._measured = None, {}, Measured()
            del self._touched
            return model

    # --- inside ---

    def _attach(
        self,
        given: Sequence[SignatureLike],
        scales: ScalesLike | None,
        load_options: Mapping[str, Any],
        *,
        strict: bool,
    ) -> None:
        named = [_open(item, load_options) for item in given]
        signatures = dict(named)
        if len(signatures) < len(named):
            names = [name for name, _ in named]
            twice = next(name for name in names if names.count(name) > 1)
            raise OptionError(f"two signatures are called {twice!r}; give one another name: (name, id)")
        chosen = as_scales(scales, signatures)
        with self._lock:
            self._sync()
            tensors = self._living().state_dict(keep_vars=True)
            clean = tensors | self._touched.clean
            kinds = layer_tensors(self._model)
            wanted = dict(self._attached)
            for (name, signature), scale in zip(named, chosen, strict=True):
                if name in wanted:
                    raise OptionError(
                        f"a signature called {name!r} is attached already; give it another name: (name, id)"
                    )
                check_fit(signature, name, architecture(self._model), tensors, kinds)
                touched = {key: clean[key] for key in signature.specs}
                reasons = transfer_reasons(signature, self._model, touched)
                if reasons:  # a broken base looks like another one
                    check_values(touched, kinds)
                if reasons and strict:
                    raise MismatchError(f"{name}: {'; '.join(reasons)} (strict=True)")
                wanted[name] = _Attached(signature, reasons, scale)
            for name, attached in wanted.items():
                if attached.transfer and name not in self._attached:
                    text = f"{name} is a transfer: {'; '.join(attached.transfer)}"
                    warn(text)
            self._apply(wanted, kinds=kinds)

    def _living(self) -> nn.Module:
        if self._model is None:
            raise OptionError("this patcher was taken off by bake(); patch the model again")
        return self._model

    def _sync(self, *, check: bool = True, every_value: bool = False) -> None:
        """Refuse if something else changed the weights, as samples or every value show; let clean values follow."""
        self._living()
        self._touched.follow(_terms(self._attached), self._measured.values, check=check, every_value=every_value)

    def _apply(
        self,
        wanted: dict[str, _Attached],
        measured: Measured | None = None,
        *,
        kinds: Mapping[str, LayerTensor] | None = None,
    ) -> None:
        """Write the weights for `wanted`, and measured statistics; on any error go back to what was on."""
        before, measured_before = self._attached, self._measured
        measured = measured or Measured()
        same = wanted.keys() == before.keys() and measured.values.keys() == measured_before.values.keys()
        if not same:
            self._keep({**before, **wanted}, {**measured_before.values, **measured.values}, kinds)
        try:
            self._touched.write(_terms(wanted), measured.values)
            self._attached, self._measured = wanted, measured
        except BaseException:
            self._touched.write(_terms(before), measured_before.values)
            raise
        finally:
            if not same:
                self._keep(self._attached, self._measured.values)

    def _keep(
        self, attached: Mapping[str, _Attached], also: Iterable[str], kinds: Mapping[str, LayerTensor] | None = None
    ) -> None:
        """Touch just the tensors of these signatures, and some others; `kinds` are all of the model, if known."""
        names = set(also).union(*(one.signature.specs for one in attached.values()))
        layers = self._touched.layers
        if names != layers.keys():
            kinds = kinds or layer_tensors(self._model)
            layers = {name: layer for name, layer in kinds.items() if name in names}
        self._touched.keep(layers, [one.signature for one in attached.values()])

    def __getstate__(self) -> dict[str, Any]:
        """For deepcopy and pickle: the copy has a lock of its own and looks at the values before it trusts them."""
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew_lock()

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()
        _patchers.add(self)


_patchers: "weakref.WeakSet[Patcher]" = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process: the thread that held a lock may not be there. What it had half written, samples show."""
    for patcher in list(_patchers):
        patcher._renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def as_list(signatures: Sequence[SignatureLike] | Signature | str | Path) -> list[SignatureLike]:
    """One signature or several as a list; pairs (name, signature) are looked for inside a sequence only."""
    if isinstance(signatures, Signature | str | Path):
        return [signatures]
    if not isinstance(signatures, Iterable):
        raise OptionError(f"signatures must be one or a list of them, got {signatures!r:.80}")
    return list(signatures)


def check_clean(model: nn.Module, verb: str) -> None:
    """OptionError if a model has signatures on; `verb` is what is to be done with it."""
    patcher = getattr(model, "rws", None)
    if isinstance(patcher, Patcher) and not patcher.is_clean:
        raise OptionError(
            f"the model has signatures on: {verb} it after model.rws.clear(), or {verb} what model.rws.bake() gives"
        )


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


def _brief(error: RWSError) -> str:
    """An error without what it advises."""
    return str(error).partition(". ")[0].partition("; ")[0]


def _terms(attached: Mapping[str, _Attached]) -> list[tuple[Signature, float]]:
    """What is on, in the order of names."""
    ordered = [attached[name] for name in sorted(attached)]
    return [(one.signature, one.scale.value) for one in ordered if one.scale.value != 0]
