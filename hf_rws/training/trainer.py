"""The trainer: a timm model, image tensors, an Accelerate loop that can be stopped and resumed.

Every draw (order of images, crops, flips, rotations) is made for the whole global batch from (seed, epoch, step) and
then shared out, and where an adversary starts depends on (seed, epoch, image), so that the result does not depend on
the number of processes or of accumulation steps; but batch norms normalise each part of a batch that is computed in
parts, because memory does not hold it, by itself. Into how many the metrics say; a resumed run does the same.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F

from hf_rws._accelerator import check_trackers, create_accelerator, end_trackers, state_kept
from hf_rws._ambient import learning, random_state_kept
from hf_rws._at_once import LearningInParts, free_memory
from hf_rws._files import check_writable, locked, read_json, read_json_lines, write_whole
from hf_rws._progress import bar
from hf_rws.data.preprocessing import Normalize
from hf_rws.data.sets import Splits
from hf_rws.errors import AccessError, FormatError, OptionError, RWSError
from hf_rws.evaluation import Adversary, accuracy
from hf_rws.evaluation.adversary import attacked
from hf_rws.evaluation.labels import check_classes
from hf_rws.fingerprints import weights_digest
from hf_rws.layers import check_loaded
from hf_rws.timm_repo import CONFIG_NAME, METRICS_NAME, MODEL_NAME, TRAINING_NAME, save_timm_repo
from hf_rws.training import augmentation
from hf_rws.training.arguments import TrainingArguments, create_scheduler
from hf_rws.training.augmentation import default_augmentation
from hf_rws.training.pixels import Pixels


@dataclass
class _Progress:
    """What a resumed run must know besides weights, optimizer and schedule."""

    epoch: int = 0
    best_epoch: int = -1
    best_accuracy: float = -1.0
    images_at_once: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Batch(NamedTuple):
    """This process' images of a batch, their labels, augmentation draws and numbers among the training images."""

    images: Tensor
    labels: Tensor
    draws: augmentation.Draws
    numbers: Tensor


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training left.

    Attributes:
        folder: The timm repo with the best epoch's weights.
        best_epoch: Counted from 0; chosen by `validation_accuracy`.
        validation_accuracy: On the validation split, under the training corruption or adversary (PGD-10).
        test_accuracy: Top-1 accuracy in [0, 1] on the test split, clean ("clean") and under the training corruptions or
            adversary ("pgd-linf-8").
        n: Number of test images.
    """

    folder: Path
    best_epoch: int
    validation_accuracy: float
    test_accuracy: dict[str, float] = field(default_factory=dict)
    n: int = 0


@learning
@state_kept()
@random_state_kept()
def train(
    model: nn.Module,
    data: Splits,
    output_dir: str | Path,
    arguments: TrainingArguments,
    *,
    resume: bool = False,
    notes: dict[str, Any] | None = None,
) -> TrainingResult:
    """Train `model` on `data` and leave a timm repo in `output_dir`.

    Writes config.json and model.safetensors (the epoch that is best on the validation split), training_args.json and
    metrics.jsonl (a line per epoch, then one with the test accuracies). Until it is finished the folder holds a
    `checkpoint/` from which `resume` goes on; at most one epoch is lost.

    Args:
        model: A timm model with as many outputs as `data` has classes; trained in place.
        data: Training, validation and test images.
        output_dir: Folder of this run.
        arguments: The recipe.
        resume: Go on from an earlier run in `output_dir`; a finished one is returned as it is.
        notes: More to record in training_args.json (dataset, model name, ...).

    Raises:
        OptionError: The folder holds another run, or the batch cannot be shared out; the model has no `pretrained_cfg`
            with the preprocessing, knows fewer classes than `data` has, or cannot be trained.
        MissingExtraError: A tracker's package is not installed.
        AccessError: The folder cannot be written to, or the disk is full; or another process trains there.
        FormatError: Its metrics.jsonl, training_args.json or checkpoint is damaged.
    """
    folder = check_writable(output_dir, "the training run")
    check_trackers(arguments.log_with)
    _check_can_learn(model, data)
    record = _record(model, data, arguments, notes or {})
    if _finished(folder, record, resume):
        return _read_result(folder, arguments)
    with ExitStack() as held:
        run = _TrainingRun(model, data, folder, arguments, record, resume, held)
        for epoch in range(run.progress.epoch, arguments.epochs):
            run.end_epoch(epoch, run.train_epoch(epoch))
        return run.finish()


class _TrainingRun:
    """One training: what is prepared once, and the three steps that `train` goes through."""

    def __init__(
        self,
        model: nn.Module,
        data: Splits,
        folder: Path,
        arguments: TrainingArguments,
        record: dict[str, Any],
        resume: bool,
        held: ExitStack,
    ) -> None:
        from accelerate.utils import set_seed

        set_seed(arguments.seed)
        self.accelerator = create_accelerator(
            arguments.mixed_precision, log_with=arguments.log_with, project_dir=folder
        )
        self.arguments, self.data, self.folder = arguments, data, folder
        self.attacks = arguments.attacks
        self.checkpoint, self.log = folder / "checkpoint", folder / METRICS_NAME
        parts = self.accelerator.num_processes * arguments.gradient_accumulation_steps
        if arguments.batch_size % parts or len(data.train) < arguments.batch_size:
            raise OptionError(
                f"batch_size {arguments.batch_size} must be a multiple of {parts} (processes x accumulation "
                f"steps) and at most the number of training images, {len(data.train)}"
            )
        self.steps = len(data.train) // arguments.batch_size
        self.accelerator.wait_for_everyone()  # until every process has seen what the folder held
        if self.accelerator.is_main_process:
            with _writing_to(folder):
                self.checkpoint.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.checkpoint, wait=0))
                write_whole(folder / TRAINING_NAME, json.dumps(record, indent=2, sort_keys=True) + "\n")
        if arguments.log_with:
            self.accelerator.init_trackers("hf_rws", config={k: str(v) for k, v in asdict(arguments).items()})
        _name_classes(model, data)
        self.device = self.accelerator.device
        self.plain = model.to(self.device).to(memory_format=torch.channels_last)
        optimizer = create_optimizer_v2(
            model,
            opt="sgd" if arguments.nesterov else "momentum",
            lr=arguments.lr,
            momentum=arguments.momentum,
            weight_decay=arguments.weight_decay,
            filter_bias_and_bn=False,
        )
        self.scheduler = create_scheduler(optimizer, arguments, self.steps)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.gradients = LearningInParts(
            self.accelerator,
            self.model,
            least=arguments.gradient_accumulation_steps,
            budget=free_memory(self.device) // 2 if self.device.type == "cpu" else None,
        )
        self.progress = _Progress()
        self.accelerator.register_for_checkpointing(self.scheduler, self.progress)
        if resume:
            self._load_state()
            self.gradients.number = self.progress.images_at_once
        self.normalize = Normalize.of(model).to(self.device)
        self.augmentation = arguments.augmentation
        if self.augmentation == "auto":
            self.augmentation = default_augmentation(min(data.train.images.shape[2:]))
        self.pixels = self._training_pixels(epoch=0)
        self.labels = data.train.labels.to(self.device)
        self.validation = Pixels(
            data.validation,
            self.device,
            arguments.corruption,
            arguments.severity,
            seed=_validation_seed(arguments),
        )
        self.bar = bar(
            total=arguments.epochs * self.steps,
            initial=self.progress.epoch * self.steps,
            desc=folder.name,
            unit="step",
            mininterval=1,
        )

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; returns the mean loss and the learning rate that it began with."""
        arguments, accelerator = self.arguments, self.accelerator
        if arguments.fresh_corruption and epoch:
            self.pixels = self._training_pixels(epoch)
        total, lr = torch.zeros((), dtype=torch.float32, device=self.device), float(self.scheduler.get_last_lr()[0])
        self.model.train()
        for batch in self._batches(epoch):
            total += self.gradients(batch.images.shape, partial(self._loss, batch, epoch))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step()
            self.bar.update()
        mean = accelerator.reduce(total, "mean") / self.steps
        return {"loss": float(mean), "lr": lr}

    def _loss(self, batch: _Batch, epoch: int, part: slice) -> Tensor:
        """Mean loss of a part of a batch."""
        draws = {name: draw[part] for name, draw in batch.draws.items()}
        shown, labels = augmentation.apply(self.augmentation, batch.images[part], draws), batch.labels[part]
        if self.attacks:
            seed, numbers = _draw_seed(self.arguments, epoch), batch.numbers[part]
            shown = 255 * attacked(self.plain, shown, labels, self.attacks.training, seed=seed, numbers=numbers)
        with self.accelerator.autocast():
            return F.cross_entropy(self.model(self.normalize(shown)), labels)

    def end_epoch(self, epoch: int, trained: dict[str, float]) -> None:
        """Validate, log, keep the best weights and write a checkpoint."""
        from accelerate.utils import broadcast

        # batch norm statistics differ between processes: the main process' ones are kept, so it decides
        own = torch.tensor(self._validation_accuracy(), dtype=torch.float32, device=self.device)
        score = float(broadcast(own))
        row = {"epoch": epoch, **trained, "validation_accuracy": score}
        self.bar.set_postfix(loss=f"{trained['loss']:.3f}", validation=f"{score:.3f}")
        self.accelerator.log(row, step=epoch)
        best = score > self.progress.best_accuracy
        if self.accelerator.is_main_process:
            self._log(row)
            if best:
                save_timm_repo(self.plain, self.checkpoint / "best", label_names=self.data.train.classes)
        if best:
            self.progress.best_accuracy, self.progress.best_epoch = score, epoch
        self.progress.epoch, self.progress.images_at_once = epoch + 1, self.gradients.number
        self._save_state()

    def finish(self) -> TrainingResult:
        """Measure the best epoch's weights on the test split, once, and leave the finished repo."""
        self.bar.close()
        accelerator, best = self.accelerator, self.checkpoint / "best"
        accelerator.wait_for_everyone()
        accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # as whoever loads the model will run it
        with _reading_checkpoint(self.checkpoint):
            self.plain.load_state_dict(load_file(best / MODEL_NAME))
        if accelerator.is_main_process:
            measured = self._test_accuracy()
            self._log(
                {
                    "best_epoch": self.progress.best_epoch,
                    "validation_accuracy": self.progress.best_accuracy,
                    "test_accuracy": measured,
                    "n": len(self.data.test),
                    "mixed_precision": accelerator.mixed_precision,
                    **({"parts": self.gradients.parts} if self.gradients.parts > self.gradients.least else {}),
                },
            )
            ta, *ra = measured.items()
            accelerator.log({"TA": ta[1], **{f"RA/{name}": value for name, value in ra}}, step=self.progress.epoch)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            with _writing_to(self.folder):
                for name in (CONFIG_NAME, MODEL_NAME):
                    shutil.copyfile(best / name, self.folder / name)
                _remove(self.checkpoint)
        accelerator.wait_for_everyone()
        end_trackers(accelerator)
        return _read_result(self.folder, self.arguments)

    def _validation_accuracy(self) -> float:
        adversary = self.attacks.measuring if self.attacks else None
        return accuracy(self.plain, self.validation, adversary=adversary, seed=_validation_seed(self.arguments))

    def _test_accuracy(self) -> dict[str, float]:
        arguments, titles = self.arguments, _shown_names(self.arguments)
        shown: list[tuple[tuple[str, ...], Adversary | None]] = [((), None)]
        shown += [((name,), None) for name in arguments.corruption]
        shown += [((), self.attacks.measuring)] if self.attacks else []
        images = (Pixels(self.data.test, self.device, names, arguments.severity, keep=False) for names, _ in shown)
        return {
            title: accuracy(self.plain, pixels, adversary=adversary)
            for title, pixels, (_, adversary) in zip(titles, images, shown, strict=True)
        }

    def _training_pixels(self, epoch: int) -> Pixels:
        arguments = self.arguments
        seed = _draw_seed(arguments, epoch)
        return Pixels(self.data.train, self.device, arguments.corruption, arguments.severity, seed=seed)

    def _batches(self, epoch: int) -> Iterator[_Batch]:
        """This process' part of each batch; what is left over at the end is dropped.

        A batch is shared out to the processes accumulation step by accumulation step.
        """
        size, accelerator = self.arguments.batch_size, self.accelerator
        generator = torch.Generator().manual_seed(self.arguments.seed * 100_003 + epoch)
        order = torch.randperm(len(self.labels), generator=generator)[: self.steps * size].view(self.steps, size)
        mine = torch.arange(size).view(self.arguments.gradient_accumulation_steps, accelerator.num_processes, -1)
        mine = mine[:, accelerator.process_index].flatten()
        for block in order[:, mine].split(max(1, self.pixels.block // len(mine))):
            rows = block.flatten()
            labels = self.labels[rows.to(self.device)]
            for images, right, numbers in zip(
                *(values.split(len(mine)) for values in (self.pixels(rows), labels, rows)), strict=True
            ):
                draws = augmentation.draw(self.augmentation, size, generator)
                yield _Batch(images, right, {name: draw[mine] for name, draw in draws.items()}, numbers)

    def _save_state(self) -> None:
        """Write a checkpoint beside the last one, then put it in its place; a whole one is there at any moment."""
        fresh, kept, old = (self.checkpoint / name for name in ("state-new", "state", "state-old"))
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with _writing_to(self.folder):
            self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with _writing_to(self.folder):
                shutil.rmtree(old, ignore_errors=True)
                if kept.exists():
                    kept.rename(old)
                fresh.rename(kept)
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _load_state(self) -> None:
        """Go on after the last whole epoch, and forget what was logged later."""
        for name in ("state", "state-old"):
            if (self.checkpoint / name).is_dir():
                with _reading_checkpoint(self.checkpoint):
                    self.accelerator.load_state(str(self.checkpoint / name))
                break
        if self.accelerator.is_main_process and self.log.is_file():
            rows = [
                row
                for row in read_json_lines(self.log, str(self.log))
                if row.get("epoch", self.progress.epoch) < self.progress.epoch
            ]
            with _writing_to(self.folder):
                write_whole(self.log, "".join(map(_line, rows)))

    def _log(self, row: dict[str, Any]) -> None:
        with _writing_to(self.folder), self.log.open("a") as log:
            log.write(_line(row))


def _shown_names(arguments: TrainingArguments) -> tuple[str, ...]:
    """What the test images are called in a result: clean, under each training corruption, of the adversary."""
    corrupted = (f"{name}-{arguments.severity}" for name in arguments.corruption)
    return ("clean", *corrupted, *([arguments.attacks.measuring.label] if arguments.attacks else []))


def _draw_seed(arguments: TrainingArguments, epoch: int) -> int:
    """Seeds of the training draws; odd distances keep clear of the validation draws and of 0, the test draws' seed."""
    return 2 * (arguments.seed * 10_007 + epoch) + 1


def _validation_seed(arguments: TrainingArguments) -> int:
    return _draw_seed(arguments, epoch=0) + 1


def _record(model: nn.Module, data: Splits, arguments: TrainingArguments, notes: dict[str, Any]) -> dict[str, Any]:
    """What training_args.json says, as it will be read from there."""
    config = cast(dict[str, Any], model.pretrained_cfg)
    given = asdict(arguments)
    if arguments.attacks:
        given["attack_step_size"] = arguments.attacks.training.step
    else:  # a standard model is the same whatever others are trained against
        for name in ("adversary", "eps", "attack_steps", "attack_step_size"):
            del given[name]
    record = {
        **notes,
        **given,
        "architecture": config.get("architecture"),
        "input_size": config["input_size"],
        "mean": config["mean"],
        "std": config["std"],
        "train_images": len(data.train),
        "validation_images": len(data.validation),
        "test_images": len(data.test),
        "init_sha256": weights_digest(model),
    }
    return json.loads(json.dumps(record))


def _finished(folder: Path, record: dict[str, Any], resume: bool) -> bool:
    """Whether the folder holds this very run, finished; an error if it holds another, or this one without `resume`."""
    path, weights = folder / TRAINING_NAME, folder / MODEL_NAME
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file; choose a folder for the training run")
    if not path.is_file():
        if weights.exists():
            raise OptionError(f"{folder} already holds a model; choose another output folder")
        return False
    if not resume:
        raise OptionError(f"{folder} already holds a training run; resume it, or choose another output folder")
    earlier = read_json(path, str(path))
    differing = sorted(key for key in record.keys() | earlier.keys() if record.get(key) != earlier.get(key))
    if differing:
        listed = "; ".join(f"{key}: {earlier.get(key)!r} then, {record.get(key)!r} now" for key in differing)
        raise OptionError(f"{folder} holds a run with other settings ({listed}); choose another output folder")
    return weights.is_file() and not (folder / "checkpoint").exists()


def _read_result(folder: Path, arguments: TrainingArguments) -> TrainingResult:
    path = folder / METRICS_NAME
    last: dict[str, Any] = next(reversed(read_json_lines(path, str(path))), {})
    measured = last.get("test_accuracy")
    accuracies = [measured.get(name) for name in _shown_names(arguments)] if isinstance(measured, dict) else [None]
    numbers = all(isinstance(value, int | float) for value in (*accuracies, last.get("validation_accuracy")))
    if not numbers or not all(isinstance(last.get(key), int) for key in ("best_epoch", "n")):
        raise FormatError(f"{path} does not end with the result of a finished run; choose another output folder")
    return TrainingResult(folder, last["best_epoch"], last["validation_accuracy"], last["test_accuracy"], last["n"])


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """AccessError for what the file system, and through them torch and safetensors, have against it."""
    try:
        yield
    except RWSError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:  # torch says of a full disk that its writer failed
        raise AccessError(
            f"the training run in {folder} cannot be written: {error}. What the last checkpoint holds is kept: resume "
            "goes on from there"
        ) from error


@contextmanager
def _reading_checkpoint(checkpoint: Path) -> Iterator[None]:
    """FormatError for whatever unpickling, torch and safetensors have against damaged files."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # damaged bytes may be any pickle, so any error may come of them
        raise FormatError(
            f"the checkpoint in {checkpoint} is damaged ({type(error).__name__}: {error}); remove {checkpoint} to "
            "begin the run anew"
        ) from error


def _check_can_learn(model: nn.Module, data: Splits) -> None:
    check_loaded(model.state_dict(), "the model")
    Normalize.of(model)
    config: Any = model.pretrained_cfg
    if not config.get("input_size"):
        raise OptionError("the model's pretrained_cfg gives no input_size; give it one, as timm models have")
    for images in (data.train, data.validation, data.test):
        check_classes(model, images)
    if any(tensor.is_inference() for tensor in model.parameters()):
        raise OptionError("the model was made in torch.inference_mode(), where nothing can be trained; make it outside")


def _name_classes(model: nn.Module, data: Splits) -> None:
    """From now on the model's answers are the classes of `data`, whatever they were before."""
    config: Any = model.pretrained_cfg
    kept = {key: value for key, value in config.items() if key not in ("label_names", "label_descriptions")}
    trained: Any = model
    trained.pretrained_cfg = kept | ({"label_names": list(data.train.classes)} if data.train.classes else {})


def _remove(folder: Path) -> None:
    """Remove a folder so that nobody ever meets half of it under its name."""
    renamed = folder.with_name(f".{folder.name}-done")
    shutil.rmtree(renamed, ignore_errors=True)
    folder.rename(renamed)
    shutil.rmtree(renamed)
