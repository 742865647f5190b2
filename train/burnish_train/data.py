"""Labelled rows to train on: read, checked, split, and reported on.

What a user would want to know is said and never hidden: texts that stand in two splits, one text with two labels, empty
texts, classes with a single row. What cannot be right ends the run: an unknown label in dev or test, one class only.

>>> splits = read_splits(config)  # doctest: +SKIP
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from burnish_serve.errors import InputError
from burnish_serve.rows import FORMATS, format_of, read_rows
from burnish_serve.tasks import Task, task_named
from burnish_train.config import TrainConfig


@dataclass(frozen=True)
class Example:
    """One labelled row."""

    asked: dict[str, Any]
    """The row by the task's own columns."""
    texts: tuple[str, ...]
    """What the model reads of it."""
    right: Any
    """What is right, as the task understands it."""
    label: Any = None
    """What is right, as it stood in the row."""
    line: int = field(default=0, compare=False)
    """Where it stands in its file."""
    row: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The whole row, with the columns that no task reads."""

    def as_row(self, task: Task) -> dict[str, Any]:
        """Return the row by the task's own columns, with what is right where rows have that."""
        return {**self.asked, task.label_column_of(self.asked): self.label} if task.label_column else self.asked


class Columns(Protocol):
    """What settings say about reading rows: those of any verb that reads labelled ones."""

    @property
    def task(self) -> str:
        """Return the task's name."""

    @property
    def text_column(self) -> str:
        """Return the column that holds the text."""

    @property
    def label_column(self) -> str | None:
        """Return the column that holds what is right; None for the task's own."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The rows of one training run."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]
    names: tuple[str, ...]
    """All labels of train, sorted."""
    sources: dict[str, dict[str, Any]]
    """Where each split comes from: name, sha256, rows."""
    warnings: tuple[str, ...]
    unlabelled: tuple[Example, ...] = ()
    """Rows without labels."""
    domain: tuple[Example, ...] = ()
    """Texts that a trimmed vocabulary is to hold besides those of train, labels or not."""
    augmented: tuple[Example, ...] = ()
    """Copies of train rows with words changed; see `burnish_train.methods.augment`."""

    @property
    def labelled(self) -> list[Example]:
        """Return the rows to learn from that have a label: those of train, and their changed copies."""
        return [*self.train, *self.augmented]


def read_splits(config: TrainConfig, *, cut: bool = True) -> Splits:
    """Read train, dev and test as the config names them; dev is cut from train where it names none.

    Args:
        config: the settings.
        cut: whether to; else there are no dev rows then.

    Raises:
        InputError: rows that cannot be used, with file and line.
    """
    warnings: list[str] = []
    task = task_named(config.task)
    given = {"train": config.train, "dev": config.dev, "test": config.test}
    splits = {name: read_examples(source, name, config, warnings) for name, source in given.items() if source}
    sources: dict[str, dict[str, Any]] = {
        name: {"source": given[name], "sha256": sha256(rows), "rows": len(rows)} for name, rows in splits.items()
    }
    names = tuple(sorted({name for row in splits["train"] for name in task.names(row.right)}))
    if task.problem_type == "single_label_classification" and len(names) < 2:
        raise InputError(
            f"{config.train}: all rows have the label {names[0]!r}; a classifier needs at least two labels"
        )
    for name in ("dev", "test"):
        known = (*names, config.reject_label) if config.reject_label else names
        _check_labels(splits.get(name, []), task, known, f"{given[name]}", config.train)
    warnings += _label_warnings(splits["train"], task)
    unlabelled = read_unlabelled(config.unlabelled, config) if config.unlabelled else ()
    domain = tuple(row for source in config.vocabulary_texts for row in _read_domain(source, config))
    besides = {
        "unlabelled": (config.unlabelled, unlabelled),
        "vocabulary": (", ".join(config.vocabulary_texts), domain),
    }
    for name, (source, rows) in besides.items():
        if rows:
            sources[name] = {"source": source, "sha256": sha256(rows), "rows": len(rows)}
    if "dev" not in splits:
        fraction = config.dev_fraction if cut else 0.0
        splits["train"], splits["dev"] = cut_dev(splits["train"], fraction, config.seed)
        sources["dev"] = {"cut_from": "train", "fraction": fraction, "seed": config.seed, "rows": len(splits["dev"])}
        sources["train"]["rows_left"] = len(splits["train"])
        if fraction and not splits["dev"]:
            warnings.append("train: no label has enough texts to cut dev rows from, so the last epoch is kept")
    warnings += _overlap_warnings(splits)
    return Splits(
        train=splits["train"],
        dev=splits["dev"],
        test=splits.get("test", []),
        names=names,
        sources=sources,
        warnings=tuple(warnings),
        unlabelled=unlabelled,
        domain=(*unlabelled, *domain),
    )


def read_unlabelled(source: str, config: TrainConfig) -> tuple[Example, ...]:
    """Return the rows of a file whose labels are not known, or not looked at; empty texts are left out.

    Raises:
        InputError: a row that cannot be used, with file and line, or there are none.
    """
    task = task_named(config.task)
    rows = []
    for number, row in read_rows(source):
        asked = task.asked(row, f"{source}:{number}", config.text_column)
        texts = task.texts(asked, f"{source}:{number}")
        if any(text.strip() for text in texts):
            rows.append(Example(asked, texts, None))
    if not rows:
        raise InputError(f"{source} has no rows")
    return tuple(rows)


def _read_domain(source: str, config: TrainConfig) -> tuple[Example, ...]:
    """Return texts whose words are looked at alone: plain ones, whatever the task reads, or its rows.

    Raises:
        InputError: a row that cannot be used, with file and line, or there are none.
    """
    if format_of(source) != "text":
        return read_unlabelled(source, config)
    rows = tuple(Example(row, (row["text"],), None) for _, row in read_rows(source))
    if not rows:
        raise InputError(f"{source} has no rows")
    return rows


def cut_dev(rows: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return (train, dev): the fraction is taken from each label, by text, so that no text stands in both.

    Labels with too few texts for a dev row stay in train. Where a row has not one label, it is taken from all rows.
    """
    texts: dict[tuple[str, ...], list[Example]] = {}
    for row in rows:
        texts.setdefault(row.texts, []).append(row)
    by_label: dict[str, list[tuple[str, ...]]] = {}
    for text, same in texts.items():
        by_label.setdefault(same[0].right if isinstance(same[0].right, str) else "", []).append(text)
    random = np.random.default_rng(seed)
    chosen: set[tuple[str, ...]] = set()
    for label in sorted(by_label):
        of_label = by_label[label]
        take = min(round(fraction * len(of_label)), len(of_label) - 1)
        chosen.update(of_label[i] for i in random.permutation(len(of_label))[:take])
    return [row for row in rows if row.texts not in chosen], [row for row in rows if row.texts in chosen]


