"""Whatever a caller has set for the process or the thread: the same results, and it is as it was afterwards."""

import copy
import logging
import multiprocessing
import os
import random
import signal
import sys
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image, ImageFile

import hf_rws
from hf_rws.bases import load_base
from hf_rws.corruptions import CORRUPTIONS, Corrupt, RandomCorrupt
from hf_rws.data import as_images
from hf_rws.errors import NotFoundError, OptionError
from hf_rws.evaluation import predict
from hf_rws.study.run import create_start, run_study
from hf_rws.timm_repo import save_timm_repo
from hf_rws.training import train
from tests.helpers import arguments, image_set, model, on_cpu, pil, pixels, splits, weights  # noqa: F401

pytestmark = pytest.mark.usefixtures("on_cpu")

NAMES = [name for name in CORRUPTIONS if name != "frost"]
IMAGES, LABELLED, PARTS = pixels(40), image_set(24), splits()
BASE, OTHER = model("vgg16_bn_gap").eval(), model("vgg16_bn_gap", seed=1).eval()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SIGNATURE = hf_rws.extract(OTHER, BASE, None, corruption="fog", projection=None)


@contextmanager
def setting(change, value, before):
    change(value)
    try:
        yield
    finally:
        change(before)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "device": lambda: torch.device("meta"),  # as "cuda" where the images and the model are on the CPU
    "default device": lambda: setting(torch.set_default_device, "meta", None),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "numpy's errors": lambda: np.errstate(all="raise"),
}


def from_seed(call):
    """With draws from torch's global generator, as torchvision's transforms."""
    torch.manual_seed(0)
    return call()


def patched(images=None):
    """The weights while a signature is on, possibly recalibrated, and after it was taken off."""
    base = copy.deepcopy(BASE)
    patcher = hf_rws.patch(base, SIGNATURE)
    patcher.set({"fog": 0.5})
    if images is not None:
        patcher.recalibrate(images)
    found = weights(base)
    patcher.verify()
    patcher.clear()
    return found, weights(base)


def saved(folder):
    SIGNATURE.quantize("ternary").save_pretrained(folder / "signature")
    return hf_rws.Signature.from_pretrained(folder / "signature").deltas()


def trained(folder):
    with torch.inference_mode(False):  # a copy made there could not be trained
        base = copy.deepcopy(BASE)
    result = train(base, PARTS, folder / "run", arguments(corruption=("contrast",), epochs=1))
    return weights(base), result.test_accuracy


def loaded(folder):
    save_timm_repo(BASE, folder / "base")
    return weights(load_base(folder / "base").model)


DISTILLING = {"corruption": "fog", "steps": 2, "batch_size": 8, "progress": False, "mixed_precision": "no"}
CALLS = {
    "corrupt": lambda _: [hf_rws.corrupt(IMAGES[:2], name) for name in NAMES],
    "corrupt by a generator": lambda _: [
        hf_rws.corrupt(IMAGES[:2], name, generator=torch.Generator(device="cpu").manual_seed(0)) for name in NAMES
    ],
    "corrupt numpy": lambda _: [hf_rws.corrupt(IMAGES[:2].permute(0, 2, 3, 1).numpy(), name) for name in NAMES],
    "corrupt large": lambda _: [
        hf_rws.corrupt(IMAGES[:1].repeat(1, 1, 7, 7), name) for name in ("motion_blur", "defocus_blur", "spatter")
    ],
    "Corrupt": lambda _: from_seed(lambda: [Corrupt(name)(IMAGES[:2]) for name in NAMES]),
    "RandomCorrupt": lambda _: from_seed(lambda: RandomCorrupt(NAMES, "random", clean=0.2)(IMAGES)),
    "evaluate": lambda _: hf_rws.evaluate(BASE, LABELLED, "fog").rows,
    "predict": lambda _: predict(BASE, IMAGES),
    "as_images": lambda _: as_images([pil(image) for image in IMAGES], side=32, limit=20),
    "mean_std": lambda _: LABELLED.mean_std(),
    "extract": lambda _: hf_rws.extract(OTHER, BASE, None, corruption="fog", projection=None, bits=2).deltas(),
    "patch": lambda _: patched(),
    "recalibrate": lambda _: patched(IMAGES),
    "save and load": saved,
    "distill": lambda _: hf_rws.distill(BASE, IMAGES, bits=None, **DISTILLING).deltas(),
    "train": trained,
    "load_base": loaded,
    "create_start": lambda _: weights(create_start("vgg16_bn_gap", PARTS, width=0.05)),
}
DRAWING = {"Corrupt", "RandomCorrupt"}  # from the global generator
MADE_BY_TIMM = {"load_base", "create_start"}  # which follows torch's default dtype and device, as its users want


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def process_state():
    """What belongs to the process or the thread, and to nobody's call."""
    legacy = np.random.get_state()
    return {
        "Python's generator": random.getstate(),
        "NumPy's generator": (legacy[0], legacy[1].tolist(), *legacy[2:]),
        "torch's generator": torch.get_rng_state().tolist(),
        "default dtype and device": (torch.get_default_dtype(), torch.get_default_device()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cuDNN": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "NumPy's errors": np.geterr(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "Ctrl-C": signal.getsignal(signal.SIGINT),
        "start method": multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0],
        "logging": (logging.root.level, list(logging.root.handlers)),
        "Pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "datasets": (datasets.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()),
        "matplotlib": dict(sys.modules["matplotlib"].rcParams) if "matplotlib" in sys.modules else None,
        "accelerate": [dict(kind._shared_state) for kind in (AcceleratorState, GradientState, PartialState)],
    }


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """What each call gives where nothing is set."""
    found = {}

    def get(name):
        if name not in found:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = CALLS[name](tmp_path_factory.mktemp("usual"))
        return found[name]

    return get


