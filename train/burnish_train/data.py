"""Labelled rows to train on: read, checked, split, and reported on.

What a user would want to know is said and never hidden: texts that stand in two splits, one text with two labels, empty
texts, classes with a single row. What cannot be right ends the run: an unknown label in dev or test, one class only.

>>> splits = read_splits(config)  # doctest: +SKIP
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve.errors import InputError
from burnish_serve.rows import FORMATS, columns_of, field_text, read_rows
from burnish_train.config import TrainConfig


@dataclass(frozen=True)
class Example:
    """One labelled row."""

    text: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The rows of one training run."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]
    labels: tuple[str, ...]
    """All labels of train, sorted: their order is that of the logits."""
    sources: dict[str, dict[str, Any]]
    """Where each split comes from: name, sha256, rows."""
    warnings: tuple[str, ...]


def read_splits(config: TrainConfig) -> Splits:
    """Read train, dev and test as the config names them; dev is cut from train where it names none.

    Raises:
        InputError: rows that cannot be used, with file and line.
    """
    warnings: list[str] = []
    given = {"train": config.train, "dev": config.dev, "test": config.test}
    splits = {name: _read(source, name, config, warnings) for name, source in given.items() if source}
    sources: dict[str, dict[str, Any]] = {
        name: {"source": given[name], "sha256": _sha256(rows), "rows": len(rows)} for name, rows in splits.items()
    }
    labels = tuple(sorted({row.label for row in splits["train"]}))
    if len(labels) < 2:
        raise InputError(
            f"{config.train}: all rows have the label {labels[0]!r}; a classifier needs at least two labels"
        )
    for name in ("dev", "test"):
        _check_labels(splits.get(name, []), labels, f"{given[name]}", config.train)
    warnings += _label_warnings(splits["train"])
    if "dev" not in splits:
        splits["train"], splits["dev"] = cut_dev(splits["train"], config.dev_fraction, config.seed)
        rule = {"cut_from": "train", "fraction": config.dev_fraction, "seed": config.seed, "rows": len(splits["dev"])}
        sources["dev"] = rule
        sources["train"]["rows_left"] = len(splits["train"])
        if config.dev_fraction and not splits["dev"]:
            warnings.append("train: no label has enough texts to cut dev rows from, so the last epoch is kept")
    warnings += _overlap_warnings(splits)
    return Splits(
        train=splits["train"],
        dev=splits["dev"],
        test=splits.get("test", []),
        labels=labels,
        sources=sources,
        warnings=tuple(warnings),
    )


def cut_dev(rows: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return (train, dev): the fraction is taken from each label, by text, so that no text stands in both.

    Labels with too few texts for a dev row stay in train.
    """
    texts: dict[str, list[Example]] = {}
    for row in rows:
        texts.setdefault(row.text, []).append(row)
    by_label: dict[str, list[str]] = {}
    for text, same in texts.items():
        by_label.setdefault(same[0].label, []).append(text)
    random = np.random.default_rng(seed)
    chosen: set[str] = set()
    for label in sorted(by_label):
        of_label = by_label[label]
        take = min(round(fraction * len(of_label)), len(of_label) - 1)
        chosen.update(of_label[i] for i in random.permutation(len(of_label))[:take])
    return [row for row in rows if row.text not in chosen], [row for row in rows if row.text in chosen]


def _read(source: str, split: str, config: TrainConfig, warnings: list[str]) -> list[Example]:
    rows, empty = [], []
    is_file = Path(source).is_file() or Path(source).suffix.lower() in FORMATS
    for number, row in read_rows(source) if is_file else _read_dataset(source, split):
        where = f"{source}:{number}"
        text = field_text(row, config.text_column, where)
        label = row.get(config.label_column)
        if label is None or label == "":
            if config.label_column not in row:
                there = columns_of(row)
                raise InputError(f"{where}: no column {config.label_column!r}; the columns there are: {there}")
            raise InputError(f"{where}: the label in column {config.label_column!r} is empty")
        if isinstance(label, dict | list | float):
            raise InputError(f"{where}: a label is text or a whole number, not {json.dumps(label)}")
        if text.strip():
            rows.append(Example(text, str(label)))
        else:
            empty.append(number)
    if empty:
        warnings.append(f"{source}: {_count(empty, 'row')} with an empty text left out (line {empty[0]} first)")
    if not rows:
        raise InputError(f"{source} has no rows")
    return rows


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
    names: dict[str, Callable[[int], str]] = {
        column: feature.int2str for column, feature in data.features.items() if isinstance(feature, datasets.ClassLabel)
    }
    for number, row in enumerate(data, 1):
        yield number, {key: names[key](value) if key in names else value for key, value in row.items()}


def _check_labels(rows: Sequence[Example], labels: Sequence[str], source: str, train: str) -> None:
    unknown = sorted({row.label for row in rows} - set(labels))
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (" …" if len(unknown) > 5 else "")
        known = ", ".join(map(repr, labels[:10])) + (" …" if len(labels) > 10 else "")
        raise InputError(f"{source}: labels that {train} does not have: {shown}; known are: {known}")


def _label_warnings(rows: Sequence[Example]) -> list[str]:
    counts = collections.Counter(row.label for row in rows)
    rare = sorted(label for label, count in counts.items() if count < 2)
    by_text: dict[str, set[str]] = {}
    for row in rows:
        by_text.setdefault(row.text, set()).add(row.label)
    torn = [text for text, found in by_text.items() if len(found) > 1]
    warnings = []
    if rare:
        warnings.append(
            f"train: {_count(rare, 'class', 'classes')} with a single row: {', '.join(map(repr, rare[:5]))}"
        )
    if torn:
        both = ", ".join(sorted(by_text[torn[0]]))
        warnings.append(f"train: {_count(torn, 'text')} with more than one label, such as {torn[0][:80]!r} ({both})")
    return warnings


def _overlap_warnings(splits: dict[str, list[Example]]) -> list[str]:
    warnings = []
    names = list(splits)
    for i, first in enumerate(names):
        seen = {row.text for row in splits[first]}
        shares = ((second, sorted({row.text for row in splits[second]} & seen)) for second in names[i + 1 :])
        warnings += [
            f"{first} and {second} share {_count(shared, 'text')}, such as {shared[0][:80]!r}"
            for second, shared in shares
            if shared
        ]
    return warnings


def _count(items: Sequence[object], one: str, many: str | None = None) -> str:
    return f"{len(items)} {one if len(items) == 1 else many or one + 's'}"


def _sha256(rows: Sequence[Example]) -> str:
    """Return the hash of the rows themselves, the same for the same data in any file format."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.text, row.label], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
