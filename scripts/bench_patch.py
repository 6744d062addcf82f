"""Time signatures being put on a model and taken off, on one CPU thread, against what else one could do, in one run.

    python scripts/bench_patch.py
    python scripts/bench_patch.py resnet50 --rounds 5

Weights and signatures are random, of realistic size; neither their time nor their memory depends on the values. Each
round times every contestant once, after 64 MB of other memory were written to, as the images between two switches do;
shown are medians over the rounds of CPU time, and ratios of those:

- copy: a plain copy of as many bytes as the signature touches, in one piece. each: the same, tensor by tensor in one
  call (`torch._foreach_copy_`), which is the least that writing to a model takes.
- load_state_dict: a full robust copy that is in memory already.
- patch: `hf_rws.patch`, the first time: checks, fingerprint, a copy of the clean values and the first sum.
- switch: `set` from one signature to another, which decodes it each time. rescale: `set` with another scale.
- clear: back to the clean model.
- PEFT's `merge_adapter` and `unmerge_adapter` of a float32 LoRA on the same weights, of the rank that comes closest to
  the signature's bytes. Left out where PEFT is not installed.

Loading, from a local folder in the disk's cache. With the base in memory: `Signature.from_pretrained` (which checks the
sha256) and `patch`, against `safetensors.torch.load_file` and `load_state_dict` of a full robust copy into a model that
is there, without and with its sha256. From nothing: `load_patched(base, [signature])` against `load_base` of the robust
copy, that is timm's `create_model("local-dir:...", pretrained=True)`: both build the model first.

Extra memory is the peak of what torch allocates while two signatures are put on and switched, in multiples of the
touched bytes; `switch_bytes` is the most that a switch after that allocates at once. `not_identical` is the share of
weights that have other bits after on and off again. The result is written to scripts/results/patching.json.
"""

import argparse
import gc
import itertools
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import hf_rws
from hf_rws.bases import load_base
from hf_rws.signature.signature import Signature
from hf_rws.study.provenance import about
from hf_rws.timm_repo import save_timm_repo

SEED = 0
BITS = (8, 4, "small", "tiny")  # 4 is also "default"
# name -> model, number of classes, layers
CASES: dict[str, tuple[str, int, Any]] = {
    "vgg16_gap": ("vgg16_gap", 10, 7),
    "resnet50": ("resnet50", 1000, 7),  # its first stages: many small tensors
    "resnet50-all": ("resnet50", 1000, "all"),  # a few large ones have most of the bytes
    "vit_base": ("vit_base_patch16_224", 1000, 7),
}
PEFT = find_spec("peft") is not None


@dataclass(frozen=True)
class Contestant:
    """What is timed, and what is done before each time."""

    run: Callable[[], object]
    before: Callable[[], object] = lambda: None


