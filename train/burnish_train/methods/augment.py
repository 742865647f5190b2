"""More rows to learn from where there are few: copies of the train rows with some of their words changed.

Each copy is changed in one way, and the ways take turns. What a copy becomes follows from the seed and the row's number
alone. The copies stand in the working folder from the start of a run, so that it goes on with the same ones, wherever
that may be, and several processes learn from the same.

>>> splits = augmented(splits, config, work, begun=False, cuda=False, say=print)  # doctest: +SKIP
120 changed copies of 120 rows to train: swap
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve.tasks import task_named
from burnish_serve.writing import write_text
from burnish_train import processes
from burnish_train.config import TrainConfig
from burnish_train.data import Example, Splits, sha256
from burnish_train.methods.augment_guess import Blanks, Guesser
from burnish_train.methods.augment_words import Words, delete, some, swap

FILE = "augmented.json"
Guess = Callable[[Sequence[Blanks]], list[str]]
_BY_CHANCE = {"swap": swap, "delete": delete}


def augmented(
    splits: Splits, config: TrainConfig, work: Path, *, begun: bool, cuda: bool, say: Callable[[str], None]
) -> Splits:
    """Return splits with changed copies of the rows to train on.

    Args:
        splits: rows; none but those of train are copied.
        config: the settings.
        work: folder of the run, where the copies are kept.
        begun: whether the run goes on from a checkpoint, and so with the copies that are there.
        cuda: whether a model that replaces words reads on a GPU.
        say: called with the one line that tells of them.

    Raises:
        InputError: words are to be replaced, and there is no masked language model.
    """
    path = work / FILE
    with processes.first_alone() as first:
        if first and not (begun and path.is_file()):
            write_text(path, json.dumps(_made(splits, config, cuda)))
    rows = tuple(
        _copy(splits.train[number], asked, config) for number, asked in json.loads(path.read_text(encoding="utf-8"))
    )
    say(f"{len(rows)} changed copies of {len(splits.train)} rows to train: {', '.join(config.augment)}")
    about = {"source": "changed copies of train", "sha256": sha256(rows), "rows": len(rows)}
    return dataclasses.replace(splits, augmented=rows, sources={**splits.sources, "augmented": about})


def _made(splits: Splits, config: TrainConfig, cuda: bool) -> list[tuple[int, dict[str, Any]]]:
    """Return the number of each copy's row, and the copy by the task's columns; none that is a row already."""
    guess = None
    if "replace" in config.augment:
        guess = Guesser(config.augment_model or config.model, max_length=config.max_length, cuda=cuda)
    seen = {row.texts for row in (*splits.train, *splits.dev, *splits.test, *splits.unlabelled)}
    found = []
    for number, asked in changed([row.asked for row in splits.train], config, guess):
        texts = _copy(splits.train[number], asked, config).texts
        if texts not in seen:
            seen.add(texts)
            found.append((number, asked))
    return found


def changed(
    rows: Sequence[dict[str, Any]], config: TrainConfig, guess: Guess | None
) -> list[tuple[int, dict[str, Any]]]:
    """Return copies of rows with the numbers of these; of a pair of texts one is changed, and some are as they were.

    Args:
        rows: by the task's columns.
        config: the ways, how many copies, and the share of the words.
        guess: fills blanks, for words that are replaced.
    """
    found: list[tuple[int, dict[str, Any]]] = []
    blanks: list[tuple[dict[str, Any], str, Blanks]] = []
    for number, row in enumerate(rows):
        for turn in range(config.augment_copies):
            way = config.augment[(number + turn) % len(config.augment)]
            random = np.random.default_rng([config.seed, number, turn])
            column = list(row)[random.integers(len(row))]
            copy = dict(row)
            if way == "replace":
                parts = Words.of(row[column])
                places = some(len(parts.words), config.augment_share, random)
                blanks.append((copy, column, Blanks(parts, places, random)))
            else:
                copy[column] = _BY_CHANCE[way](row[column], config.augment_share, random)
            found.append((number, copy))
    if guess:
        for (copy, column, _), text in zip(blanks, guess([one for _, _, one in blanks]), strict=True):
            copy[column] = text
    return found


def _copy(row: Example, asked: dict[str, Any], config: TrainConfig) -> Example:
    """Return a row with other texts and the same label."""
    texts = task_named(config.task).texts(asked, f"a copy of row {row.line}")
    return dataclasses.replace(row, asked=asked, texts=texts)
