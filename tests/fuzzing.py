"""Broken documents of every kind that this library reads: what makes them, what reads them, and what must come of it.

A case is told by (kind, seed, number). It must succeed or raise an `RWSError`, within `TIME_LIMIT` seconds and
`MEMORY_LIMIT` bytes; and a model that was patched and cleared has the bits that it had. tests/test_fuzz.py runs a few
thousand cases, scripts/fuzz.py as many as one likes.
"""

import hashlib
import json
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch

import hf_rws
from hf_rws import Signature, cards
from hf_rws._files import parse_json
from hf_rws._transport.headers import read_header
from hf_rws._transport.ids import Location, parse_id
from hf_rws.bases import load_base
from hf_rws.data.preprocessing import Normalize, Preprocessing
from hf_rws.errors import RWSError
from hf_rws.patching.lockfile import read_lockfile
from hf_rws.signature.arrays import read_arrays
from hf_rws.signature.config import parse_config
from hf_rws.timm_repo import save_timm_repo

TIME_LIMIT = 2.0  # seconds of this process: other work on the machine does not count
MEMORY_LIMIT = 200_000_000  # bytes
_HANGS = 20.0  # seconds after which a case is broken off

ARCHITECTURE = "vgg16_gap"

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    8,
    16,
    32,
    255,
    1.5,
    -0.0,
    1e-320,
    1e308,
    2**31,
    2**63,
    -(2**63),
    10**9,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "a",
    "0",
    "NaN",
    "\ud800",
    "a\0b",
    "../../etc",
    "/",
    "~",
    "\u202e",
    "\x1b[31m",
    "x" * 5000,
    "ternary",
    "log",
    "linear",
    "symmetric",
    "hub",
    "local",
    "name",
    "user/name",
    "user/name@main",
    "1.0",
    "2.0",
    [],
    {},
    [[]],
    [None],
    ["a"],
    [0],
    [1, 2],
    [10**9] * 2,
    [2**62] * 9,
    [[[[]]]],
    [1.5],
    {"a": 1},
    {"": {}},
    {"\ud800": 0},
    {"get": 1},
    {"to_dict": 5},
    ["a", 1, None, [], {}],
)
TOKENS = (
    "1e999",
    "-1E400",
    "1" + "0" * 4200,
    "1" + "0" * 5000,
    "NaN",
    "-Infinity",
    "[" * 3000 + "]" * 3000,
    '{"a":' * 2000,
    '"\\ud800"',
    '"\\u0000"',
    "[" * 100_000,
    "01",
    "'a'",
    "/**/",
    "1.",
    '"\x00"',
    "0" * 20,
    "-",
    "tru",
)
METADATA = (
    "tags: 1.5",
    "tags: [[a]]",
    "tags: {a: 1}",
    "tags: [1, null, {a: b}]",
    "tags: merge",
    "tags:",
    "tags: [merge]",
    "to_dict: 5",
    "get: 1",
    "model-index: 5",
    "model-index: [1]",
    "model-index: {a: 1}",
    "model-index: [{name: a, results: 5}]",
    "model-index: [{name: a, results: [{}]}]",
    "license: [a]",
    "license: 5",
    "__dict__: 3",
    "? [a]\n: b",
    "a: &a [*a]",
    "a: !!python/object:os.system x",
    "1: 2",
    "null: 3",
    "- a",
    "5",
    "text",
    "a: 2026-13-45",
    "date: 2026-01-01",
    "a: .inf",
    "&a [*a, *a]",
    "a: &a {b: *a}",
    "language: {a: [b]}",
    "datasets: 1",
    "eval_results: 7",
    "ignore_metadata_errors: true",
    "? {a: b}\n: c",
    'a: "\\ud800"',
    "library_name: []",
    "x: " + "[" * 500,
    "base_model: {a: b}",
    "a: 0x" + "f" * 600,
    "a: &x [1]\nb: &y [*x,*x]\nc: &z [*y,*y,*y,*y]\nd: [*z,*z,*z,*z]",
    "tags: !!set {a, b}",
    "tags: !!binary aGk=",
)


