"""One compression: students trained, exported and measured beside their teacher until one is fast and good enough.

What a student must reach is measured through bundles, both in one run, in turns. A student is half of its teacher's
layers and feed-forward, or so, and learns from the teacher's scores (`burnish_train.methods.teacher`).

>>> compress(CompressConfig(checkpoint=Path("runs/a"), out=Path("runs/small"), speedup=2.0))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from burnish_serve.bundle import open_bundle
from burnish_serve.config import configure, to_dict
from burnish_serve.errors import BurnishError, InputError, QualityGateError
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_serve.opening import load
from burnish_serve.tasks import task_named
from burnish_serve.timing import interleave, speedup
from burnish_train import checkpoint, fit
from burnish_train.compress.config import CompressConfig
from burnish_train.compress.frontier import Tried, draw, table, taken
from burnish_train.compress.students import Student, smaller, students
from burnish_train.config import TrainConfig
from burnish_train.data import read_splits
from burnish_train.device import KEPT as PRECISION
from burnish_train.device import with_precision
from burnish_train.methods.depth import encoder_of, layers_of
from burnish_train.methods.silent import check_heads
from burnish_train.work import SETTINGS, check_place, keep_settings

RESULT = "compression.json"
ALPHA, TEMPERATURE = 0.9, 2.0
EPOCHS, RATE = 2.0, 1.5
"""Of a student, in those of its teacher."""
ASKED = ("speedup", "max_drop", "tries")
"""What a run that is gone on with may ask for otherwise."""
ROUNDS, SECONDS, TEXTS = 10, 5.0, 1000
COMMAND = "from burnish_serve.cli import main; main()"
"""Export stands in a room of its own, which is asked as a user would ask it."""


def compress(
    config: CompressConfig, *, overwrite: bool = False, log: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Train students of a checkpoint until a bundle of one is fast and good enough, and write both.

    A run that was stopped is gone on with by the same call: what was trained and exported stands in ``OUT.partial``.

    Args:
        config: the settings.
        overwrite: replace what stands at ``out``, and begin anew.
        log: called with one line of text for each thing worth telling.

    Returns:
        The contents of ``compression.json``.

    Raises:
        InputError: the checkpoint or its rows cannot be used.
        QualityGateError: no student was fast and good enough; the best stand in ``OUT.partial``.
    """
    say = log or (lambda line: None)
    check_place(config.out / "checkpoint", overwrite=overwrite)
    checkpoint.quiet()
    record = checkpoint.read_record(config.checkpoint)
    settings = _settings(config, record)
    model = checkpoint.load_model(config.checkpoint)
    if config.keep_heads < 1:
        check_heads(encoder_of(model), config.keep_heads)
    left = students(len(layers_of(model)), config.speedup, config.keep_heads)
    if not left:
        raise InputError(f"--speedup {config.speedup:g} is more than one layer with a narrow feed-forward can reach")
    work = config.out.with_name(config.out.name + ".partial")
    if overwrite:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    keep_settings(work, {k: v for k, v in to_dict(config).items() if k not in ASKED}, begun=True)
    settings = with_precision(settings, work)
    dev = str(config.checkpoint / "dev.jsonl")
    metric = task_named(record["task"]).metric
    teacher = _bundle(config.checkpoint, work / "teacher", say)
    first = _measured("teacher", teacher, teacher, dev, record["seconds"])
    say(f"teacher: {metric} {first.score:.4f}, {first.size_mb:.1f} MB")
    tried, least = [first], first.score - config.max_drop
    while left and len(tried) <= config.tries:
        tried.append(_try(left[0], settings, work, teacher, dev, say))
        say(f"{tried[-1].name}: {metric} {tried[-1].score:.4f}, {tried[-1].speedup:.2f} times as fast")
        if taken(tried[1:], speedup=config.speedup, least=least):
            break
        left = smaller(left, tried[-1].speedup / config.speedup)
    chosen = taken(tried[1:], speedup=config.speedup, least=least)
    found = {
        "checkpoint": str(config.checkpoint),
        "settings": to_dict(config),
        "metric": metric,
        "least": least,
        "tried": [dataclasses.asdict(one) for one in tried],
        "taken": chosen.name if chosen else None,
    }
    draw(tried, work / "frontier.png", metric, speedup=config.speedup, least=least)
    (work / RESULT).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    say(table(tried, metric))
    if not chosen:
        raise QualityGateError(
            f"none of {len(tried) - 1} students is {config.speedup} times as fast with a {metric} of at least "
            f"{least:.4f}; they stand in {work}; allow more by --max-drop, ask for less by --speedup, or give "
            "--num-train-epochs, --unlabelled rows or more --tries"
        )
    _finish(config, work, chosen.name)
    return found


