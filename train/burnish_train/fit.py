"""One training run: transformers' Trainer around our data, our loss and our checkpoint.

The run works in ``OUT.partial/``, where Trainer's own checkpoints stand; when all is done the checkpoint is put
together there and renamed to ``OUT``. A run that was killed goes on from the last of them with ``--resume``.

>>> train(config)  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from burnish_serve import machine
from burnish_serve.config import to_dict
from burnish_serve.errors import BurnishError, InputError
from burnish_serve.runner import Runner
from burnish_serve.tasks import Decoding, task_named
from burnish_train import checkpoint, curve, faults
from burnish_train.config import TrainConfig
from burnish_train.data import Splits, read_splits
from burnish_train.deadline import Deadline
from burnish_train.device import use_bf16, use_cuda
from burnish_train.heads import PooledClassifier
from burnish_train.insight import report
from burnish_train.insight.answered import Answered
from burnish_train.kinds import KINDS
from burnish_train.progress import SaveEvery, StepBar
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
    say = log or (lambda line: None)
    started = time.perf_counter()
    if not config.out.name:
        raise InputError(f"--out {config.out} names no new folder; give one, such as --out runs/a")
    work = config.out.with_name(config.out.name + ".partial")
    cuda = use_cuda(config.device)
    bf16 = use_bf16(config.precision, cuda=cuda)
    splits = origin.splits if origin else read_splits(config)
    for warning in splits.warnings:
        say(f"warning: {warning}")
    checkpoint.quiet()
    last = prepare(work, config, splits, resume=resume, overwrite=overwrite)
    try:
        return _run(config, work, splits, last, started, say, origin, callbacks, cuda=cuda, bf16=bf16)
    except BaseException as error:  # Ctrl-C too
        saved = last_whole(work)
        if saved is None and isinstance(error, InputError):  # nothing to go on from
            shutil.rmtree(work, ignore_errors=True)
        if told := faults.explained(error, config, work, saved):
            raise BurnishError(told) from error
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
    bf16: bool,
) -> dict[str, Any]:
    name = origin.make(work) if origin else config.model
    transformers.set_seed(config.seed)
    task = task_named(config.task)
    kind = KINDS[config.task]
    labels = kind.labels_of(splits.names, config)
    tokenizer, model = checkpoint.load_encoder(name, task, labels, config.pooling)
    (work / "tokenizer").mkdir(exist_ok=True)
    encoder = checkpoint.saved_tokenizer(
        task,
        tokenizer,
        work / "tokenizer",
        model,
        max_length=config.max_length,
        stride=config.stride,
        on_long=config.on_long,
    )
    say(
        f"{len(splits.train)} rows to train, {len(splits.dev)} dev, {len(splits.test)} test, "
        f"{len(labels)} labels; {'GPU' if cuda else f'CPU with {machine.num_threads()} threads'}, "
        f"{'bf16' if bf16 else 'fp32'}"
    )
    pooled = isinstance(model, PooledClassifier)
    new_head = pooled or bool(task.head and task.head not in " ".join(model.config.architectures or ()))
    if not origin and new_head and not labels:
        say(f"the head of {task.name} is new: {config.model} has none")
    if last:
        say(f"going on from {last}")
    if not cuda:
        torch.set_num_threads(machine.num_threads())
        model.set_attn_implementation("eager")  # whose dropout can be a faster one
    model.to("cuda" if cuda else "cpu")
    runner = checkpoint.runner_for(model, encoder, tokenizer.pad_token_id, task, labels, Decoding())
    target = kind(task, config, labels, splits.train)
    trainer = make_trainer(config, work, splits, model, runner, target, cuda=cuda, bf16=bf16)
    for callback in callbacks:
        trainer.add_callback(callback)
    probed = new_head and (pooled or task.per_token) and not last
    if probed and isinstance(target, Supervised) and target.probe_rows:
        say(f"starting the head from a linear probe of {min(len(splits.train), target.probe_rows)} rows")
        trainer.probe_head(target)
    try:
        trainer.train(resume_from_checkpoint=last)
    except KeyboardInterrupt as error:
        saved = last_whole(work) or "none yet, so it starts again"
        raise BurnishError(
            f"interrupted at step {trainer.state.global_step} of {trainer.state.max_steps}; the last checkpoint is "
            f"{saved}; the same command with --resume goes on"
        ) from error
    return write_result(config, work, splits, trainer, tokenizer, started, origin)


def make_trainer(
    config: TrainConfig,
    work: Path,
    splits: Splits,
    model: Any,
    runner: Runner,
    target: Target,
    *,
    cuda: bool,
    bf16: bool,
) -> TaskTrainer:
    """Return the Trainer of this run."""
    task = runner.task
    has_dev = bool(splits.dev)
    arguments = transformers.TrainingArguments(
        output_dir=str(work),
        num_train_epochs=config.num_train_epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,
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
        bf16=bf16,
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
    trainer = TaskTrainer(
        runner,
        model,
        target,
        splits.train,
        splits.dev,
        arguments,
        callbacks=[
            StepBar(task.metric),
            SaveEvery(config.save_steps),
            *([Deadline(config.max_minutes)] if config.max_minutes else []),
        ],
    )
    rows: Any = trainer.train_dataset
    every = max(1, int(len(rows) * config.num_train_epochs / config.per_device_train_batch_size / 100))
    arguments.logging_steps = min(every, TIMED_LOGS) if config.max_minutes else every
    trainer.remove_callback(transformers.PrinterCallback)
    if has_dev and config.early_stopping_patience:
        trainer.add_callback(transformers.EarlyStoppingCallback(config.early_stopping_patience))
    return trainer


def write_result(
    config: TrainConfig,
    work: Path,
    splits: Splits,
    trainer: TaskTrainer,
    tokenizer: Any,
    started: float,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Score the chosen weights in float32, write the checkpoint and rename it to its place."""
    final = work / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    runner, task = trainer.runner, trainer.runner.task
    trainer.model.eval()
    dev = Answered.of(trainer.target, runner, trainer.dev_asked, splits.dev, splits.train)  # fits the decoding first
    metrics = {"dev": dev.metrics} if splits.dev else {}
    if splits.test:
        answers = runner.answers(runner.examine([example.asked for example in splits.test]))
        metrics["test"] = task.score([row.right for row in splits.test], answers, runner.reading)
    points = curve.points(trainer.state.log_history)
    record: dict[str, Any] = {
        "task": config.task,
        "labels": list(runner.labels),
        "max_length": runner.encoder.max_length,
        "stride": runner.encoder.stride,
        "pooling": config.pooling,
        "pooling_tokens": getattr(trainer.model, "tokens", {}),
        "decoding": dataclasses.asdict(runner.reading.decoding),
        "base_model": config.model,
        "settings": to_dict(config),
        "data": splits.sources,
        "warnings": list(splits.warnings),
        "seed": config.seed,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        "precision": "bf16" if trainer.args.bf16 else "fp32",
        "metrics": metrics,
        "curve": points,
        "machine": machine.description(),
        "versions": {name: machine.version(name) for name in ("burnish", "torch", "transformers", "accelerate")},
    }
    if origin:
        record |= origin.record
        trainer.model.config.update(dict(origin.model))
    record["seconds"] = round(time.perf_counter() - started, 1)
    curve.draw(points, final / "curve.png", task.metric)
    report.write(final / "report.html", record, dev)
    sample = np.random.default_rng(config.seed).permutation(len(splits.train))[: checkpoint.CALIBRATION_ROWS]
    rows = {"dev.jsonl": splits.dev, "calibration.jsonl": [splits.train[i] for i in sorted(sample)]}
    as_rows = {name: [row.as_row(task) for row in some] for name, some in rows.items()}
    checkpoint.write(final, tokenizer, trainer.model, record, as_rows)
    if config.out.exists():
        shutil.rmtree(config.out)
    final.rename(config.out)
    shutil.rmtree(work)
    return record