# --- mutations ---


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from _paths(value[key], (*path, key))


def mutated(value: Any, generator: random.Random, *, times: int = 2) -> Any:
    """A copy of a JSON value, changed at a few random places."""
    value = json.loads(json.dumps(value))
    for _ in range(generator.randint(1, times)):
        paths = list(_paths(value))[1:]
        if not paths:
            return deepcopy(generator.choice(VALUES))
        path = generator.choice(paths)
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        key, old = path[-1], holder[path[-1]]
        match generator.randrange(8):
            case 0:
                del holder[key]
            case 1:
                holder[key] = [old]
            case 2 if isinstance(holder, dict):
                holder[generator.choice(("shiny", "name", "names", "", "\ud800"))] = holder.pop(key)
            case 3 if isinstance(holder, list):
                holder.insert(0, old)
            case 4 if isinstance(old, int | float):
                holder[key] = generator.choice((-old, old + 1, old * 1000, old - 1, str(old)[:9]))
            case 5:
                other = value
                for step in generator.choice(paths):
                    other = other[step] if _has(other, step) else other
                holder[key] = json.loads(json.dumps(other))
            case _:
                holder[key] = deepcopy(generator.choice(VALUES))  # or a later change would be in all cases to come
    return value


def _has(value: Any, step: Any) -> bool:
    return (
        step in value
        if isinstance(value, dict)
        else isinstance(value, list) and isinstance(step, int) and step < len(value)
    )


def as_text(value: Any, generator: random.Random) -> bytes:
    """JSON of a mutated value, now and then broken as text."""
    try:
        text = json.dumps(value, ensure_ascii=generator.random() < 0.8).encode("utf-8", "surrogatepass")
    except ValueError:  # an integer of more digits than Python writes
        text = b"{}"
    return mangled(text, generator) if generator.random() < 0.3 else text


def mangled(text: bytes, generator: random.Random) -> bytes:
    """Bytes with one of the changes that befall files."""
    at = generator.randrange(len(text) + 1)
    match generator.randrange(8):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + bytes([generator.randrange(256)]) + text[at + 1 :]
        case 2:
            return text[:at] + generator.randbytes(generator.randint(1, 9)) + text[at:]
        case 3:
            stop = at + generator.randint(1, 40)
            return text[:at] + text[stop:]
        case 4:
            return text[:at] + text[max(0, at - 50) : at] + text[at:]
        case 5:
            return generator.choice(
                (b"\xef\xbb\xbf" + text, text.decode("utf-8", "replace").encode("utf-16"), b"", text * 2)
            )
        case _:
            colon = text.find(b": ", at)
            stop = min((found for mark in (b",", b"}") if (found := text.find(mark, colon)) >= 0), default=len(text))
            return text[: colon + 2] + generator.choice(TOKENS).encode() + text[stop:]


# --- what is mutated ---


@dataclass(frozen=True)
class Samples:
    """Whole documents, and a folder to write broken ones to."""

    folder: Path
    config: dict[str, Any]
    weights: bytes
    lockfile: dict[str, Any]
    base: dict[str, Any]
    training: dict[str, Any]
    card: str
    model: Any
    state: dict[str, torch.Tensor]


@cache
def samples() -> Samples:
    """Of a small model and its signature; made once a process."""
    shared_memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared_memory if shared_memory.is_dir() else None, prefix="hf-rws-fuzz-"))
    signature, model = _signature(), _model()
    lockfile = json.loads(
        (hf_rws.hub.bundle(model, [("fog", signature)], folder / "bundle") / "lockfile.json").read_text()
    )
    base = folder / "bundle" / "base"
    signature = Signature.from_pretrained(folder / "bundle" / "signatures" / "fog")
    config = json.loads((folder / "bundle" / "signatures" / "fog" / "config.json").read_text())
    training = {
        "dataset": "user/toy",
        "corruption": ["fog"],
        "lr": 0.1,
        "epochs": 3,
        "seed": 0,
        "init_sha256": "0" * 64,
    }
    (base / "training_args.json").write_text(json.dumps(training))
    shutil.copytree(base, folder / "base")
    shutil.copytree(folder / "bundle" / "signatures" / "fog", folder / "rws-fog")
    return Samples(
        folder, config, (folder / "rws-fog" / "signature.safetensors").read_bytes(), lockfile,
        json.loads((base / "config.json").read_text()), training, (folder / "rws-fog" / "README.md").read_text(), model,
        {name: value.clone() for name, value in model.state_dict().items()},
    )  # fmt: skip


