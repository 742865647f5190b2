"""Rows for each task that the tiny encoder (tiny_model.py) learns in a second or two: its words tell what is right.

A task's rows come from one function, ``(count, seed) -> rows``; `WAYS` says for each task, or way to use one, which
function it is, with what settings it is trained, and what it must reach on rows that it has not seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tiny_model import FILLERS, KEYWORDS, LABELS, labelled_rows
from tiny_tags import tagged_rows

VALUES = {"alarm": 0.0, "music": 1.0, "weather": 2.0}
ANSWERS = {word for words in KEYWORDS.values() for word in words}
DIRECTED = {"alarm": "Starts(e1,e2)", "music": "Starts(e2,e1)", "weather": "Other"}


@dataclass(frozen=True)
class Way:
    """A task, or a way to use one."""

    task: str
    rows: Callable[[int, int], list[dict[str, Any]]]
    reached: float
    """The task's metric, at the least."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of training, where they are not those of all."""


def sentence(words: random.Random, *labels: str, most: int = 7) -> str:
    """Return fillers with a keyword of each label among them."""
    text = words.choices(FILLERS, k=words.randint(1, most))
    for label in labels:
        text.insert(words.randint(0, len(text)), words.choice(KEYWORDS[label]))
    return " ".join(text)


def classes(count: int, seed: int) -> list[dict[str, Any]]:
    """Return texts with one label each."""
    return list(labelled_rows(count, seed=seed))


def pairs_of_classes(count: int, seed: int) -> list[dict[str, Any]]:
    """Return pairs of texts; the second has the label's word."""
    words = random.Random(seed)
    chosen = words.choices(LABELS, k=count)
    return [{"text_a": sentence(words), "text_b": sentence(words, label), "label": label} for label in chosen]


def several_labels(count: int, seed: int) -> list[dict[str, Any]]:
    """Return texts with none to three labels."""
    words = random.Random(seed)
    chosen = [sorted(label for label in LABELS if words.random() < 0.4) for _ in range(count)]
    return [{"text": sentence(words, *labels), "labels": labels} for labels in chosen]


def numbers(count: int, seed: int) -> list[dict[str, Any]]:
    """Return texts with the value of their word."""
    return [{"text": row["text"], "score": VALUES[row["label"]]} for row in labelled_rows(count, seed=seed)]


def sums(count: int, seed: int) -> list[dict[str, Any]]:
    """Return pairs of texts with the sum of the values of their words."""
    words = random.Random(seed)
    chosen = [(words.choice(LABELS), words.choice(LABELS)) for _ in range(count)]
    return [
        {"text": sentence(words, one), "text_pair": sentence(words, other), "score": VALUES[one] + VALUES[other]}
        for one, other in chosen
    ]


def alike(count: int, seed: int) -> list[dict[str, Any]]:
    """Return pairs of texts, alike where the words of both have one label."""
    words = random.Random(seed)
    chosen = [(words.choice(LABELS), words.choice(LABELS)) for _ in range(count)]
    return [
        {"text_a": sentence(words, one), "text_b": sentence(words, other), "score": float(one == other)}
        for one, other in chosen
    ]


def relations(count: int, seed: int) -> list[dict[str, Any]]:
    """Return texts whose first entity tells the relation, every second one with spans in place of markers."""
    words = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        label = words.choice(LABELS)
        one, other = words.choice(KEYWORDS[label]), words.choice(FILLERS)
        parts = [sentence(words, most=2) for _ in range(3)]
        if number % 2:
            text = f"{parts[0]} <e1> {one} </e1> {parts[1]} <e2> {other} </e2> {parts[2]}"
            rows.append({"text": text, "label": DIRECTED[label]})
        else:
            start = len(parts[0]) + 1
            second = start + len(one) + len(parts[1]) + 2
            text = f"{parts[0]} {one} {parts[1]} {other} {parts[2]}"
            spans = {"e1": [start, start + len(one)], "e2": [second, second + len(other)]}
            rows.append({"text": text, **spans, "label": DIRECTED[label]})
    return rows


def tagged(count: int, seed: int) -> list[dict[str, Any]]:
    """Return tokens with their tags."""
    return tagged_rows(count, seed=seed)


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    """Return questions whose answer is the one keyword of the context; each fourth context has none."""
    words = random.Random(seed)
    rows = []
    for number in range(count):
        context = sentence(words, *([words.choice(LABELS)] if number % 4 else []))
        found = [word for word in context.split() if word in ANSWERS]
        answers = [{"text": word, "start": f" {context} ".index(f" {word} ")} for word in found]
        rows.append({"question": "what is it", "context": context, "answers": answers})
    return rows


def masked(count: int, seed: int) -> list[dict[str, Any]]:
    """Return texts with one word hidden."""
    words = random.Random(seed)
    texts = [sentence(words, words.choice(LABELS)).split() for _ in range(count)]
    return [{"text": " ".join([*text[:-1], "[MASK]", "now"])} for text in texts]


MEAN = {"pooling": "mean"}
WAYS = {
    "text-classification": Way("text-classification", classes, 0.8, {"reject_label": "none"}),
    "pairs": Way("text-classification", pairs_of_classes, 0.8, MEAN),
    "multi-label-classification": Way("multi-label-classification", several_labels, 0.8, MEAN),
    "regression": Way("regression", numbers, 0.8, MEAN),
    "regression of pairs": Way("regression", sums, 0.8, MEAN),
    "feature-extraction": Way("feature-extraction", alike, 0.7),
    "token-classification": Way("token-classification", tagged, 0.9, {"learning_rate": 3e-3}),
    "relation-extraction": Way("relation-extraction", relations, 0.8, {"pooling": "markers-mean"}),
    "question-answering": Way("question-answering", questions, 0.3),
    "fill-mask": Way("fill-mask", masked, -10.0),
}
