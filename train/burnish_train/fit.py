"""One training run: transformers' Trainer around our data, our loss and our checkpoint.

The run works in ``OUT.partial/``, where Trainer's own checkpoints stand; when all is done the checkpoint is put
together there and renamed to ``OUT``. A run that was killed goes on from the last of them with ``--resume``.

>>> train(config)  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
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
from burnish_serve.tasks import Decoding, task_named
from burnish_train import checkpoint, faults, processes
from burnish_train.config import TrainConfig
from burnish_train.data import Splits, read_splits
from burnish_train.deadline import Deadline
from burnish_train.device import precision_of, use_cuda
from burnish_train.heads import PooledClassifier
from burnish_train.kinds import KINDS
from burnish_train.methods.augment import augmented
from burnish_train.methods.average import Average
from burnish_train.methods.model import prepare as prepare_model
from burnish_train.methods.model import shares
from burnish_train.methods.teacher import Teacher
from burnish_train.methods.unfreezing import Unfreeze
from burnish_train.progress import SaveEvery, StepBar
from burnish_train.result import write_result
from burnish_train.targets import Supervised, Target
from burnish_train.trainer import TaskTrainer
from burnish_train.work import last_whole, prepare

# Steps between two points of the curve at the most, where the clock may end a run after few.
TIMED_LOGS = 20


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
    precision = precision_of(config.precision, cuda=cuda)
    splits = origin.splits if origin else read_splits(config)
    for warning in splits.warnings:
        say(f"warning: {warning}")
    checkpoint.quiet()
    processes.join(cuda=cuda)
    with processes.first_alone() as first:
        if first:
            prepare(work, config, splits, resume=resume, overwrite=overwrite)
    last = get_last_checkpoint(str(work))
    try:
        return _run(config, work, splits, last, started, say, origin, callbacks, cuda=cuda, precision=precision)
    except BaseException as error:  # Ctrl-C too
        saved = last_whole(work)
        if saved is None and isinstance(error, InputError):  # nothing to go on from
            shutil.rmtree(work, ignore_errors=True)
        if told := faults.explained(error, config, work, saved):
            raise told from error
        raise


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
    pooled = isinstance(model, PooledClassifier)
    new_head = pooled or bool(task.head and task.head not in " ".join(model.config.architectures or ()))
    if not origin and new_head and not labels:
        say(f"the head of {task.name} is new: {config.model} has none")
    if last:
        say(f"going on from {last}")
    if not cuda:
        torch.set_num_threads(processes.num_threads())
    if not cuda or config.distill_attention:
        model.set_attn_implementation("eager")  # whose dropout can be a faster one, and whose scores can be seen
    model.to("cuda" if cuda else "cpu")
    runner = checkpoint.runner_for(model, encoder, tokenizer.pad_token_id, task, labels, Decoding())
    sample = [example.asked for example in splits.train[: checkpoint.CALIBRATION_ROWS]]
    adapter = prepare_model(model, config, lambda: runner.outputs(runner.examine(sample)))
    learning, weights = shares(model)
    if learning < weights:
        say(f"{learning:,} of {weights:,} weights learn ({learning / weights:.2%})")
    target = kind(task, config, labels, splits.labelled)
    trainer = make_trainer(config, work, splits, model, runner, target, cuda=cuda, precision=precision)
    for callback in callbacks:
        trainer.add_callback(callback)
    if config.contrastive_steps and not last:
        say(f"drawing rows of one label together: {config.contrastive_steps} batches")
        trainer.draw_together(config.contrastive_steps, config.contrastive_learning_rate)
    probed = new_head and (pooled or task.per_token) and not last
    if probed and isinstance(target, Supervised) and target.probe_rows:
        say(f"starting the head from a linear probe of {min(len(splits.labelled), target.probe_rows)} rows")
        trainer.probe_head(target)
    if processes.count() > 1:
        transformers.set_seed(config.seed + processes.number())  # each drops out other elements
    try:
        trainer.train(resume_from_checkpoint=last)
    except KeyboardInterrupt as error:
        saved = last_whole(work) or "none yet, so it starts again"
        raise BurnishError(
            f"interrupted at step {trainer.state.global_step} of {trainer.state.max_steps}; the last checkpoint is "
            f"{saved}; the same command with --resume goes on"
        ) from error
    if trainer.average:
        trainer.average.take()
    if adapter:
        adapter.merge()
    if origin:
        model.config.update(dict(origin.model))
    own = {"weights_learned": learning, "processes": processes.count(), **(origin.record if origin else {})}
    processes.wait()
    with processes.first_alone() as first:
        if first:
            return write_result(config, work, splits, trainer, tokenizer, started, own)
    return checkpoint.read_record(config.out)


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
    task = runner.task
    has_dev = bool(splits.dev)
    arguments = transformers.TrainingArguments(
        output_dir=str(work),
        num_train_epochs=config.num_train_epochs,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        optim="adamw_torch" if config.optim == "adam" else config.optim,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch" if has_dev else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=has_dev,
        metric_for_best_model=task.metric if has_dev else None,
        greater_is_better=True if has_dev else None,
        seed=config.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        logging_strategy="steps",
        logging_nan_inf_filter=False,  # a loss that is no number ends the run; see `burnish_train.faults`
        average_tokens_across_devices=False,
        restore_callback_states_from_checkpoint=True,  # the patience that is used up
    )
    train = [*splits.labelled, *splits.unlabelled]
    average = Average(model, config.ema_decay) if config.ema_decay else None
    trainer = TaskTrainer(
        runner,
        model,
        target,
        train,
        splits.dev,
        arguments,
        teacher=Teacher(target, runner, model, train, config) if config.teacher else None,
        average=average,
        callbacks=[
            StepBar(task.metric),
            SaveEvery(config.save_steps),
            *([Deadline(config.max_minutes)] if config.max_minutes else []),
            *([Unfreeze(model, config.unfreeze_every)] if config.unfreeze_every else []),
            *([average] if average else []),
        ],
    )
    rows: Any = trainer.train_dataset
    every = max(1, int(len(rows) * config.num_train_epochs / config.per_device_train_batch_size / 100))
    arguments.logging_steps = min(every, TIMED_LOGS) if config.max_minutes else every
    trainer.remove_callback(transformers.PrinterCallback)
    if has_dev and config.early_stopping_patience:
        trainer.add_callback(transformers.EarlyStoppingCallback(config.early_stopping_patience))
    return trainer