def _settings(config: CompressConfig, record: dict[str, Any]) -> TrainConfig:
    """Return the settings of the students' training, but for their size and place.

    Raises:
        InputError: the rows are not those that the teacher learned from.
    """
    before = configure(TrainConfig, {**record["settings"], "test": None})
    rate = config.learning_rate or RATE * before.learning_rate
    settings = dataclasses.replace(
        before,
        model=str(config.checkpoint),
        train=config.train or before.train,
        teacher=(str(config.checkpoint), *config.teacher),
        unlabelled=config.unlabelled,
        distill_alpha=ALPHA,
        distill_temperature=TEMPERATURE,
        num_train_epochs=config.num_train_epochs or EPOCHS * before.num_train_epochs,
        learning_rate=rate,
        device=config.device,
        contrastive_steps=0,
        augment=(),
        augment_model=None,
        label_spreading=False,
        pseudo_label_threshold=0.0,
        trim_vocabulary=config.trim_vocabulary,
        vocabulary_texts=before.vocabulary_texts if config.trim_vocabulary else (),
        lora_rank=0,
        early_stopping_patience=0,
        max_minutes=0.0,
        keep_heads=config.keep_heads,
        precision="auto",  # what the teacher's machine had need not be here
        attn_implementation="auto",
        torch_compile=False,
    )
    found = read_splits(settings).sources
    for name in ("train", "dev"):
        if found[name] != record["data"][name] and not config.train:
            raise InputError(
                f"the rows of {name} in {before.train} are not those that {config.checkpoint} learned from, so dev "
                "rows could be among them; give --train with rows that have none of its dev.jsonl"
            )
    return settings


def _try(
    student: Student, settings: TrainConfig, work: Path, teacher: Path, dev: str, say: Callable[[str], None]
) -> Tried:
    """Return what came of a student, which is trained and exported where it was not yet."""
    name, out = student.name, work / student.name
    if not (out / checkpoint.RECORD).is_file():
        say(
            f"training {student.layers} layers with {student.feed_forward:.0%} of their feed-forward and "
            f"{student.heads:.0%} of their heads"
        )
        own: dict[str, Any] = {"keep_layers": student.layers, "keep_feed_forward": student.feed_forward, "out": out}
        fit.train(dataclasses.replace(settings, **own), resume=True, log=say)
    bundle = _bundle(out, work / f"{name}-bundle", say)
    return _measured(name, bundle, teacher, dev, checkpoint.read_record(out)["seconds"])


def _bundle(folder: Path, out: Path, say: Callable[[str], None]) -> Path:
    """Return the bundle of a checkpoint, exported by the command, where it was not yet.

    Raises:
        BurnishError: the export failed, and says why.
    """
    if not (out / "manifest.json").is_file():
        say(f"exporting {folder}")
        call = [sys.executable, "-c", COMMAND, "export", str(folder), "--out", str(out), "--json"]
        done = subprocess.run(call, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
        if done.returncode:
            raise BurnishError(f"{folder} was not exported: {done.stderr.strip().splitlines()[-1]}")
    return out


def _measured(name: str, bundle: Path, teacher: Path, dev: str, seconds: float) -> Tried:
    """Return a bundle's score on dev rows, and how many times as fast as the teacher's it answers them, in turns."""
    models = {"teacher": load(teacher), name: load(bundle)}
    model = models[name]
    rows = read_labelled(dev, model.task, model.labels)
    asked = [row.asked for row in rows][:TEXTS]
    times = interleave(
        {one: functools.partial(own, asked) for one, own in models.items()},
        rounds=ROUNDS,
        seconds=SECONDS,
    )
    size = (bundle / open_bundle(bundle).manifest.variants[model.variant].file).stat().st_size
    return Tried(
        name,
        round(speedup(times[name], times["teacher"]).median, 3),
        float(evaluate(model, rows).metrics[model.task.metric]),
        round(size / 1e6, 1),
        seconds,
    )


def _finish(config: CompressConfig, work: Path, name: str) -> None:
    """Put the student, its bundle and what was found in their place, and leave the others out."""
    for old, new in ((name, "checkpoint"), (f"{name}-bundle", "bundle")):
        (work / old).rename(work / new)
    for other in work.iterdir():
        if other.is_dir() and other.name not in ("checkpoint", "bundle"):
            shutil.rmtree(other)
    for part in (SETTINGS, PRECISION):
        (work / part).unlink()
    if config.out.exists():
        shutil.rmtree(config.out)
    work.rename(config.out)