def read_examples(source: str, split: str, config: Columns, warnings: list[str]) -> list[Example]:
    """Return the rows of a file or a dataset; what is left out is added to the warnings.

    Raises:
        InputError: a row that cannot be used, with file and line, or there are none.
    """
    task = task_named(config.task)
    rows, empty = [], []
    is_file = Path(source).is_file() or Path(source).suffix.lower() in FORMATS
    for number, row in read_rows(source) if is_file else _read_dataset(source, split):
        where = f"{source}:{number}"
        asked = task.asked(row, where, config.text_column)
        column = config.label_column or task.label_column_of(asked)
        right = task.right(row, asked, column, where)
        texts = task.texts(asked, where)
        if any(text.strip() for text in texts):
            rows.append(Example(asked, texts, right, _as_json(right, row.get(column)), number, row))
        else:
            empty.append(number)
    if empty:
        warnings.append(f"{source}: {_count(empty, 'row')} with an empty text left out (line {empty[0]} first)")
    if not rows:
        raise InputError(f"{source} has no rows")
    return rows


def _as_json(right: Any, label: Any) -> Any:
    """Return what is right as a row of JSON holds it, whichever format it came from."""
    if isinstance(right, str | float):
        return right
    return sorted(right) if isinstance(right, frozenset) else label


def _read_dataset(name: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a dataset of the Hub, or of a folder laid out like one."""
    import datasets

    wanted = {"dev": "validation"}.get(split, split)
    base, _, own = name.partition("@")
    try:
        data = datasets.load_dataset(base, split=own or wanted)
    except Exception as error:  # datasets raises many kinds for a name that cannot be loaded
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name}: neither a file of rows nor a dataset that can be loaded (split {own or wanted!r}): {first}"
        ) from error
    inner = {column: getattr(feature, "feature", feature) for column, feature in data.features.items()}  # of lists
    names: dict[str, Callable[[Any], Any]] = {
        column: feature.int2str for column, feature in inner.items() if isinstance(feature, datasets.ClassLabel)
    }
    for number, row in enumerate(data, 1):
        yield number, {key: names[key](value) if key in names else value for key, value in row.items()}


def _check_labels(rows: Sequence[Example], task: Task, names: Sequence[str], source: str, train: str) -> None:
    unknown = sorted({name for row in rows for name in task.names(row.right)} - set(names))
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (" …" if len(unknown) > 5 else "")
        known = ", ".join(map(repr, names[:10])) + (" …" if len(names) > 10 else "")
        raise InputError(f"{source}: labels that {train} does not have: {shown}; known are: {known}")


def _label_warnings(rows: Sequence[Example], task: Task) -> list[str]:
    counts = collections.Counter(name for row in rows for name in task.names(row.right))
    rare = sorted(label for label, count in counts.items() if count < 2)
    by_text: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        if isinstance(row.right, str):
            by_text.setdefault(row.texts, set()).add(row.right)
    torn = [text for text, found in by_text.items() if len(found) > 1]
    remarks = collections.Counter(remark for row in rows if (remark := task.remark(row.right, row.label)))
    warnings = [f"train: {count} row{'s' * (count > 1)} with {remark}" for remark, count in sorted(remarks.items())]
    if rare:
        warnings.append(
            f"train: {_count(rare, 'class', 'classes')} with a single row: {', '.join(map(repr, rare[:5]))}"
        )
    if torn:
        both = ", ".join(sorted(by_text[torn[0]]))
        warnings.append(f"train: {_count(torn, 'text')} with more than one label, such as {_shown(torn[0])} ({both})")
    return warnings


def _overlap_warnings(splits: dict[str, list[Example]]) -> list[str]:
    warnings = []
    names = list(splits)
    for i, first in enumerate(names):
        seen = {row.texts for row in splits[first]}
        shares = ((second, sorted({row.texts for row in splits[second]} & seen)) for second in names[i + 1 :])
        warnings += [
            f"{first} and {second} share {_count(shared, 'text')}, such as {_shown(shared[0])}"
            for second, shared in shares
            if shared
        ]
    return warnings


def _shown(texts: tuple[str, ...]) -> str:
    return " and ".join(repr(text[:80]) for text in texts)


def _count(items: Sequence[object], one: str, many: str | None = None) -> str:
    return f"{len(items)} {one if len(items) == 1 else many or one + 's'}"


def sha256(rows: Sequence[Example]) -> str:
    """Return the hash of the rows themselves, the same for the same data in any file format."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([*row.asked.values(), row.label], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
