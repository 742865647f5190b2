"""Labels that are likely wrong, by confident learning (Northcutt et al., 2021, arXiv:1911.00068), through cleanlab.

A label is doubted where a model that has not learned from the row believes another. How many are wrong is estimated
from how surely each class is predicted; the least believed are named.

>>> doubted(rows, scores, labels)[0]  # doctest: +SKIP
{'line': 17, 'label': 'card_arrival', 'suggested': 'lost_or_stolen_card', 'quality': 0.0004, …}
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from burnish_train.data import Example
from burnish_train.insight.out_of_fold import Scores

# How the doubted are ranked: the best of cleanlab's on banking77 with planted errors (docs/audit.md).
RANKED_BY = "self_confidence"
GIVEN_FROM = 0.5


def doubted(rows: Sequence[Example], scores: Scores, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows whose labels are likely wrong, the least believed first.

    Args:
        rows: rows with one label each, or any number.
        scores: each label's score for each row, by a model that has not learned from it: ``[rows, labels]``.
        labels: their names.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    if all(isinstance(row.right, str) for row in rows):
        order, quality = _single(np.array([numbers[row.right] for row in rows]), scores)
        suggested: list[Any] = [labels[int(best)] for best in scores.argmax(1)]
    else:
        order, quality = _several([sorted(numbers[label] for label in row.right) for row in rows], scores)
        suggested = [[labels[int(column)] for column in np.flatnonzero(row >= GIVEN_FROM)] for row in scores]
    return [
        {
            "line": rows[place].line,
            "label": rows[place].label,
            "suggested": suggested[place],
            "quality": round(float(quality[place]), 4),
            "texts": list(rows[place].texts),
        }
        for place in order
    ]


def _single(given: Any, scores: Scores) -> tuple[Any, Any]:
    """Return the numbers of the doubted rows, the worst first, and the quality of all, where each has one label."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(given, scores, method=RANKED_BY)
    order = find_label_issues(given, scores, filter_by=f"low_{RANKED_BY}", return_indices_ranked_by=RANKED_BY, n_jobs=1)
    return order, quality


def _several(given: list[list[int]], scores: Scores) -> tuple[Any, Any]:
    """Return the same where rows have any number of labels."""
    from cleanlab.multilabel_classification.filter import find_label_issues
    from cleanlab.multilabel_classification.rank import get_label_quality_scores

    quality = get_label_quality_scores(given, scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # cleanlab warns of the function that it calls itself
        issues = find_label_issues(given, scores, filter_by="low_self_confidence", n_jobs=1)
    return np.flatnonzero(issues)[np.argsort(quality[issues], kind="stable")], quality
