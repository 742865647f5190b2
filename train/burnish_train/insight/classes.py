"""What a model makes of each label: which it takes for which, how right its answers are, and how sure it should be.

>>> confused(dev.right, dev.found)[0]  # doctest: +SKIP
('card_arrival', 'card_delivery_estimate', [3, 17])
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from burnish_serve.tasks.text_classification import BINS, calibration_error
from burnish_train.insight import plots
from burnish_train.insight.answered import Answered
from burnish_train.insight.markup import Bar, Cell, Section, Shaded, figure, number, paragraph, shortened, side, table

# Up to so many labels a matrix is a table of numbers; beyond, a picture.
FEW = 12
PAIRS = 25
Bins = list[tuple[float, float, int]]


def confusion(dev: Answered) -> Section:
    """Return which labels are taken for which: the matrix, and the pairs that are confused most often."""
    from sklearn.metrics import confusion_matrix

    right = [example.right for example in dev.examples]
    found = [dev.task.predicted(answer) for answer in dev.answers]
    seen = {*right, *found}
    labels = [label for label in dev.reading.known if label in seen]
    counts = confusion_matrix(right, found, labels=labels)
    wrong = int(counts.sum() - np.trace(counts))
    said = f"{len(right)} dev rows, {wrong} of them answered wrongly; a line is what is right, a column the answer."
    parts = [paragraph(said)]
    if len(labels) <= FEW:
        rows: list[list[Cell]] = [
            [label, *(Shaded(int(count), count / max(1, line.sum())) for count in line)]
            for label, line in zip(labels, counts, strict=True)
        ]
        parts.append(table("Rows by right label and answer", ["right \\ answered", *labels], rows))
    else:
        edge = min(14.0, 4 + 0.11 * len(labels))
        names = [shortened(label, 30) for label in labels]
        drawn = plots.svg(lambda axes: plots.matrix(axes, counts, names), "matrix", size=(edge, edge))
        told = f"Confusion matrix of {len(labels)} labels, the darker the greater the share; the table has its errors"
        parts.append(figure(drawn, "Blue where answers are right, orange where they are wrong.", told, large=True))
    pairs = confused(right, found)
    lines: list[list[Cell]] = [
        [one, other, len(rows), rows[0] + 1, shortened(dev.told_text(rows[0]), 160)]
        for one, other, rows in pairs[:PAIRS]
    ]
    head = ["right", "answered", "rows", "such as line", "text"]
    if lines:
        parts.append(table(f"The {len(lines)} of {len(pairs)} pairs that are confused most often", head, lines))
    return Section("Confusion", parts)


def confused(right: Sequence[str], found: Sequence[str]) -> list[tuple[str, str, list[int]]]:
    """Return (right, answered, numbers of the rows) for each pair of labels that differ, those of most rows first."""
    rows: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for number_of_row, pair in enumerate(zip(right, found, strict=True)):
        if pair[0] != pair[1]:
            rows[pair].append(number_of_row)
    return sorted(((one, other, some) for (one, other), some in rows.items()), key=lambda pair: -len(pair[2]))


def per_class(dev: Answered) -> Section:
    """Return the scores of each label, worst first, with its rows, and its threshold where it has one."""
    counts = collections.Counter(name for example in dev.train for name in dev.task.names(example.right))
    if dev.task.name == "relation-extraction":  # its scores are of relations, both directions taken together
        counts.clear()
    limits = dev.reading.decoding.thresholds
    unit = "spans" if dev.task.per_token else "rows"
    head = ["label", *(["train rows"] if counts else []), f"dev {unit}", *(["threshold"] if limits else [])]
    ranked = sorted(dev.metrics["per_class"].items(), key=lambda item: item[1]["f1"])
    rows: list[list[Cell]] = [
        [
            label,
            *([counts[label]] if counts else []),
            found[unit],
            *([limits.get(label, 0.5)] if limits else []),
            *(found[name] for name in ("precision", "recall", "f1")),
            Bar(found["f1"]),
        ]
        for label, found in ranked
    ]
    return Section(
        "Labels", [table("Dev scores of each label, worst first", [*head, "precision", "recall", "F1", ""], rows)]
    )


def calibration(dev: Answered) -> Section:
    """Return how far scores are to be believed, before and after a temperature where one was fitted.

    Counted are rows whose right label the model knows, each with the best label, as if nothing were rejected.
    """
    from scipy.special import softmax

    right = np.array([dev.target.numbers.get(example.right, -1) for example in dev.examples])
    logits = np.asarray(dev.outputs, dtype=np.float64)[right >= 0]
    hits = logits.argmax(axis=1) == right[right >= 0]
    temperature = dev.reading.decoding.temperature
    ways = {"as it is": 1.0} if temperature == 1 else {"before": 1.0, "after": temperature}
    scores = {way: softmax(logits / divisor, axis=1).max(axis=1) for way, divisor in ways.items()}
    errors = {way: calibration_error(some, hits) for way, some in scores.items()}
    found = {way: bins(some, hits) for way, some in scores.items()}
    told = ", ".join(f"{way} {number(error)}" for way, error in errors.items())
    said = f"Expected calibration error in {BINS} bins: {told}."
    if temperature != 1:
        said += f" The temperature fitted on these rows is {number(temperature)}."
    drawn = plots.svg(lambda axes: plots.reliability(axes, found), "reliability")
    rows: list[list[Cell]] = [[*one, way] for way, some in found.items() for one in some]
    listed = table("Answers by their score", ["mean score", "share right", "rows", "temperature"], rows)
    picture = figure(drawn, "Under the dotted line answers are surer than they should be.", f"Reliability. {said}")
    return Section("Calibration", [paragraph(said), side([picture, listed])])


def bins(scores: Any, hits: Any) -> Bins:
    """Return (mean score, share of right answers, rows) of each bin of equal width that has rows.

    Args:
        scores: of the answers ``[rows]``.
        hits: whether they are right ``[rows]``.
    """
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        (float(scores[places == place].mean()), float(hits[places == place].mean()), int((places == place).sum()))
        for place in np.unique(places)
    ]