def race(contestants: dict[str, Contestant], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each."""
    other = torch.ones(2**24)
    rows: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        rows.append({})
        for label, contestant in contestants.items():
            contestant.before()
            other.add_(1)
            start = time.process_time()
            contestant.run()
            rows[-1][label] = time.process_time() - start
    return {label: 1000 * statistics.median(row[label] for row in rows[1:]) for label in contestants}


def synthetic(model: nn.Module, name: str, num_layers: Any, bits: Any) -> Signature:
    """A signature with random codes, of the size that fine-tuning gives it."""
    config = hf_rws.extract(
        model, model, None, corruption=name, projection=None, num_layers=num_layers, bits=None
    ).config
    config = config.with_bits(bits)
    generator = torch.Generator().manual_seed(SEED + sum(name.encode()))
    parts: dict[str, list[Tensor]] = {"codes": [], "scales": [], "vectors": []}
    for spec in config.tensors:
        sizes = spec.sizes(config.method.codec)
        parts["codes"].append(torch.randint(0, 256, (sizes.get("codes", 0),), generator=generator, dtype=torch.uint8))
        parts["scales"].append(0.002 + 0.004 * torch.rand(sizes.get("scales", 0), generator=generator))
        parts["vectors"].append(0.01 * torch.randn(sizes.get("vectors", 0), generator=generator))
    arrays = {key: torch.cat(pieces) for key, pieces in parts.items()}
    return Signature(config, {k: v if k == "codes" else v.half() for k, v in arrays.items() if len(v)}, name)


def switching(base: nn.Module, robust: dict[str, Tensor], made: list[Signature]) -> dict[str, Contestant]:
    """The contestants that change a model in memory, ours on `base`."""
    touched = [base.state_dict()[key] for key in made[0].specs]
    total = sum(tensor.nbytes for tensor in touched)
    source, target = torch.ones(total // 4), torch.zeros(total // 4)
    sources = [tensor.clone() for tensor in touched]
    targets = [tensor.clone() for tensor in touched]
    loaded, fresh = deepcopy(base), deepcopy(base)
    patcher = hf_rws.patch(base, made, scales=[0.0, 0.0])
    names = [signature.name for signature in made]
    turns, scales = itertools.cycle(names), itertools.cycle((0.5, 0.7))

    def take_off() -> None:
        if hasattr(fresh, "rws"):
            fresh.rws.clear()
            fresh.rws.bake()

    return {
        "copy": Contestant(lambda: target.copy_(source)),
        "each": Contestant(lambda: torch._foreach_copy_(targets, sources)),
        "load_state_dict": Contestant(lambda: loaded.load_state_dict(robust)),
        "patch": Contestant(lambda: hf_rws.patch(fresh, made[0]), take_off),
        "switch": Contestant(lambda: patcher.set({next(turns): 1.0})),
        "rescale": Contestant(lambda: patcher.set({names[0]: next(scales)})),
        "clear": Contestant(patcher.clear, lambda: patcher.set({names[0]: next(scales)})),
    }


def merging(base: nn.Module, signature: Signature) -> tuple[dict[str, Contestant], dict[str, Any]]:
    """PEFT's contestants, on a copy of the base, and what is to be said of them."""
    import peft

    model = deepcopy(base)
    weights = [spec for spec in signature.config.tensors if spec.kind == "weight" and spec.name.endswith(".weight")]
    modules = [spec.name.removesuffix(".weight") for spec in weights]
    inputs_and_outputs = sum(spec.numel // spec.shape[0] + spec.shape[0] for spec in weights)
    rank = max(1, round(signature.nbytes / 4 / inputs_and_outputs))
    just_these = "|".join(map(re.escape, modules))  # of a list of names PEFT takes all that end so
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=just_these, init_lora_weights=False)
    clean = {name: model.get_submodule(name).weight.detach().clone() for name in modules}
    wrapped = peft.get_peft_model(model, config)
    layers = {name: model.get_submodule(name) for name in modules}
    with torch.no_grad():
        for layer in layers.values():  # as large as ours: uniform codes, scales of 0.004
            layer.lora_B["default"].weight.mul_(0.0023 / layer.get_delta_weight("default").std())
    nbytes = sum(p.nbytes for name, p in model.named_parameters() if "lora_" in name)
    wrapped.merge_adapter()
    wrapped.unmerge_adapter()
    changed = sum(int((layers[name].get_base_layer().weight != value).sum()) for name, value in clean.items())
    said = {"rank": rank, "nbytes": nbytes, "not_identical": changed / sum(v.numel() for v in clean.values())}
    ours = {
        "PEFT merge": Contestant(wrapped.merge_adapter, lambda: _unmerged(wrapped, layers)),
        "PEFT unmerge": Contestant(wrapped.unmerge_adapter, lambda: _merged(wrapped, layers)),
    }
    return ours, said


def _unmerged(wrapped: Any, layers: dict[str, Any]) -> None:
    if next(iter(layers.values())).merged:
        wrapped.unmerge_adapter()


def _merged(wrapped: Any, layers: dict[str, Any]) -> None:
    if not next(iter(layers.values())).merged:
        wrapped.merge_adapter()


def loading(base: nn.Module, folder: Path, signature: Signature) -> dict[str, Contestant]:
    """The contestants that read files."""
    weights, rws = folder / "robust" / "model.safetensors", signature.save_pretrained(folder / "rws")
    loaded, patched = deepcopy(base), deepcopy(base)

    def take_off() -> None:
        if hasattr(patched, "rws"):
            patched.rws.clear()
            patched.rws.bake()

    return {
        "signature on a base": Contestant(lambda: hf_rws.patch(patched, Signature.from_pretrained(rws)), take_off),
        "full copy into a model": Contestant(lambda: loaded.load_state_dict(load_file(weights))),
        "the same, checked": Contestant(
            lambda: (sha256(weights.read_bytes()), loaded.load_state_dict(load_file(weights)))
        ),
        "load_patched": Contestant(lambda: hf_rws.load_patched(folder / "base", [rws])),
        "load_base of a full copy": Contestant(lambda: load_base(folder / "robust")),
    }


def peak_memory(run: Callable[[], object]) -> int:
    """The most bytes that torch held at once in a call beyond what it held before."""
    gc.collect()
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0))


