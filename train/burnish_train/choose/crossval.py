"""Cross-validation: a training repeated on folds of its rows, so that each row is answered by a model without it.

A fold is a run of ``burnish train`` and nothing else: where the recipe cuts dev rows, they are cut from the rows that
the fold learns from. They choose the epoch and the thresholds, and the rows that are held out choose nothing.

>>> cross_validate(TrainConfig(model="encoder/", train="train.jsonl", out=Path("runs/cv")))  # doctest: +SKIP
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from burnish_serve import machine
from burnish_serve.config import to_dict
from burnish_serve.errors import InputError
from burnish_serve.evaluation import intervals
from burnish_serve.rows import read_rows
from burnish_serve.runner import Runner
from burnish_serve.tasks import Decoding, Reading, task_named
from burnish_serve.writing import RowWriter, write_text
from burnish_train import checkpoint
from burnish_train.choose.crossval_config import FoldsConfig
from burnish_train.choose.folds import Numbers, fold_of
from burnish_train.choose.scores import spreads
from burnish_train.config import TrainConfig
from burnish_train.data import Example, Splits, cut_dev, read_splits, sha256
from burnish_train.device import KEPT as PRECISION
from burnish_train.device import with_precision
from burnish_train.fit import Origin, train
from burnish_train.kinds import KINDS
from burnish_train.work import SETTINGS, check_place, keep_settings

RECORD = "cross-validation.json"
ROWS = "out-of-fold.jsonl"
Log = Callable[[str], None]


def cross_validate(
    config: TrainConfig,
    how: FoldsConfig | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    log: Log | None = None,
) -> dict[str, Any]:
    """Train on all folds but one, in turns, and score each on its rows.

    Args:
        config: the settings of each run; ``out`` is the folder of the result.
        how: how the rows are split.
        resume: go on with the unfinished work in ``OUT.partial``; a finished fold is not run again.
        overwrite: replace what stands at ``OUT`` and ``OUT.partial``.
        log: called with one line of text for each thing worth telling.

    Returns:
        The contents of ``cross-validation.json``.

    Raises:
        InputError: rows, model or folder cannot be used, or the work was begun with other settings.
        DeviceError: the device cannot be used.
        BurnishError: a run was interrupted; the message says how to go on.
    """
    how, say = how or FoldsConfig(), log or (lambda line: None)
    if not config.out.name:
        raise InputError(f"--out {config.out} names no new folder; give one, such as --out runs/a")
    check_place(config.out, overwrite=overwrite, record=RECORD, what="a cross-validation")
    whole = read_splits(dataclasses.replace(config, dev=None, test=None), cut=False)
    numbers = split(whole.train, config, how)
    whole = dataclasses.replace(whole, warnings=(*whole.warnings, *_rare(whole.train, how)))
    for warning in whole.warnings:
        say(f"warning: {warning}")
    work = _prepare(config, how, whole, numbers, resume=resume, overwrite=overwrite)
    config = with_precision(config, work)
    folds = []
    for number in range(1, int(numbers.max()) + 2):
        told = work / f"fold-{number}.json"
        if not told.exists():
            found = _run(work, config, how, whole, numbers, number, say)
            write_text(told, json.dumps(found, indent=1, ensure_ascii=False) + "\n")  # last: it stands for all of it
        folds.append(json.loads(told.read_text(encoding="utf-8")))
        scored = ", ".join(f"{k} {v:.4f}" for k, v in folds[-1]["metrics"].items() if isinstance(v, float))
        say(f"fold {number}: {scored}")
    return _finish(work, config, how, whole, folds)


def split(rows: Sequence[Example], config: TrainConfig, how: FoldsConfig) -> Numbers:
    """Return the fold of each row, from 0; see `fold_of`.

    Raises:
        InputError: a row has no group where groups are asked for, or there are too few rows.
    """
    groups = None
    if how.group_column:
        for row in rows:
            if row.row.get(how.group_column) in (None, ""):
                raise InputError(f"{config.train}:{row.line}: nothing stands in the column {how.group_column!r}")
        groups = [json.dumps(row.row[how.group_column], default=str) for row in rows]
    return fold_of(
        [row.texts for row in rows],
        folds=None if how.leave_one_out else how.folds,
        seed=config.seed,
        labels=[row.right for row in rows] if all(isinstance(row.right, str) for row in rows) else None,
        groups=groups,
    )


def _rare(rows: Sequence[Example], how: FoldsConfig) -> list[str]:
    """Return a warning of labels that cannot stand in each fold."""
    counts = collections.Counter(row.right for row in rows if isinstance(row.right, str))
    rare = sorted(label for label, count in counts.items() if count < how.folds)
    if not rare or how.leave_one_out:
        return []
    return [f"train: labels with fewer rows than there are folds ({how.folds}): {', '.join(map(repr, rare[:5]))}"]


def _prepare(
    config: TrainConfig, how: FoldsConfig, whole: Splits, numbers: Numbers, *, resume: bool, overwrite: bool
) -> Path:
    """Return the working folder, made or taken up again."""
    work = config.out.with_name(config.out.name + ".partial")
    begun = any(work.glob("fold-*"))
    if begun and not resume and not overwrite:
        raise InputError(f"{work} holds unfinished folds; --resume goes on with them, --overwrite starts again")
    if work.exists() and not resume:
        shutil.rmtree(work)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {work}: {error.strerror}") from error
    rows = {
        **{f"rows of {name}": about.get("sha256") for name, about in whole.sources.items()},
        "folds of the rows": hashlib.sha256(numbers.tobytes()).hexdigest(),
    }
    keep_settings(work, {**to_dict(config), **to_dict(how), **rows}, begun=begun)
    return work


def _run(
    work: Path, config: TrainConfig, how: FoldsConfig, whole: Splits, numbers: Numbers, number: int, say: Log
) -> dict[str, Any]:
    """Train without a fold, answer its rows, and return what is found; a run that was stopped is gone on with."""
    out = work / f"fold-{number}"
    held = [row for row, fold in zip(whole.train, numbers, strict=True) if fold == number - 1]
    rest = [row for row, fold in zip(whole.train, numbers, strict=True) if fold != number - 1]
    learned, dev = cut_dev(rest, config.dev_fraction, config.seed)
    if not (out / checkpoint.RECORD).exists():  # or it was stopped between the training and its answers
        parts = {"train": learned, "dev": dev, "test": held}
        sources = {
            name: {"source": config.train, "sha256": sha256(rows), "rows": len(rows)} for name, rows in parts.items()
        }
        splits = dataclasses.replace(
            whole, train=learned, dev=dev, test=held, sources={**whole.sources, **sources}, warnings=()
        )
        origin = Origin(splits=splits, make=lambda _: config.model, record={}, model={})
        told = f"fold {number} of {int(numbers.max()) + 1}"
        train(dataclasses.replace(config, out=out), resume=True, log=lambda line: say(f"{told}: {line}"), origin=origin)
    record = checkpoint.read_record(out)
    with RowWriter(work / f"fold-{number}.jsonl") as writer:
        writer.write(answered(checkpoint.load(out, device=config.device), held, number))
    if not how.keep_checkpoints:
        shutil.rmtree(out)
    counts = {"fold": number, "rows": len(held), "train_rows": len(learned), "dev_rows": len(dev)}
    return {**counts, "steps": record["steps"], "seconds": record["seconds"], "metrics": record["metrics"]["test"]}


def answered(runner: Runner, rows: Sequence[Example], fold: int) -> list[dict[str, Any]]:
    """Return rows with line, fold, answer, whether it is right, and the score of every label where there are labels."""
    task = runner.task
    asked = runner.examine([row.asked for row in rows])
    scores: list[dict[str, Any]] = [{}] * len(rows)
    if "classification" in (task.problem_type or ""):
        outputs = runner.outputs(asked)
        answers = runner.decode(asked, outputs)
        plain = {"reject_below": 0.0} if "reject_below" in task.options else {}
        ranked = runner.decode(asked, outputs, top_k=None, **plain)
        scores = [{"scores": {one["label"]: one["score"] for one in row}} for row in ranked]
    else:
        answers = runner.answers(asked)
    return [
        {
            **row.row,
            "line": row.line,
            "fold": fold,
            "answer": answer,
            **({"correct": task.agrees(row.right, answer)} if task.agrees else {}),
            **more,
        }
        for row, answer, more in zip(rows, answers, scores, strict=True)
    ]


def _finish(
    work: Path, config: TrainConfig, how: FoldsConfig, whole: Splits, folds: list[dict[str, Any]]
) -> dict[str, Any]:
    """Put the answers of all folds together, score them, and rename the folder to its place."""
    task = task_named(config.task)
    files = [work / f"fold-{one['fold']}.jsonl" for one in folds]
    rows = sorted((row for file in files for _, row in read_rows(file)), key=lambda row: row["line"])
    right, answers = [row.right for row in whole.train], [row["answer"] for row in rows]
    decoding = Decoding(reject_label=config.reject_label)
    reading = Reading(labels=KINDS[config.task].labels_of(whole.names, config), decoding=decoding)
    metrics = task.score(right, answers, reading)
    record: dict[str, Any] = {
        "task": config.task,
        "settings": {**to_dict(config), **to_dict(how)},
        "data": {"source": config.train, "sha256": whole.sources["train"]["sha256"], "rows": len(rows)},
        "warnings": list(whole.warnings),
        "folds": folds,
        "metrics": {} if how.leave_one_out else spreads([one["metrics"] for one in folds]),
        "out_of_fold": {"metrics": metrics, "intervals": intervals(task, reading, right, answers, metrics)},
        "seconds": round(sum(one["seconds"] for one in folds), 1),
        "machine": machine.description(),
        "versions": {name: machine.version(name) for name in ("burnish", "torch", "transformers", "scikit-learn")},
    }
    with RowWriter(work / ROWS) as writer:
        writer.write(rows)
    write_text(work / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if config.out.exists():
        shutil.rmtree(config.out)
    work.rename(config.out)
    for part in (SETTINGS, *(f"fold-{one['fold']}.{end}" for one in folds for end in ("json", "jsonl"))):
        (config.out / part).unlink()  # after the renaming: until then they are what is gone on with
    (config.out / PRECISION).unlink(missing_ok=True)
    return record