@pytest.mark.filterwarnings("ignore:the distillation did not help")
@pytest.mark.parametrize("around", SETTINGS)
@pytest.mark.parametrize("name", CALLS)
def test_nothing_set_by_the_caller_changes_a_result(name, around, usual, tmp_path):
    if name in MADE_BY_TIMM and around in ("float64", "bfloat16", "device", "default device"):
        pytest.skip("timm makes models by torch's defaults")
    wanted = usual(name)
    with SETTINGS[around]():
        found = CALLS[name](tmp_path)
    assert equal(found, wanted)


@pytest.mark.filterwarnings("ignore:the distillation did not help")
@pytest.mark.parametrize("name", CALLS)
def test_no_call_changes_what_belongs_to_the_process(name, usual, tmp_path):
    usual(name)  # what is imported late is imported
    torch.rand(1)  # whatever that left, the generator is elsewhere now
    before = process_state()
    CALLS[name](tmp_path)
    after = process_state()
    ours = {"torch's generator"} if name in DRAWING else set()
    assert [what for what in before if before[what] != after[what]] == sorted(ours)


def test_nor_does_one_that_fails(tmp_path):
    before = process_state()
    with pytest.raises(OptionError):
        train(copy.deepcopy(BASE), PARTS, tmp_path / "run", arguments(batch_size=10_000))
    with pytest.raises(OptionError):
        hf_rws.distill(BASE, IMAGES, corruption=lambda images: images[:, :, :9], steps=2, progress=False)
    assert process_state() == before


def test_nor_does_a_study(tmp_path, monkeypatch):
    for name in ("train", "write_base_card"):
        monkeypatch.setattr(f"hf_rws.study.run.{name}", lambda *_, **__: SimpleNamespace(folder=None))
    before = process_state()["accelerate"]
    with pytest.raises(NotFoundError):  # of the base that was not trained, after the processes have met
        run_study(copy.deepcopy(BASE), PARTS, tmp_path / "study", arguments(), corruptions=["contrast"], distilled=20)
    assert process_state()["accelerate"] == before


@pytest.mark.filterwarnings("ignore:the distillation did not help")
def test_an_accelerator_of_the_callers_stays_what_it_is():
    theirs = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=3)
    hf_rws.distill(BASE, IMAGES, **DISTILLING)
    assert theirs.mixed_precision == "bf16"
    assert theirs.gradient_accumulation_steps == 3


def test_what_was_made_in_inference_mode_cannot_be_trained(tmp_path):
    with torch.inference_mode():
        base = model("vgg16_bn_gap")
    with pytest.raises(OptionError, match="inference_mode"):
        train(base, PARTS, tmp_path / "run", arguments())