def memory(base: nn.Module, made: list[Signature]) -> dict[str, float]:
    """Extra memory, and the share of weights that `clear` does not give back."""
    model = deepcopy(base)
    touched = {key: model.state_dict()[key].clone() for key in made[0].specs}
    names = [signature.name for signature in made]

    def switches() -> None:
        for scales in ({names[0]: 1.0}, {names[1]: 1.0}, {names[1]: 0.5}, {names[0]: 0.5, names[1]: 0.5}, {}):
            model.rws.set(scales)

    def whole() -> None:
        hf_rws.patch(model, made)
        switches()

    peak, switch = peak_memory(whole), peak_memory(switches)
    changed = sum(int((model.state_dict()[key] != value).sum()) for key, value in touched.items())
    return {
        "peak": peak / sum(value.nbytes for value in touched.values()),
        "switch_bytes": switch,
        "not_identical": changed / sum(value.numel() for value in touched.values()),
    }


def measure(case: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every setting of bits."""
    name, classes, layers = CASES[case]
    torch.manual_seed(SEED)
    base = timm.create_model(name, num_classes=classes).eval()
    robust = {key: value.clone() for key, value in base.state_dict().items()}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for role in ("base", "robust"):
            save_timm_repo(base, Path(temporary, role))
        full = Path(temporary, "robust", "model.safetensors").stat().st_size
        for bits in BITS:
            made = [synthetic(base, label, layers, bits) for label in ("fog", "snow")]
            contestants = switching(deepcopy(base), robust, made)
            peft: dict[str, Any] = {}
            if PEFT:
                theirs, peft = merging(base, made[0])
                contestants |= theirs
            row = {
                "case": case,
                "bits": bits,
                "tensors": len(made[0].specs),
                "touched_bytes": sum(4 * spec.numel for spec in made[0].config.tensors),
                "nbytes": made[0].nbytes,
                "full_copy_nbytes": full,
                "ms": race(contestants, options.rounds),
                "load_ms": race(loading(base, Path(temporary), made[0]), options.rounds),
                "memory": memory(base, made),
            }
            rows.append(row | ({"peft": peft} if peft else {}))
            print_row(rows[-1])
    return rows


def print_row(row: dict[str, Any]) -> None:
    ms, load, share = row["ms"], row["load_ms"], row["full_copy_nbytes"] / row["nbytes"]
    print(f"{row['case']}, {row['bits']} bits: {row['nbytes']:,} bytes, 1/{share:.0f} of a full copy")
    for label, value in ms.items():
        print(f"  {label:16} {value:8.3f} ms {value / ms['copy']:7.2f} copies {value / ms['each']:7.2f} of each")
    for label, value in load.items():
        print(f"  {label:26} {value:8.2f} ms, {value / load['signature on a base']:.1f} times the signature's")
    print(f"  {row['memory']} PEFT {row.get('peft')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)}; by default all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not PEFT:
        print("PEFT is not installed, so its rows are left out: pip install peft")
    described = {"seed": SEED, "rounds": options.rounds, "unit": "CPU milliseconds, medians"}
    described |= {"peft": version("peft")} if PEFT else {}
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path = options.output_dir / "patching.json"
    for case in options.cases or CASES:
        measured = {"about": about(options.rounds, **described), "rows": measure(case, options)}
        record = json.loads(path.read_text()) if path.exists() else {}  # of other cases
        path.write_text(json.dumps(record | {case: measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
