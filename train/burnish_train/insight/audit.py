"""What is likely wrong with labelled rows: labels, duplicates, leaks, weak slices, and words that should not matter.

>>> audit(AuditConfig(rows="train.jsonl", model="encoder/"))["wrong_labels"]  # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from burnish_serve.cli.evaluate import open_model
from burnish_serve.errors import InputError
from burnish_serve.evaluation import wilson
from burnish_serve.runner import Runner
from burnish_serve.tasks import Task, task_named
from burnish_serve.writing import RowWriter, write_text
from burnish_train.data import Example, read_examples
from burnish_train.insight import duplicates
from burnish_train.insight.audit_config import AuditConfig
from burnish_train.insight.audit_page import page
from burnish_train.insight.labels import doubted
from burnish_train.insight.out_of_fold import Scores, from_file, probed
from burnish_train.insight.slices import slices
from burnish_train.insight.swaps import read_swaps, swap_report
from burnish_train.insight.vectors import Matrix, Vectors

Log = Callable[[str], None]


def audit(config: AuditConfig, log: Log | None = None) -> dict[str, Any]:
    """Look for all of it, write what the config names, and return what was found, as ``--json`` prints it.

    Raises:
        InputError: rows, model or target cannot be used or do not go together, or a file cannot be written.
        DeviceError: the device cannot be used.
    """
    started = time.perf_counter()
    say = log or (lambda line: None)
    notes: list[str] = []
    swaps = read_swaps(config.swap)
    if swaps and not config.target:
        raise InputError("--swap asks a trained model: name a checkpoint or a bundle with --target")
    writer = RowWriter(config.out) if config.out else None  # where it cannot be written, that is said before the work
    if config.html and not config.html.parent.is_dir():
        raise InputError(f"no such folder: {config.html.parent}")
    task = task_named(config.task)
    given = {"rows": config.rows, "dev": config.dev, "test": config.test}
    splits = {name: read_examples(path, name, config, notes) for name, path in given.items() if path}
    rows = splits["rows"]
    if config.slice_column and not any(config.slice_column in row.row for row in rows):
        raise InputError(f"{config.rows}: no row has the column {config.slice_column!r}")
    target = _target(config, task)
    say(f"{len(rows)} rows; vectors by {config.model}")
    encoder = Vectors(config.model, max_length=config.max_length, device=config.device)
    vectors = {name: encoder([row.texts for row in some]) for name, some in splits.items()}
    labels = sorted({name for row in rows for name in task.names(row.right)})
    scores, correct = _scored(config, task, rows, vectors["rows"], labels, notes, say)
    if target:
        say(f"answers of {config.target}")
        correct = _right(target, rows)
    accuracy = None if correct is None else sum(correct) / len(correct)
    found = {
        "source": config.rows,
        "rows": len(rows),
        "task": config.task,
        "scores": config.out_of_fold or ("probe" if scores is not None else None),
        "answers": config.target or config.out_of_fold or ("probe" if correct is not None else None),
        "accuracy": accuracy,
        "interval": None if accuracy is None else wilson(accuracy, len(rows)),
        "wrong_labels": [] if scores is None else doubted(rows, scores, labels),
        "duplicates": duplicates.same(rows),
        "near_duplicates": duplicates.near(rows, vectors["rows"], config.near),
        "leaks": _leaks(splits, vectors, config.near),
        "slices": [] if correct is None else slices(rows, correct, config.slice_column),
        "swaps": [swap_report(target, rows, name, groups) for name, groups in swaps.items()] if target else [],
        "notes": notes,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if writer:
        with writer:
            writer.write(with_findings(rows, found))
    if config.html:
        write_text(config.html, page(found, config.top))
    return found


def _target(config: AuditConfig, task: Task) -> Runner | None:
    """Return the trained model whose answers are looked at; one of another task is refused."""
    if not config.target:
        return None
    target = open_model(config.target, device=config.device, variant=None, threads=None)
    if target.task.name != task.name:
        raise InputError(f"{config.target} answers {target.task.name}, and --task is {task.name}")
    return target


def _scored(
    config: AuditConfig,
    task: Task,
    rows: Sequence[Example],
    vectors: Matrix,
    labels: Sequence[str],
    notes: list[str],
    say: Log,
) -> tuple[Scores | None, list[bool] | None]:
    """Return each label's score for each row from models that have not seen it, and whether the best label is right."""
    if config.out_of_fold:
        return from_file(config.out_of_fold, rows, labels)
    if "classification" not in (task.problem_type or "") or len(labels) < 2:
        notes.append(f"labels of {task.name} were not looked at: that is for rows with one label or several of a text")
        return None, None
    say(f"scores by a linear probe, {config.folds} folds")
    scores = probed(rows, vectors, labels, folds=config.folds, seed=config.seed)
    if all(isinstance(row.right, str) for row in rows):
        found: list[Any] = [labels[int(best)] for best in scores.argmax(1)]
    else:
        found = [frozenset(np.array(labels)[row >= 0.5].tolist()) for row in scores]
    return scores, [row.right == one for row, one in zip(rows, found, strict=True)]


def _right(target: Runner, rows: Sequence[Example]) -> list[bool] | None:
    """Return whether a model answers each row right; None for tasks whose answers are more or less right."""
    agrees = target.task.agrees
    if agrees is None:
        return None
    answers = target.answers(target.examine([row.asked for row in rows]))
    return [agrees(row.right, answer) for row, answer in zip(rows, answers, strict=True)]


def _leaks(
    splits: Mapping[str, Sequence[Example]], vectors: Mapping[str, Matrix], threshold: float
) -> list[dict[str, Any]]:
    """Return what dev shares with the rows, and test with the rows and with dev."""
    pairs = [("rows", "dev"), ("rows", "test"), ("dev", "test")]
    return [
        {"from": first, "to": second, **leak}
        for first, second in pairs
        if first in splits and second in splits
        for leak in duplicates.leaks(splits[first], splits[second], vectors[first], vectors[second], threshold)
    ]


def with_findings(rows: Sequence[Example], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that something was found about, each with its line and its findings."""
    by_line: dict[int, list[dict[str, Any]]] = {}
    for one in found["wrong_labels"]:
        by_line.setdefault(one["line"], []).append({"kind": "wrong-label", **_only(one, "suggested", "quality")})
    for kind, key in (("duplicate", "duplicates"), ("near-duplicate", "near_duplicates")):
        for one in found[key]:
            for line in one["lines"]:
                others = [other for other in one["lines"] if other != line]
                by_line.setdefault(line, []).append({"kind": kind, "lines": others, **_only(one, "differ", "cosine")})
    for one in found["leaks"]:
        if one["from"] == "rows":
            told = {"kind": "leak", "to": one["to"], "line": one["line"], "cosine": one["cosine"]}
            by_line.setdefault(one["train_line"], []).append(told)
    return [{**row.row, "line": row.line, "findings": by_line[row.line]} for row in rows if row.line in by_line]


def _only(one: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: one[key] for key in keys if key in one}
