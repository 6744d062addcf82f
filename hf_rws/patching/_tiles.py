"""What a patcher writes: clean values plus scaled signatures, into a model's own tensors.

    weights             clean + sum of scale_i * delta_i                        in float32, term by term
    running variances   (clean + eps) * exp(sum of scale_i * delta_i) - eps     the sum in float32, the rest in float64

`reference` is the whole of it, tensor by tensor; the rest gives the same bits faster. The tensors of one dtype on one
device are a `Block`. Their clean values lie one after another in flat memory, which is worked through in tiles: a large
tensor has several, small ones share one. So a sum takes a few operations on memory that the processor's cache holds,
and no new memory.

A signature's codes are decoded tile by tile each time that it is written. Only those of the codec "symmetric" are: a
signature in one of the codecs for comparison, "linear" and "log", is decoded when it is attached, and takes four bytes
of memory a value.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hf_rws.layers import LayerTensor
from hf_rws.signature.arrays import tensor_parts
from hf_rws.signature.decoding import Coded, decoder, row_ranges, workspace
from hf_rws.signature.signature import Signature

# Most values in a tile. What lies on other devices is computed on the CPU: not all have float64.
_TILE = {"cpu": 2**19, "cuda": 2**22}
_TILES = 8  # about, at least: the memory for one is shared by all
_MEMORY = 1.95  # times that of the tensors; the rest, up to 2, is for the scales of signatures
_LARGE = 2**16  # values from which on a tensor shares no tile


def reference(clean: Tensor, deltas: Sequence[tuple[Tensor, float]], eps: float | None = None) -> Tensor:
    """What is written for one tensor.

    Args:
        clean: Its clean values, of any shape and floating-point dtype.
        deltas: float32 tensors of the same shape from signatures, with their scales, in the order of names; at least
            one.
        eps: Epsilon of the norm of a running variance; None for all other tensors.
    """
    total, *more = (delta * scale for delta, scale in deltas)
    for scaled in more:
        total = total + scaled
    if eps is None:
        return (total + clean.float()).to(clean.dtype)
    return ((clean.double() + eps) * total.double().exp() - eps).clamp(min=0).to(clean.dtype)


def copy_all(targets: list[Tensor], values: list[Tensor]) -> None:
    """`target.copy_(value)` for each pair."""
    if targets:  # which the operation insists on
        torch._foreach_copy_(targets, values)


@dataclass(frozen=True)
class Place:
    """Where a tensor, or some of its rows, lies in the flat memory of a block."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    rows: slice | None = None  # None: all

    def of(self, tensor: Tensor) -> Tensor:
        """These rows of the tensor."""
        return tensor if self.rows is None else tensor[self.rows]


class Tile:
    """A stretch of a block that is summed at once.

    Memory is float32 of shape (values,), one for each value of the tile.

    Attributes:
        places: Where the tensors in it lie.
        sum: Memory for their sum; all tiles share it.
        spare: As much again.
        decoded: Memory for their values in one signature, kept from call to call; None if there is no room.
        is_direct: Whether sums can be written to the model as they are.
        sum_rows: `sum` as rows of the only tensor, of shape (rows, width), if so.
    """

    def __init__(self, block: "Block", places: Sequence[Place]) -> None:
        self.places = tuple(places)
        self.start, self.stop = places[0].start, places[-1].stop
        self.sum, self.spare = (memory[: self.stop - self.start] for memory in (block.sum, block.spare))
        self.decoded = block.decoded[self.start : self.stop] if self.stop <= len(block.decoded) else None
        self._targets = [place.of(block.targets[place.name]) for place in places]
        self._clean = block.clean[self.start : self.stop]
        self._values = self.cut(self.sum)
        self.is_direct = len(places) == 1 and _is_plain(self._targets[0], block)
        if self.is_direct:
            self._direct = self._targets[0].view(-1)
            rows = *places[0].shape[:1], math.prod(places[0].shape[1:])
            self._clean_rows, self._direct_rows, self.sum_rows = (
                flat.view(rows) for flat in (self._clean, self._direct, self.sum)
            )

    def cut(self, flat: Tensor) -> list[Tensor]:
        """The tensors that lie in flat memory of shape (values,)."""
        return [flat[p.start - self.start : p.stop - self.start].view(p.shape) for p in self.places]

    def values(self, total: Tensor) -> list[Tensor]:
        """The values by place, not yet cast to the model's dtype; `total` is a sum, float32 (values,)."""
        clean = self._clean if self._clean.dtype == torch.float32 else self.spare.copy_(self._clean)
        torch.add(total, clean, out=self.sum)
        return self._values

    def store(self, total: Tensor) -> None:
        """Write the values for a sum of scaled signatures, float32 of shape (values,), into the model."""
        if self.is_direct:
            torch.add(total, self._clean, out=self._direct)
        else:
            copy_all(self._targets, self.values(total))

    def store_product(self, integers: Tensor, scales: Tensor) -> None:
        """The same for the sum integers * scales, both float32, of the shapes (rows, width) and (rows, 1).

        The bits are the same, too, whether or not products are rounded before they are added: they are exact.
        """
        torch.addcmul(self._clean_rows, integers, scales, out=self._direct_rows)