def _model() -> Any:
    torch.manual_seed(0)
    model = timm.create_model(ARCHITECTURE, num_classes=4, width=0.02)
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, 32, 32), num_classes=4)
    return model.eval()


def _signature() -> Signature:
    standard, robust = _model(), _model()
    with torch.no_grad():
        for value in robust.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    made = hf_rws.extract(robust, standard, None, projection=None, corruption="fog", severity=5, num_layers=3, bits=4)
    accuracies = {
        "standard": {"ta": 0.8, "ra": 0.3},
        "patched": {"ta": 0.7, "ra": 0.6},
        "n": 100,
        "dataset": "user/toy",
    }
    curve = [{"scale": scale, "ta": 0.8, "ra": 0.5} for scale in (0.0, 1.0)]
    return made.with_results(metrics={**accuracies, "scale_curve": curve}, recommended_scale=0.9)


# --- kinds ---


def _config(generator: random.Random) -> None:
    config, sha256 = parse_config(as_text(mutated(samples().config, generator), generator), "config.json")
    config.to_json(version="1.0", sha256=sha256)


def _weights(generator: random.Random) -> None:
    content = _broken_weights(generator)
    config, _ = _whole_config()
    with _only_ours():
        read_header(Location("local", "rws-fog"), Path("/nowhere"), "signature.safetensors", content=content)
    read_arrays(content, config.tensors, config.method.codec, "signature.safetensors")


@cache
def _whole_config() -> Any:
    return parse_config(json.dumps(samples().config), "config.json")


@contextmanager
def _only_ours() -> Iterator[None]:
    with suppress(RWSError):
        yield


