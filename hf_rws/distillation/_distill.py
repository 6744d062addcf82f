"""Base and unlabelled images -> signature: the base teaches its own first layers what it knows of clean images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from hf_rws._accelerator import state_kept
from hf_rws._ambient import learning
from hf_rws._transport.ids import Location
from hf_rws.bases import load_base
from hf_rws.corruptions.mixing import CorruptionLike, Mixture
from hf_rws.data.preprocessing import Preprocessing
from hf_rws.data.sets import ImageSet
from hf_rws.data.unlabelled import as_images
from hf_rws.distillation.arguments import DistillationArguments, enough_images
from hf_rws.distillation.loop import Distiller, Snapshot
from hf_rws.distillation.mixtures import Corrupter, Pairs
from hf_rws.distillation.objective import Objective
from hf_rws.errors import OptionError, warn
from hf_rws.extraction import describe_base
from hf_rws.layers import NumLayers, check_loaded, first_layers, unwrap
from hf_rws.signature.bits import BitsLike
from hf_rws.signature.config import CorruptionSpec, Method, SignatureConfig, tensor_specs
from hf_rws.signature.signature import Signature

_MIN_IMAGES = 20


class DistillationStopped(KeyboardInterrupt):
    """Ctrl-C during a distillation that had already made the base more robust.

    Attributes:
        signature: The best so far; its `config.method.training` says under "stopped_early" where the run ended.
    """

    def __init__(self, signature: Signature) -> None:
        super().__init__("stopped; the attribute `signature` holds the best so far")
        self.signature = signature


@learning
@state_kept()
def distill(
    base: nn.Module | str | Path,
    images: Any,
    *,
    corruption: CorruptionLike | Sequence[CorruptionLike] | None = None,
    severity: int = 5,
    corrupted: Any = None,
    num_layers: NumLayers = None,
    bits: BitsLike = "default",
    name: str | None = None,
    dataset: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    clean_fraction: float = 0.25,
    temperature: float = 2.0,
    optimizer: Literal["auto", "sgd", "adamw"] = "auto",
    lr: float | None = None,
    flip: bool = True,
    norm_statistics: Literal["auto", "learn", "keep"] = "auto",
    hold_out: float = 0.1,
    quantization_aware: bool = True,
    seed: int = 0,
    mixed_precision: str = "auto",
    objective: Objective | None = None,
    loop: type[Distiller] = Distiller,
    progress: bool = True,
) -> Signature:
    """Make a signature from a base and unlabelled images, without training a robust model.

    A copy of the base is frozen but for its first layers. These are trained so that the copy gives, on corrupted and on
    some clean images, the answers that the base itself gives on the clean ones (Kullback-Leibler divergence of softened
    answers, as in Hinton et al., arXiv 1503.02531). What they have become minus what they were is the signature. That
    tuning the first layers suits shifts of the input is an observation of Lee et al., arXiv 2210.11466.

    With several processes of `accelerate launch` each takes a share of every batch, and all return the same signature.

    Args:
        base: A timm model, which is not changed, or what `load_patched` takes as one: a folder, a Hub id, a timm name.
        images: Clean images without labels, a few hundred or more, of the base's input size: uint8 (N, H, W, 3) arrays,
            uint8 or [0, 1] tensors (N, 3, H, W), an `ImageSet`, batches of these; or a folder, a Hub id or a `datasets`
            dataset, whose images are resized; of more than 20,000 as many are drawn at random.
        corruption: A name of `CORRUPTIONS` or `hf_rws.corruptions.BAR`, any callable that takes and gives back a uint8
            batch (N, 3, H, W), or a list of these for one signature against all of them ("all": every one of
            `CORRUPTIONS` that there is, "bar": every one of `BAR`); None is "fog".
        severity: Of the named corruptions, 1 to 5.
        corrupted: Corrupted images in the order of `images`, for those who have both; `corruption` is then any label.
        num_layers: How many layers from the shallow end; None is 7 or what there is, "all" is all but the head: better
            for one signature against many corruptions, and larger.
        bits: Bits per weight, as in `extract`.
        name: Name of the signature; the corruption's label if None.
        dataset: Name of the images, for the card.
        steps: Optimizer steps; by default as many as show a number of images that follows from how many there are and
            from their size, see `hf_rws.distillation.arguments.default_steps`.
        minutes: Take as many steps as fit into this time instead, from when the images are read; the result then
            depends on the machine. Where the usual number of steps does not fit, the batches are made smaller.
        batch_size: Images per step, over all processes; by default chosen by their size: 128 up to 90 px, 20 at 224 px.
            What memory does not hold at once is computed in parts, with the same result, but that batch norms
            normalise each part by itself.
        clean_fraction: Share of clean images in every batch, from 0 to below 1; at least one image is corrupted.
        temperature: Of the softmax of both answers.
        optimizer: "sgd", "adamw", or "auto": AdamW where the layers hold a layer norm, or a batch norm whose
            statistics are kept; SGD elsewhere.
        lr: Peak of the learning rate, which runs through one cycle; None is the optimizer's usual one.
        flip: Mirror half of the images.
        norm_statistics: Running statistics of batch norms in the layers that learn: "learn" normalises by each batch
            and lets them follow; "keep" normalises by the base's throughout, so that only weights change; "auto" keeps
            them for images of 128 px and more.
        hold_out: Share of the images, at least one and at most 500, that progress is judged on; fewer in a short run.
            The best of several states on these is kept, and the run ends early when it gets worse.
        quantization_aware: In the second half of the run take the gradients of weights that are stored at 3 bits or
            fewer at their rounded values (straight-through, Bengio et al., arXiv 1308.3432).
        seed: Of the order and of all draws; a callable draws on its own account.
        mixed_precision: "auto" (what the hardware computes fast), "no", "fp16" or "bf16".
        objective: What is minimised: a function of the copy's and the base's logits, both (N, classes), to a scalar,
            the mean over the N images. None is the divergence of softened answers at `temperature`.
        loop: The training loop; a subclass of `hf_rws.distillation.Distiller` may change what a step does.
        progress: Show a bar.

    Returns:
        The signature. Its `config.method.training` holds the hyper-parameters and a report: how many images there were
        to learn from and were held out, and of the latter, before and after, the share, clean and corrupted, that get
        the base's answer on the clean image, and the divergence of all answers from the base's, by which the best state
        is chosen; where none was better than the base, "helped" is false and all differences are zero.

    Raises:
        OptionError: Too few images, or of another size than the base takes; a callable that changes shape or dtype; an
            option that makes no sense; a base with fewer layers, with signatures on, or on the meta device.
        RWSError: Others of its subclasses, as `load_patched` raises them.
        DistillationStopped: On Ctrl-C, with the best signature so far, if there is one.
    """
    arguments = DistillationArguments(
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        clean_fraction=clean_fraction,
        temperature=temperature,
        optimizer=optimizer,
        lr=lr,
        flip=flip,
        norm_statistics=norm_statistics,
        hold_out=hold_out,
        quantization_aware=quantization_aware,
        seed=seed,
        mixed_precision=mixed_precision,
    )
    model, origin = _open(base)
    layers = first_layers(model, num_layers)
    tensors, state = [tensor for layer in layers for tensor in layer], model.state_dict()
    shapes = {tensor.name: tuple(state[tensor.name].shape) for tensor in tensors}
    specs = tensor_specs(tensors, shapes, bits)  # before the training: bits may make no sense
    shown = Preprocessing.of(model, use_test_size=False)
    if corrupted is None:
        corrupter: Corrupter = Mixture("fog" if corruption is None else corruption, severity)
    elif isinstance(corruption, str):
        corrupter = Pairs(as_images(corrupted, preprocessing=shown), corruption)
    else:
        raise OptionError("with corrupted images, corruption is what to call them: a label")
    there = corrupted is not None or isinstance(images, ImageSet | np.ndarray | Tensor)  # paired, or in memory already
    limit = None if there else enough_images(steps, batch_size)
    clean = as_images(images, preprocessing=shown, limit=limit, seed=seed)
    if len(clean) < _MIN_IMAGES:
        raise OptionError(f"{len(clean)} images are too few to learn from: give a few hundred, at least {_MIN_IMAGES}")
    if isinstance(corrupter, Pairs) and len(corrupter) != len(clean):
        raise OptionError(f"there are {len(clean)} clean images but {len(corrupter)} corrupted ones: give pairs")
    coded = {spec.name: spec.bits for spec in specs if spec.bits not in (16, 32)}
    run = loop(model, tensors, coded, clean, corrupter, arguments, objective=objective, progress=progress)
    before, after = run.run()
    helped = after.loss < before.loss
    if not helped:
        warn(
            "the distillation did not help, so the signature is empty and changes nothing: on held-out images no state "
            f"of the run had answers that diverge less from the base's than the base's own on corrupted images do "
            f"({before.loss:.3g}); more images, more steps or a lower lr may do",
        )
    deltas = after.deltas
    training = run.record() | {"agreement": _agreement(before, after), "divergence": _divergence(before, after)}
    training |= {} if helped else {"helped": False}
    config = SignatureConfig(
        base_model=describe_base(model, {name: state[name] for name in deltas}, origin),
        corruption=CorruptionSpec(corrupter.names, corrupter.severity, dataset),
        method=Method("distilled", len(layers), None, training=training),
        tensors=specs,
    )
    signature = Signature.from_deltas(deltas, config, name=name)
    if run.stopped:
        raise DistillationStopped(signature)
    return signature


def _open(base: nn.Module | str | Path) -> tuple[nn.Module, Location | None]:
    """The base and, for its config, where it is from."""
    if not isinstance(base, nn.Module):
        loaded = load_base(base)
        return loaded.model, loaded.origin
    model = unwrap(base)
    check_loaded(model.state_dict(), "the base")
    if any(getattr(getattr(model, "rws", None), "scales", {}).values()):
        raise OptionError("the base carries signatures; take them off first: model.rws.clear()")
    return model, None


def _agreement(before: Snapshot, after: Snapshot) -> dict[str, dict[str, float]]:
    return {
        kind: {"before": round(getattr(before, kind), 4), "after": round(getattr(after, kind), 4)}
        for kind in ("clean", "corrupted")
    }


def _divergence(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """What is made small: four digits."""
    return {"before": float(f"{before.loss:.4g}"), "after": float(f"{after.loss:.4g}")}