class VarianceTile(Tile):
    """The running variances of a block; signatures hold differences of their logarithms."""

    def __init__(self, block: "Block", places: Sequence[Place]) -> None:
        super().__init__(block, places)
        self.is_direct = False
        self._shifted = self._clean.to(torch.float64, copy=True)
        self._factor, self._eps = torch.empty_like(self._shifted), torch.empty_like(self._shifted)
        for place, eps in zip(places, self.cut(self._eps), strict=True):
            eps.fill_(block.layers[place.name].eps)
        self._shifted.add_(self._eps)
        self._values = self.cut(self._factor)

    def values(self, total: Tensor) -> list[Tensor]:
        """As in `Tile`."""
        self._factor.copy_(total)
        torch._foreach_exp_(self._values)  # tensor by tensor: the last bit may depend on the place in an operation
        self._factor.mul_(self._shifted).sub_(self._eps).clamp_(min=0)
        return self._values


class Block:
    """The touched tensors of one dtype on one device: clean values, and memory to compute others in.

    Beside the clean values it keeps those of a signature that is set twice in a row, decoded, as far as all its memory
    together stays below twice that of the tensors: another scale then needs no decoding.

    Attributes:
        layers: What each tensor is, by name.
        places: Where its clean values lie in `clean`.
        views: Their clean values.
        targets: The model's own tensors.
        is_sound: Whether all clean values are finite, and no variance is negative.
    """

    def __init__(
        self, layers: Mapping[str, LayerTensor], targets: Mapping[str, Tensor], clean: Mapping[str, Tensor]
    ) -> None:
        variances = [name for name in clean if layers[name].kind == "running_var"]
        others = [name for name in layers if name in clean and name not in variances]
        # Stable: the weights stay in the order in which signatures store them, in one piece.
        others.sort(key=lambda name: (clean[name].numel() >= _LARGE, layers[name].kind == "weight"))
        self.layers = {name: layers[name] for name in (*variances, *others)}
        self.targets = {name: targets[name].detach() for name in self.layers}
        example = next(iter(clean.values()))
        self.dtype = example.dtype
        self.device = example.device if example.device.type in _TILE else torch.device("cpu")
        self.places = list(_places({name: tuple(clean[name].shape) for name in self.layers}))
        places = self.places
        statistics, rest = places[: len(variances)], places[len(variances) :]
        groups = [statistics] * bool(statistics) + list(_groups(rest, self._tile_size(places[-1].stop)))
        self._allocate(places[-1].stop, max(map(_size, groups)), _size(statistics))
        self.views = {place.name: self.clean[place.start : place.stop].view(place.shape) for place in places}
        copy_all(list(self.views.values()), [clean[name].detach() for name in self.views])
        self._everything = list(self.targets.values()), list(self.views.values())
        self.tiles = [(VarianceTile if group is statistics else Tile)(self, group) for group in groups]
        self._holds: TiledSignature | None = None  # whose values `decoded` has
        self._last: TiledSignature | None = None  # which was written last
        self._reach = _reach(self.clean[_size(statistics) :])
        self._variance_reach = _reach(self.clean[: _size(statistics)])
        self.is_sound = math.isfinite(self._reach) and math.isfinite(self._variance_reach)
        self.is_sound &= not statistics or bool((self.clean[: _size(statistics)] >= 0).all())

    def _tile_size(self, count: int) -> int:
        return max(_LARGE, min(count // _TILES, _TILE[self.device.type]))

    def _allocate(self, count: int, largest_tile: int, variances: int) -> None:
        def empty(*size: int) -> Tensor:
            return torch.empty(size, dtype=torch.float32, device=self.device)

        self.clean = torch.empty(count, dtype=self.dtype, device=self.device)
        self.sum, self.spare, self._number = empty(largest_tile), empty(largest_tile), empty()
        self.work = workspace(largest_tile, self.device)
        taken = sum(memory.nbytes for memory in (self.clean, self.sum, self.spare, self.work))
        room = sum(target.nbytes for target in self.targets.values()) * _MEMORY - taken - variances * 3 * 8
        self.decoded = empty(min(count, max(0, int(room // 4))))

    def write(self, terms: Sequence["Term"]) -> None:
        """Write clean values plus the sum of `terms` into the model."""
        if not terms:
            copy_all(*self._everything)
            return
        self._hold(terms)
        for index, tile in enumerate(self.tiles):
            if (product := self._product(index, terms)) is not None:
                tile.store_product(*product)
            elif (total := self._total(index, terms)) is not None:
                tile.store(total)
        idle = self._idle(terms)
        copy_all([self.targets[name] for name in idle], [self.views[name] for name in idle])

    def values(self, terms: Sequence["Term"]) -> Iterator[tuple[Place, Tensor]]:
        """What `write` writes, in the dtype of this block, place by place; each is valid until the next."""
        idle = self._idle(terms)
        for index, tile in enumerate(self.tiles):
            total = self._total(index, terms)
            if total is not None:
                for place, value in zip(tile.places, tile.values(total), strict=True):
                    if place.name not in idle:
                        yield place, value.to(self.dtype)
        for name in idle:
            yield Place(name, 0, 0, ()), self.views[name]

    def surely_finite(self, terms: Sequence["Term"]) -> bool:
        """Whether bounds on the values show, without computing them, that the dtype holds them all."""
        largest = 0.99 * min(torch.finfo(self.dtype).max, torch.finfo(torch.float32).max)
        reach = self._reach + sum(abs(scale) * max(1.0, source.reach) for source, scale in terms)
        exponent = sum(abs(scale) * source.variance_reach for source, scale in terms)
        return reach < largest and exponent < 80 and (self._variance_reach + 1) * math.exp(exponent) < largest

    def _hold(self, terms: Sequence["Term"]) -> None:
        """Decode the first of the signatures for this and later calls, if it was the first of the last call too."""
        if any(source is self._holds for source, _ in terms):
            return
        source = terms[0][0]
        if source is not self._last:
            self._last = source
            return
        self._holds = None
        for index, tile in enumerate(self.tiles):
            if tile.decoded is not None:
                source.decode(index, "decoded")
        self._holds = source

    def _product(self, index: int, terms: Sequence["Term"]) -> tuple[Tensor, Tensor] | None:
        """The sum in a tile as in `store_product`, where it is just that: a pass over memory less."""
        (source, scale), tile = terms[0], self.tiles[index]
        held = source is self._holds and tile.decoded is not None
        if len(terms) > 1 or scale != 1 or held or not tile.is_direct:
            return None
        scales = source.read_integers(index)
        return None if scales is None else (tile.sum_rows, scales)

    def _total(self, index: int, terms: Sequence["Term"]) -> Tensor | None:
        """The sum of scaled signatures in a tile, float32 of shape (values,); None where none of them touches it."""
        tile, total = self.tiles[index], None
        for source, scale in terms:
            if not source.touches(index):
                continue
            memory: _Memory = "sum" if total is None else "spare"
            held = tile.decoded if source is self._holds else None
            delta = source.decode(index, memory) if held is None else held
            scaled = delta if scale == 1 else torch.mul(delta, self._number.fill_(scale), out=getattr(tile, memory))
            total = scaled if total is None else torch.add(total, scaled, out=tile.sum)
        return total

    def _idle(self, terms: Sequence["Term"]) -> Collection[str]:
        """The names that no term touches."""
        if not terms:
            return self.views.keys()
        if any(len(source.names) == len(self.views) for source, _ in terms):
            return []
        return [name for name in self.views if not any(name in source.names for source, _ in terms)]


class TiledSignature:
    """A signature's values, cut into the tiles of a block.

    Attributes:
        names: The block's tensors that the signature touches.
        reach: No value is larger in magnitude.
        variance_reach: Nor any difference of logarithms of variances.
    """

    def __init__(self, signature: Signature, block: Block) -> None:
        self.names = block.views.keys() & signature.stored.keys()
        whole = _whole(signature, self.names, block.device)
        self._parts = [_TilePart(tile, whole, block.work) for tile in block.tiles]
        arrays, plain = signature.arrays.values(), [value for value in whole.values() if isinstance(value, Tensor)]
        floats = plain if len(plain) == len(whole) else [array for array in arrays if array.is_floating_point()]
        self.reach = 2 * max(map(_reach, floats), default=0.0)  # coded values are up to twice a scale
        variances = [value for name, value in whole.items() if block.layers[name].kind == "running_var"]
        self.variance_reach = max(map(_largest, variances), default=0.0)

    def touches(self, tile: int) -> bool:
        """Whether the signature has values for the tile of this index."""
        return bool(self._parts[tile].copied or self._parts[tile].coded)

    def decode(self, tile: int, memory: "_Memory") -> Tensor:
        """Fill memory of a tile, and return it, with the signature's values; zeros for tensors it does not have."""
        return self._parts[tile].write_to(memory)

    def read_integers(self, tile: int) -> Tensor | None:
        """Fill `sum` of a tile with integers and return their scales, if its values are products of those and no more.

        Returns:
            float32 of shape (rows, 1), or None.
        """
        part = self._parts[tile]
        if part.scales is not None:
            part.write_to("sum", scaled=False)
        return part.scales


Term: TypeAlias = tuple[TiledSignature, float]
_Memory: TypeAlias = Literal["sum", "spare", "decoded"]  # of a tile


class _TilePart:
    """A signature's values for one tile: those that are copied and those that are decoded.

    Attributes:
        copied: Where each goes in memory of the tile, and its values, of shape (values,).
        coded: Where, and what is decoded.
        scales: Of the integers, if there is but one tensor of those.
    """

    def __init__(self, tile: Tile, whole: Mapping[str, Tensor | Coded], work: Tensor) -> None:
        self.copied: list[tuple[slice, Tensor]] = []
        self.coded: list[tuple[slice, Coded]] = []
        self._tile, self._work = tile, work
        self._complete = all(place.name in whole for place in tile.places)
        self._writers: dict[tuple[_Memory, bool], Callable[[], None]] = {}
        for place in tile.places:
            value, where = whole.get(place.name), slice(place.start - tile.start, place.stop - tile.start)
            if isinstance(value, Coded):
                self.coded.append((where, value if place.rows is None else value[place.rows]))
            elif value is not None:
                self.copied.append((where, place.of(value).reshape(-1)))
        alone = len(self.coded) == 1 and not self.copied
        self.scales = self.coded[0][1].scales if alone else None

    def write_to(self, memory: _Memory, *, scaled: bool = True) -> Tensor:
        """Write the values into memory of the tile, or their integers; how, is worked out the first time."""
        out: Tensor = getattr(self._tile, memory)
        if (memory, scaled) not in self._writers:
            with torch.inference_mode(False):  # for views that can be written to in every mode
                self._writers[memory, scaled] = self._writer(out, scaled)
        self._writers[memory, scaled]()
        return out

    def _writer(self, out: Tensor, scaled: bool) -> Callable[[], None]:
        targets, values = [out[where] for where, _ in self.copied], [value for _, value in self.copied]
        decode, complete = decoder(self.coded, out, self._work, scaled=scaled), self._complete

        def write() -> None:  # without `self`: a circle would keep all its memory until the next cyclic collection
            if not complete:
                out.zero_()
            copy_all(targets, values)
            decode()

        return write


def _whole(signature: Signature, names: Collection[str], device: torch.device) -> dict[str, Tensor | Coded]:
    """Tensors of a signature by name: as they are stored, or as float32 where the codec is one for comparison."""
    codec, stored = signature.config.method.codec, signature.stored
    if device.type != "cpu":
        arrays = {key: array.to(device) for key, array in signature.arrays.items()}
        parts = tensor_parts(arrays, signature.config.tensors, codec)
        stored = {spec.name: (spec, part) for spec, part in zip(signature.config.tensors, parts, strict=True)}

    def value(name: str) -> Tensor | Coded:
        spec, parts = stored[name]
        if spec.bits in (16, 32):
            return parts["vectors" if spec.bits == 16 else "values"].view(spec.shape)
        if codec != "symmetric":
            return signature.delta(name).to(device)
        return Coded.of(parts["codes"], parts["scales"], spec.shape, spec.bits)

    return {name: value(name) for name in names}


def _largest(value: Tensor | Coded) -> float:
    """A bound on the magnitudes."""
    return 255 * _reach(value.scales) if isinstance(value, Coded) else _reach(value)  # 255: the largest integer


def _places(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Place]:
    """Places one after another."""
    start = 0
    for name, shape in shapes.items():
        yield Place(name, start, start + math.prod(shape), shape)
        start += math.prod(shape)


def _groups(places: Sequence[Place], size: int) -> Iterator[list[Place]]:
    """The places of each tile: small tensors together, first; large ones alone, by rows."""
    group: list[Place] = []
    for place in places:
        if group and (place.stop - place.start >= _LARGE or place.stop - group[0].start > size):
            yield group
            group = []
        if place.stop - place.start < _LARGE:
            group.append(place)
        else:
            yield from ([part] for part in _rows(place, size))
    if group:
        yield group


def _rows(place: Place, size: int) -> Iterator[Place]:
    width = math.prod(place.shape[1:])
    for rows in row_ranges(place.shape, size):
        first, last = place.start + rows.start * width, place.start + rows.stop * width
        yield Place(place.name, first, last, (rows.stop - rows.start, *place.shape[1:]), rows)


def _is_plain(target: Tensor, block: Block) -> bool:
    """Whether sums can be written to a tensor of the model as they are."""
    return target.is_contiguous() and target.device == block.device and target.dtype == block.dtype == torch.float32


def _size(places: Sequence[Place]) -> int:
    return places[-1].stop - places[0].start if places else 0


def _reach(values: Tensor) -> float:
    """The largest magnitude; NaN if there is one."""
    return max((abs(float(end)) for end in values.aminmax()), default=0.0) if values.numel() else 0.0