def _broken_weights(generator: random.Random) -> bytes:
    whole = samples().weights
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    match generator.randrange(5):
        case 0:
            return mangled(whole, generator)
        case 1:
            return generator.choice((0, 1, length + 1, 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little") + whole[8:]
        case 2:
            data = mangled(data, generator)
        case 3:
            entry = header[generator.choice([key for key in header if key != "__metadata__"])]
            entry["dtype"] = generator.choice(("F8_E4M3", "F4", "BOOL", "I64", "C64", "F64", "BF16", "", "U8", "F16"))
        case _:
            header = mutated(header, generator)
    text = as_text(header, generator)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _broken_signature(generator: random.Random) -> Signature:
    """A signature that could be read though something in it was changed."""
    content = _broken_weights(generator) if generator.random() < 0.2 else samples().weights
    if generator.random() < 0.2:
        content = content[:-200] + generator.randbytes(200)
    changed = samples().config if generator.random() < 0.5 else mutated(samples().config, generator, times=1)
    config, _ = parse_config(json.dumps(changed), "config.json")
    return Signature(config, read_arrays(content, config.tensors, config.method.codec, "weights"), "fog")


def _signature_in_memory(generator: random.Random) -> None:
    signature = _broken_signature(generator)
    repr(signature)
    signature.norms()


def _signature_folder(generator: random.Random) -> None:
    """What is loaded can be saved and looked at, and the other way round."""
    folder = samples().folder / "rws-fog"
    content = _broken_weights(generator) if generator.random() < 0.3 else samples().weights
    (folder / "signature.safetensors").write_bytes(content)
    whole = {**samples().config, "metrics": None}  # no picture in its card
    config = mutated(whole, generator) if generator.random() < 0.7 else whole
    if isinstance(config, dict) and generator.random() < 0.9:
        config["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "config.json").write_bytes(as_text(config, generator))
    with _only_ours():
        hf_rws.info(folder)
    Signature.from_pretrained(folder).save_pretrained(samples().folder / "saved")


def _patched(generator: random.Random) -> None:
    model, state = samples().model, samples().state
    try:
        signature = _broken_signature(generator)
        hf_rws.patch(model, [signature, ("one", replace(signature, name="one"))][: generator.randint(1, 2)])
        model.rws.set({"fog": generator.choice((0.5, 1.0, -1.0, 1e30, 0.0, float("nan"), 10**400))})
        model.rws.lockfile()
    finally:
        if getattr(model, "rws", None) is not None:
            model.rws.clear()
            model.rws.bake()
        found = model.state_dict()
        if not all(torch.equal(found[name], value) for name, value in state.items()):
            samples.cache_clear()
            raise AssertionError("the model is not what it was")


def _lockfile(generator: random.Random) -> None:
    changed = mutated(samples().lockfile, generator)
    if generator.random() < 0.5:
        if isinstance(changed, dict):
            for part in read_lockfile(changed).signatures:
                repr(part.source)
        return
    path = samples().folder / "lockfile.json"
    path.write_bytes(as_text(changed, generator))
    read_lockfile(path)


def _bundle(generator: random.Random) -> None:
    path = samples().folder / "bundle" / "lockfile.json"
    path.write_bytes(as_text(mutated(samples().lockfile, generator), generator))
    model = hf_rws.load_patched(lockfile=path.parent, local_files_only=True)
    model.rws.clear()


def _base(generator: random.Random) -> None:
    folder = samples().folder / "base"
    config = mutated(samples().base, generator)
    if isinstance(config, dict) and generator.random() < 0.2:
        extra = generator.choice(
            ("width", "in_chans", "global_pool", "drop_rate", "num_classes", "features_only", "bogus")
        )
        config["model_args"] = {extra: deepcopy(generator.choice(VALUES))}
    (folder / "config.json").write_bytes(as_text(config, generator))
    training = mutated(samples().training, generator) if generator.random() < 0.1 else samples().training
    (folder / "training_args.json").write_bytes(as_text(training, generator) if training else b"{}")
    model = load_base(folder, local_files_only=True).model
    with _only_ours():
        Normalize.of(model)(torch.zeros(1, model.pretrained_cfg["input_size"][0], 8, 8, dtype=torch.uint8))
    with _only_ours():
        str(Preprocessing.of(model))
    save_timm_repo(model, samples().folder / "saved-base")


def _training(generator: random.Random) -> None:
    training = parse_json(as_text(mutated(samples().training, generator), generator), "training_args.json")
    cards.base_card(samples().base, training=training, repo_id="user/base", nbytes=1)


def _base_card(generator: random.Random) -> None:
    config = parse_json(as_text(mutated(samples().base, generator), generator), "config.json")
    if isinstance(config.get("architecture"), str):
        cards.base_card(config, repo_id="user/base", nbytes=1)


def _readme(generator: random.Random) -> None:
    fresh = samples().card
    _, head, text = fresh.split("---\n", 2)
    if generator.random() < 0.7:
        lines = head.splitlines()
        at = generator.randrange(len(lines) + 1)
        new = generator.choice(METADATA)
        head = generator.choice((new, "\n".join([*lines[:at], new, *lines[at:]]), "\n".join([*lines, new])))
    existing = f"---\n{head}\n---\n{text}".encode()
    if generator.random() < 0.5:
        existing = mangled(existing, generator)
    card = existing.decode("utf-8", "ignore" if generator.random() < 0.9 else "surrogateescape")
    for read in (
        lambda: cards.metadata_words(card, "tags"),
        lambda: cards.is_unedited(card),
        lambda: cards.readdress(card, "rws-fog", {"rws-fog": "user/rws-fog", "base": "user/base"}),
        lambda: cards.merge_card(card, fresh).encode(),
    ):
        with _only_ours():
            read()


def _metrics(generator: random.Random) -> None:
    metrics = mutated(samples().config["metrics"], generator, times=3)
    cards.checked_metrics(metrics)
    text = as_text({**samples().config, "metrics": metrics if isinstance(metrics, dict) else {}}, generator)
    config, _ = parse_config(text, "config.json")
    content = json.loads(config.to_json(version="1.0", sha256="0"))
    cards.signature_card(content, repo_id="user/rws-fog", nbytes=1).encode()


_ID_PARTS = (
    "user", "/", "name", "@", "hf-hub:", "main", "..", "\0", "~", "\ud800", " ", "a" * 300, "\n", ".", "-", "\xe9",
    "local-dir:", "refs/pr/1", "resnet18", "\\", ":", "x" * 5000, "bundle", "%2f", "?", "#", "//",
)  # fmt: skip


def _id(generator: random.Random) -> None:
    text: Any = "".join(generator.choice(_ID_PARTS) for _ in range(generator.randint(0, 6)))
    given = generator.choice((text, text, text, Path(text), 5, None, b"a"))
    where = parse_id(given, revision=generator.choice((None, None, "main", "", "\0", "a" * 500, "..", "\ud800")))
    repr((where.name, where.path, where.repo_id, str(where)))


@dataclass(frozen=True)
class Kind:
    """A kind of document.

    Attributes:
        case: Makes a broken one and reads it.
        share: How many of the cases, relative to the others.
        with_model: Whether a model is built or patched, which takes a hundred times as long.
    """

    case: Callable[[random.Random], None]
    share: int
    with_model: bool = False


KINDS = {
    "config": Kind(_config, 340),
    "weights": Kind(_weights, 200),
    "lockfile": Kind(_lockfile, 200),
    "id": Kind(_id, 230),
    "signature": Kind(_signature_in_memory, 10),
    "folder": Kind(_signature_folder, 4),
    "metrics": Kind(_metrics, 2),
    "training": Kind(_training, 2),
    "base card": Kind(_base_card, 2),
    "readme": Kind(_readme, 10),
    "patched": Kind(_patched, 80, with_model=True),
    "base": Kind(_base, 10, with_model=True),
    "bundle": Kind(_bundle, 10, with_model=True),
}


# --- the law ---


@dataclass
class Tally:
    """What came of the cases of one kind.

    Attributes:
        outcomes: How many succeeded ("success") and raised each class of `RWSError`.
        faults: Pairs (number of the case, what was wrong): other exceptions, hangs, too much memory.
        slowest: Seconds of the slowest case, and its number.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)

    def __add__(self, other: "Tally") -> "Tally":
        slowest = max(self.slowest, other.slowest)
        return Tally(self.outcomes + other.outcomes, self.faults + other.faults, slowest)


class _Hang(BaseException):
    """A case that takes far too long."""


def run_cases(kind: str, numbers: range, seed: int) -> Tally:
    """Run cases of one kind."""
    tally = Tally()
    samples()
    warnings.simplefilter("ignore")
    for number in numbers:
        generator = random.Random(f"{seed} {kind} {number}")
        peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        fault = None
        try:
            with _time_limit():
                KINDS[kind].case(generator)
            tally.outcomes["success"] += 1
        except RWSError as error:
            tally.outcomes[type(error).__name__] += 1
        except _Hang:
            fault = f"hangs: {_HANGS} seconds and no end"
        except Exception as error:
            fault = f"{type(error).__name__}: {str(error)[:200]!a}"
        seconds = time.process_time() - start
        tally.slowest = max(tally.slowest, (seconds, number))
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        if fault is None and number != numbers.start:  # the first one imports
            fault = f"takes {seconds:.1f} seconds" if seconds > TIME_LIMIT else None
            fault = f"takes {grown:,} bytes" if grown > MEMORY_LIMIT else fault
        if fault:
            tally.faults.append((number, fault))
    return tally


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Hang

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def clean_up() -> None:
    """Delete what `samples` wrote."""
    if samples.cache_info().currsize:
        shutil.rmtree(samples().folder, ignore_errors=True)
        samples.cache_clear()
