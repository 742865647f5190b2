"""One run of several tasks: their rows, one encoder, and a checkpoint of each task that is as any other.

Learning related tasks together was proposed by Caruana (1997, Machine Learning 28); one head for each task on a shared
encoder, and batches of one task each, are those of MT-DNN (Liu et al., 2019, arXiv:1901.11504).

>>> train_multitask(read_recipe(Path("tasks.toml"), model="encoder/", out=Path("runs/both")))  # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from burnish_serve.config import to_dict
from burnish_serve.errors import InputError
from burnish_serve.tasks import Decoding, task_named
from burnish_train import checkpoint, faults, processes
from burnish_train.arguments import arguments_for, callbacks_for, settle
from burnish_train.data import Splits, read_splits
from burnish_train.device import check_precision, precision_of, use_cuda
from burnish_train.fit import learn, starts_from_probe
from burnish_train.kinds import KINDS
from burnish_train.methods.average import Average
from burnish_train.methods.model import prepare as prepare_model
from burnish_train.methods.model import shares
from burnish_train.multitask.config import OF_BOTH, OF_TASK, MultitaskConfig
from burnish_train.multitask.model import MultitaskModel, share
from burnish_train.multitask.result import RECORD, write_results
from burnish_train.multitask.trainer import MEAN_SCORE, MultitaskTrainer, Part
from burnish_train.progress import KeepSeconds
from burnish_train.speed import Speed, figures
from burnish_train.targets import Supervised
from burnish_train.work import check_place, seconds_of, take_up

Log = Callable[[str], None]


def train_multitask(
    config: MultitaskConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    log: Log | None = None,
    callbacks: Sequence[transformers.TrainerCallback] = (),
) -> dict[str, Any]:
    """Train one encoder on several tasks and write a checkpoint of each into ``config.out``.

    Args:
        config: the settings.
        resume: go on with the unfinished run in ``OUT.partial``; a new one starts where there is none.
        overwrite: replace what stands at ``OUT`` and ``OUT.partial``.
        log: called with one line of text for each thing worth telling; None for silence.
        callbacks: of transformers' Trainer, asked besides our own.

    Returns:
        The contents of ``multitask.json``.

    Raises:
        InputError: rows, model or folder cannot be used.
        DeviceError: the device cannot be used.
        BurnishError: the run was interrupted; the message says how to go on.
    """
    say, started = log or (lambda line: None), time.perf_counter()
    if processes.count() > 1:
        raise InputError("several tasks are learned by one process: start train-multitask without torchrun")
    if not config.out.name:
        raise InputError(f"--out {config.out} names no new folder; give one, such as --out runs/a")
    work = config.out.with_name(config.out.name + ".partial")
    cuda = use_cuda(config.shared.device)
    check_precision(config.shared.precision, cuda=cuda)
    splits = {name: read_splits(settings) for name, settings in config.tasks.items()}
    for name, some in splits.items():
        for warning in some.warnings:
            say(f"warning: {name}: {warning}")
    without = [name for name, some in splits.items() if not some.dev]
    if 0 < len(without) < len(splits):
        raise InputError(f"dev rows are for all tasks or for none; {', '.join(without)} has none")
    checkpoint.quiet()
    check_place(config.out, overwrite=overwrite, record=RECORD, what="a run of several tasks")
    last = take_up(work, _settings(config, splits), resume=resume, overwrite=overwrite)
    precision = precision_of(config.shared.precision, work, cuda=cuda)
    started -= seconds_of(work)
    with faults.told(config.shared, work):
        transformers.set_seed(config.shared.seed)
        if not cuda:
            torch.set_num_threads(processes.num_threads())
        model, parts = assemble(config, splits, work, cuda=cuda)
        for part in parts:
            say(f"{part.name}: {len(part.splits.train)} rows to train, {len(part.splits.dev)} dev")
        if last:
            say(f"going on from {last}")
        adapter = prepare_model(model, config.shared, lambda: None)
        learning = shares(model)[0]
        trainer = make_trainer(config, work, parts, model, cuda=cuda, precision=precision)
        for callback in (KeepSeconds(work, started), *callbacks):
            trainer.add_callback(callback)
        if not last:
            probe_heads(trainer, say)
        learn(trainer, work, last)
        if trainer.average:
            trainer.average.take()
        if adapter:
            adapter.merge()
        own = {
            "weights_learned": learning,
            "speed": figures(trainer.speed, model, "cuda" if cuda else "cpu", precision),
        }
        return write_results(config, work, trainer, started, own)


def _settings(config: MultitaskConfig, splits: dict[str, Splits]) -> dict[str, Any]:
    """Return what a resumed run must have alike."""
    of_tasks = {*OF_TASK, *OF_BOTH}
    shared = {key: value for key, value in to_dict(config.shared).items() if key not in of_tasks}
    tasks = [
        {
            "name": name,
            "weight": config.weights[name],
            **{key: value for key, value in to_dict(settings).items() if key in of_tasks},
            "rows": {split: about.get("sha256") for split, about in splits[name].sources.items()},
        }
        for name, settings in config.tasks.items()
    ]
    return {**shared, **to_dict(config.mix), "tasks": tasks}


def assemble(
    config: MultitaskConfig, splits: dict[str, Splits], work: Path, *, cuda: bool
) -> tuple[MultitaskModel, list[Part]]:
    """Return a model with one encoder and the tasks that learn with it, on its device.

    Raises:
        InputError: there is no such model, or it cannot be used.
    """
    loaded = {}
    for name, settings in config.tasks.items():
        task = task_named(settings.task)
        labels = KINDS[settings.task].labels_of(splits[name].names, settings)
        loaded[name] = (labels, *checkpoint.load_encoder(settings.model, task, labels, settings.pooling))
    by_tokens = sorted(loaded.values(), key=lambda one: -len(one[1]))  # some tasks add theirs
    share([model for _, _, model in by_tokens])
    whole = MultitaskModel([model for _, _, model in loaded.values()])
    whole.to("cuda" if cuda else "cpu")
    parts = []
    for number, (name, settings) in enumerate(config.tasks.items()):
        task, (labels, tokenizer, model) = task_named(settings.task), loaded[name]
        if not cuda:
            model.set_attn_implementation("eager")  # whose dropout can be a faster one
        place = work / "tokenizers" / name
        place.mkdir(parents=True, exist_ok=True)
        encoder = checkpoint.saved_tokenizer(
            task,
            tokenizer,
            place,
            model,
            max_length=settings.max_length,
            stride=settings.stride,
            on_long=settings.on_long,
        )
        runner = checkpoint.runner_for(model, encoder, tokenizer.pad_token_id, task, labels, Decoding())
        target = KINDS[settings.task](task, settings, labels, splits[name].train)
        parts.append(Part(number, name, config.weights[name], splits[name], tokenizer, runner, model, target))
    return whole, parts


def make_trainer(
    config: MultitaskConfig, work: Path, parts: Sequence[Part], model: MultitaskModel, *, cuda: bool, precision: str
) -> MultitaskTrainer:
    """Return the Trainer of this run."""
    shared = config.shared
    average = Average(model, shared.ema_decay) if shared.ema_decay else None
    speed = Speed()
    metric = MEAN_SCORE if parts[0].dev else None
    trainer = MultitaskTrainer(
        parts,
        model,
        arguments_for(shared, work, metric, cuda=cuda, precision=precision),
        temperature=config.mix.task_sampling_temperature,
        average=average,
        speed=speed,
        callbacks=callbacks_for(shared, model, MEAN_SCORE, average, speed),
    )
    settle(trainer, shared)
    return trainer


def probe_heads(trainer: MultitaskTrainer, say: Log) -> None:
    """Start the new heads from linear probes, where `burnish train` does."""
    for number, part in enumerate(trainer.parts):
        if isinstance(part.target, Supervised) and starts_from_probe(part.model, part.target):
            rows = min(len(part.splits.train), part.target.probe_rows)
            say(f"{part.name}: starting the head from a linear probe of {rows} rows")
            with trainer.on(number):
                trainer.probe_head(part.target)
