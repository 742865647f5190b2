"""One training run: transformers' Trainer around our data, our loss and our checkpoint.

The run works in ``OUT.partial/``, where Trainer's own checkpoints stand; when all is done the checkpoint is put
together there and renamed to ``OUT``. A run that was killed goes on from the last of them with ``--resume``.

>>> train(config)  # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.trainer_utils import get_last_checkpoint

from burnish_serve.errors import BurnishError, InputError
from burnish_serve.runner import Runner
from burnish_serve.tasks import Decoding, Task, task_named
from burnish_train import checkpoint, faults, processes
from burnish_train.arguments import arguments_for, callbacks_for, settle
from burnish_train.config import TrainConfig
from burnish_train.data import Splits, read_splits
from burnish_train.device import check_compiler, check_precision, precision_of, use_cuda
from burnish_train.heads import PooledClassifier
from burnish_train.kinds import KINDS
from burnish_train.methods.attention import FLASH, attention_of, compute_by, flash
from burnish_train.methods.augment import augmented
from burnish_train.methods.average import Average
from burnish_train.methods.model import prepare as prepare_model
from burnish_train.methods.model import shares
from burnish_train.methods.pseudo import with_pseudo_labels
from burnish_train.methods.quantized import QuantizeAware
from burnish_train.methods.teacher import Teacher
from burnish_train.methods.trim import trim
from burnish_train.progress import KeepSeconds
from burnish_train.result import write_result
from burnish_train.speed import Speed, figures
from burnish_train.targets import Supervised, Target
from burnish_train.trainer import TaskTrainer
from burnish_train.work import last_whole, prepare, seconds_of


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a run begins that reads its rows and its model otherwise than the settings of fine-tuning tell."""

    splits: Splits
    make: Callable[[Path], str]
    """``working folder -> model folder``: makes the model to begin with, or finds it there."""
    record: Mapping[str, Any]
    """What ``burnish.json`` says otherwise."""
    model: Mapping[str, Any]
    """What the written ``config.json`` says otherwise than the model in training."""


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    log: Any = None,
    origin: Origin | None = None,
    callbacks: Sequence[transformers.TrainerCallback] = (),
) -> dict[str, Any]:
    """Fine-tune as the config says and write the checkpoint to ``config.out``.

    Args:
        config: the settings.
        resume: go on with the unfinished run in ``OUT.partial``; a new one starts where there is none.
        overwrite: replace what stands at ``OUT`` and ``OUT.partial``.
        log: called with one line of text for each thing worth telling; None for silence.
        origin: rows and model of a run that does not begin with a pretrained encoder.
        callbacks: of transformers' Trainer, asked besides our own.

    Returns:
        The contents of ``burnish.json``.

    Raises:
        InputError: rows, model or folder cannot be used.
        DeviceError: the device cannot be used.
        BurnishError: the run was interrupted; the message says how to go on.
    """
    say = log if log and processes.number() == 0 else (lambda line: None)
    started = time.perf_counter()
    if not config.out.name:
        raise InputError(f"--out {config.out} names no new folder; give one, such as --out runs/a")
    work = config.out.with_name(config.out.name + ".partial")
    cuda = use_cuda(config.device)
    check_precision(config.precision, cuda=cuda)
    read = config.distill_attention > 0
    attention = attention_of(config.attn_implementation, cuda=cuda, precision=config.precision, read=read)
    if config.torch_compile:
        check_compiler(cuda=cuda)
    splits = origin.splits if origin else read_splits(config)
    checkpoint.quiet()
    if config.pseudo_label_threshold or config.label_spreading:
        labels = KINDS[config.task].labels_of(splits.names, config)
        splits, trusted = with_pseudo_labels(splits, labels, config, device="cuda" if cuda else "cpu")
        say(trusted)
    for warning in splits.warnings:
        say(f"warning: {warning}")
    processes.join(cuda=cuda)
    with processes.first_alone() as first:
        if first:
            prepare(work, config, splits, resume=resume, overwrite=overwrite)
        precision = precision_of(config.precision, work, cuda=cuda)
    last = get_last_checkpoint(str(work))
    started -= seconds_of(work)
    how: dict[str, Any] = {"cuda": cuda, "precision": precision, "attention": attention}
    with faults.told(config, work):
        return _run(config, work, splits, last, started, say, origin, callbacks, **how)


