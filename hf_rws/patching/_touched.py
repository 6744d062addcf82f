"""The tensors of a model that signatures touch: their clean values, watched and written to in place."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_rws.errors import IntegrityError, OptionError
from hf_rws.layers import LayerTensor
from hf_rws.patching._tiles import Block, Place, Term, TiledSignature, copy_all
from hf_rws.patching._watch import Watch
from hf_rws.patching.compatibility import check_values, check_writable
from hf_rws.signature.signature import Signature

_CHANGED = (
    "the weights of this model were changed by something else since the patcher last wrote them (an optimizer step, "
    "load_state_dict, ...). Keep them as they are with bake(), then patch again; or go back to the clean weights with "
    "clear(force=True)"
)


class OverwrittenError(IntegrityError):
    """What something else wrote is gone: the weights are those of base and signatures."""


_OVERWRITTEN = (
    "the weights of this model were changed by something else (an optimizer step, ...) before the last call of the "
    "patcher, which has overwritten the change: on a GPU that shows one call late. The model has the weights of its "
    "base and signatures now, and the next call goes on from there; make the change again after bake()"
)

Scaled = Sequence[tuple[Signature, float]]


class Touched:
    """The touched tensors of a model.

    Attributes:
        layers: What each tensor is, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._tiled: dict[Signature, list[TiledSignature]] = {}
        self._saved: list[tuple[list[Place], Tensor]] | None = None  # of a copy that was not used yet
        self._set_up({}, Watch(model, ()), [])

    @property
    def clean(self) -> dict[str, Tensor]:
        """The clean values by name."""
        self._wake()
        return {name: view for block in self._blocks for name, view in block.views.items()}

    def keep(self, layers: Mapping[str, LayerTensor], signatures: Iterable[Signature]) -> None:
        """Touch these tensors and no others from now on; the present values of new ones are their clean ones.

        Args:
            layers: What each tensor is, by name.
            signatures: Those that will be written; what was prepared for others is forgotten.

        Raises:
            OptionError: A clean value that signatures change is not finite, or is a negative variance; nothing changed.
        """
        self._wake()
        kept = set(signatures)
        if layers.keys() != self.layers.keys():
            watch = Watch(self._model, layers)
            clean = self.clean | {name: now for name, now in watch.tensors.items() if name not in self.layers}
            blocks = _blocks(layers, watch, {name: clean[name] for name in layers})
            if not all(block.is_sound for block in blocks):
                check_values({name: clean[name] for one in kept for name in one.specs}, layers)
            self._set_up(layers, watch, blocks)
        self._tiled = {signature: tiled for signature, tiled in self._tiled.items() if signature in kept}

    def follow(
        self, terms: Scaled, measured: Mapping[str, Tensor], *, check: bool = True, every_value: bool = False
    ) -> None:
        """Let the clean values follow the tensors to another device, dtype or memory, if they went there.

        Args:
            terms: The signatures that are on, with their scales.
            measured: The values that replaced sums.
            check: Check first, if the tensors look written to, that they have the values that `write` gave them.
            every_value: Check them however they look.

        Raises:
            IntegrityError: They have others; or had, and the last call did not know yet.
            OptionError: They are now of a dtype or on a device where they cannot be patched.
        """
        self._wake()
        if not check:
            self._watch.forget()
        elif self._watch.saw_change(wait=every_value):
            self.check(terms, measured)
            raise OverwrittenError(_OVERWRITTEN)
        if check and not every_value and self._watch.sees_no_change():
            return
        with torch.no_grad():
            if check:
                self.check(terms, measured)
            if self._watch.sees_replaced():
                watch, clean = self._look_again(), self.clean
                moved = {name: clean[name].to(now) for name, now in watch.tensors.items()}
                self._set_up(self.layers, watch, _blocks(self.layers, watch, moved))

    @torch.no_grad()
    def check(self, terms: Scaled, measured: Mapping[str, Tensor]) -> None:
        """IntegrityError unless the tensors have, cast to what they are now, the values that `write` gave them."""
        self._wake()
        found = self._look_again().tensors
        for block, values in zip(self._blocks, self._prepared(terms), strict=True):
            for place, value in block.values(values):
                there, wanted = place.of(found[place.name]), value
                if place.name in measured:
                    wanted = place.of(measured[place.name])
                if not torch.equal(there, wanted.to(there.device, there.dtype)):
                    self._watch.doubt()
                    raise IntegrityError(f"{place.name}: {_CHANGED}")
        if not self._watch.sees_replaced():
            self._watch.mark()

    @torch.no_grad()
    def write(self, terms: Scaled, measured: Mapping[str, Tensor]) -> None:
        """Write clean values plus scaled signatures; tensors in `measured` get those values instead.

        Raises:
            OptionError: Values would not be finite; nothing is written.
        """
        self._wake()
        prepared = self._prepared(terms)
        for block, values in zip(self._blocks, prepared, strict=True):
            if not block.surely_finite(values):
                _check_finite(block, values)
        for block, values in zip(self._blocks, prepared, strict=True):
            block.write(values)
        copy_all([self._watch.tensors[name] for name in measured], list(measured.values()))
        self._watch.mark()

    def _set_up(self, layers: Mapping[str, LayerTensor], watch: Watch, blocks: list[Block]) -> None:
        self.layers, self._watch, self._blocks = dict(layers), watch, blocks
        self._tiled = {}

    def _prepared(self, terms: Scaled) -> list[list[Term]]:
        """The terms for each block."""
        for signature, _ in terms:
            if signature not in self._tiled:
                self._tiled[signature] = [TiledSignature(signature, block) for block in self._blocks]
        return [[(self._tiled[s][index], scale) for s, scale in terms] for index in range(len(self._blocks))]

    def _look_again(self) -> Watch:
        watch = Watch(self._model, self.layers)
        for name, clean in self.clean.items():
            if watch.tensors[name].shape != clean.shape:
                raise IntegrityError(f"{name} has another shape than when it was patched. Use bake() and patch again")
            check_writable(name, watch.tensors[name])
        return watch

    def __getstate__(self) -> dict[str, Any]:
        """For deepcopy and pickle: the clean values as flat memory, and nothing that can be made again."""
        self._wake()
        return {"_model": self._model, "layers": self.layers, "_saved": [(b.places, b.clean) for b in self._blocks]}

    def _wake(self) -> None:
        """A copy finds its tensors when it is used first; when it is made, its model is not complete yet."""
        if self._saved is not None:
            clean = {p.name: flat[p.start : p.stop].view(p.shape) for places, flat in self._saved for p in places}
            watch = Watch(self._model, self.layers)
            self._set_up(self.layers, watch, _blocks(self.layers, watch, clean))
            self._saved = None


def _blocks(layers: Mapping[str, LayerTensor], watch: Watch, clean: Mapping[str, Tensor]) -> list[Block]:
    """Blocks for tensors with these clean values, one for each dtype and device."""
    groups: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
    for name, value in clean.items():
        groups.setdefault((value.device, value.dtype), {})[name] = value
    with torch.inference_mode(False), torch.no_grad():  # memory that can be written to in every mode
        return [Block(layers, watch.tensors, group) for group in groups.values()]


def _check_finite(block: Block, terms: Sequence[Term]) -> None:
    scales = ", ".join(f"{scale:g}" for _, scale in terms)
    if any(abs(scale) > torch.finfo(torch.float32).max for _, scale in terms):
        raise OptionError(f"the scales {scales} are too large for float32")
    for place, value in block.values(terms):
        if bool(torch.isfinite(value).all()) or not any(place.name in source.names for source, _ in terms):
            continue
        if not bool(torch.isfinite(block.views[place.name]).all()):
            raise OptionError(f"{place.name} of the model holds NaN or infinite values; load its weights again")
        raise OptionError(
            f"{place.name} would no longer be finite in {block.dtype} with scales {scales}; they are too large"
        )