def _run(
    config: TrainConfig,
    work: Path,
    splits: Splits,
    last: str | None,
    started: float,
    say: Any,
    origin: Origin | None,
    callbacks: Sequence[transformers.TrainerCallback],
    *,
    cuda: bool,
    precision: str,
    attention: str | None,
) -> dict[str, Any]:
    with processes.first_alone():
        name = origin.make(work) if origin else config.model
    if config.augment:
        splits = augmented(splits, config, work, begun=bool(last), cuda=cuda, say=say)
    transformers.set_seed(config.seed)
    task = task_named(config.task)
    kind = KINDS[config.task]
    labels = kind.labels_of(splits.names, config)
    tokenizer, model = checkpoint.load_encoder(name, task, labels, config.pooling)
    place = work / ("tokenizer" + (f"-{processes.number()}" if processes.number() else ""))
    place.mkdir(exist_ok=True)
    trimmed = {}
    if config.trim_vocabulary:
        trimmed = {"vocabulary_before": len(tokenizer)}
        tokenizer = trim(tokenizer, model, splits, place)
        say(f"{len(tokenizer):,} of {trimmed['vocabulary_before']:,} tokens stay")
    encoder = checkpoint.saved_tokenizer(
        task,
        tokenizer,
        place,
        model,
        max_length=config.max_length,
        stride=config.stride,
        on_long=config.on_long,
    )
    say(
        f"{len(splits.train)} rows to train, {len(splits.dev)} dev, {len(splits.test)} test, "
        f"{len(labels)} labels; {'GPU' if cuda else f'CPU with {processes.num_threads()} threads'}, "
        f"{precision}" + (f", {processes.count()} processes" if processes.count() > 1 else "")
    )
    new_head = has_new_head(model, task)
    if not origin and new_head and not labels:
        say(f"the head of {task.name} is new: {config.model} has none")
    if last:
        say(f"going on from {last}")
    if not cuda:
        torch.set_num_threads(processes.num_threads())
    if attention and attention != FLASH:
        if config.attn_implementation == "auto":
            model.set_attn_implementation(attention)  # or what the architecture has instead
        else:
            compute_by(model, attention)
    model.to("cuda" if cuda else "cpu")
    runner = checkpoint.runner_for(model, encoder, tokenizer.pad_token_id, task, labels, Decoding())
    sample = [example.asked for example in splits.train[: checkpoint.CALIBRATION_ROWS]]
    adapter = prepare_model(model, config, lambda: runner.outputs(runner.examine(sample)))
    learning, weights = shares(model)
    if learning < weights:
        say(f"{learning:,} of {weights:,} weights learn ({learning / weights:.2%})")
    target = kind(task, config, labels, splits.labelled)
    trainer = make_trainer(config, work, splits, model, runner, target, cuda=cuda, precision=precision)
    for callback in (KeepSeconds(work, started), *callbacks):
        trainer.add_callback(callback)
    if config.contrastive_steps and not last:
        say(f"drawing rows of one label together: {config.contrastive_steps} batches")
        trainer.draw_together(config.contrastive_steps, config.contrastive_learning_rate)
    if not last and isinstance(target, Supervised) and starts_from_probe(model, target):
        say(f"starting the head from a linear probe of {min(len(splits.labelled), target.probe_rows)} rows")
        trainer.probe_head(target)
    if processes.count() > 1:
        transformers.set_seed(config.seed + processes.number())  # each drops out other elements
    with flash(model, attention):
        learn(trainer, work, last)
    if trainer.average:
        trainer.average.take()
    if adapter:
        adapter.merge()
    if origin:
        model.config.update(dict(origin.model))
    own = {
        "weights_learned": learning,
        **trimmed,
        "processes": processes.count(),
        "speed": figures(trainer.speed, model, "cuda" if cuda else "cpu", precision),
        **(origin.record if origin else {}),
    }
    processes.wait()
    with processes.first_alone() as first:
        if first:
            return write_result(config, work, splits, trainer, tokenizer, started, own)
    return checkpoint.read_record(config.out)


def has_new_head(model: Any, task: Task) -> bool:
    """Return whether the head of a model that was just loaded has new weights."""
    architectures = " ".join(model.config.architectures or ())
    return isinstance(model, PooledClassifier) or bool(task.head and task.head not in architectures)


def starts_from_probe(model: Any, target: Supervised) -> bool:
    """Return whether the head of a model that was just loaded is to be started from a linear probe."""
    linear = isinstance(model, PooledClassifier) or target.task.per_token
    return linear and has_new_head(model, target.task) and target.probe_rows > 0


def learn(trainer: TaskTrainer, work: Path, last: str | None) -> None:
    """Let a Trainer learn, from one of its checkpoints on where there is one.

    Raises:
        BurnishError: it was interrupted; the message says how to go on.
    """
    try:
        trainer.train(resume_from_checkpoint=last)
    except KeyboardInterrupt as error:
        saved = last_whole(work) or "none yet, so it starts again"
        raise BurnishError(
            f"interrupted at step {trainer.state.global_step} of {trainer.state.max_steps}; the last checkpoint is "
            f"{saved}; the same command with --resume goes on"
        ) from error


def make_trainer(
    config: TrainConfig,
    work: Path,
    splits: Splits,
    model: Any,
    runner: Runner,
    target: Target,
    *,
    cuda: bool,
    precision: str,
) -> TaskTrainer:
    """Return the Trainer of this run."""
    metric = runner.task.metric
    arguments = arguments_for(config, work, metric if splits.dev else None, cuda=cuda, precision=precision)
    train = [*splits.labelled, *splits.unlabelled]
    average = Average(model, config.ema_decay) if config.ema_decay else None
    quantize = QuantizeAware(model, config.quantize_aware) if config.quantize_aware else None
    speed = Speed()
    trainer = TaskTrainer(
        runner,
        model,
        target,
        train,
        splits.dev,
        arguments,
        teacher=Teacher(target, runner, model, train, config) if config.teacher and config.distill_alpha else None,
        average=average,
        speed=speed,
        quantize=quantize,
        callbacks=[*callbacks_for(config, model, metric, average, speed), *([quantize] if quantize else [])],
    )
    settle(trainer, config)
    return trainer
