"""Scores are only worth what their intervals are: both are compared with SciPy and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from burnish_serve import TASKS
from burnish_serve.errors import InputError
from burnish_serve.evaluation import evaluate, read_labelled, wilson

TASK = TASKS["text-classification"]
LABELS = ("negative", "positive")


@given(st.integers(1, 5000).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_wilsons_interval_is_that_of_scipy(counts):
    right, rows = counts
    expected = binomtest(right, rows).proportion_ci(method="wilson")
    assert wilson(right / rows, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.fixture
def labelled(tmp_path):
    """Return a function that writes rows to a file and reads them as labelled."""

    def read(rows, **columns):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_labelled(str(path), TASK, LABELS, **columns)

    return read


ROWS = [
    {"id": 1, "text": "great film", "label": "positive"},
    {"id": 2, "text": "dull", "label": "negative"},
    {"id": 3, "text": "boring plot", "label": "positive"},
    {"id": 4, "text": "bad food", "label": "negative"},
    {"id": 5, "text": "I love it", "label": "positive"},
]


def test_metrics_are_those_of_scikit_learn_on_the_models_answers(tiny_model, labelled):
    result = evaluate(tiny_model, labelled(ROWS))
    right, predicted = [row["label"] for row in ROWS], ["positive", "negative", "negative", "negative", "positive"]
    assert result.metrics["accuracy"] == accuracy_score(right, predicted) == 0.8
    assert result.metrics["f1_macro"] == pytest.approx(f1_score(right, predicted, average="macro"))
    assert result.intervals["accuracy"] == wilson(0.8, 5)
    assert [row["correct"] for row in result.rows] == [True, True, False, True, True]
    assert [{key: row[key] for key in ROWS[0]} for row in result.rows] == ROWS
    assert result.rows[0]["answer"] == tiny_model("great film")[0]


def test_every_number_has_an_interval_around_it(tiny_model, labelled):
    result = evaluate(tiny_model, labelled(ROWS * 8))
    numbers = {name: value for name, value in result.metrics.items() if isinstance(value, float)}
    assert set(result.intervals) == set(numbers)
    for name, value in numbers.items():
        low, high = result.intervals[name]
        assert 0 <= low < value < high <= 1
    assert evaluate(tiny_model, labelled(ROWS * 8)).intervals == result.intervals


def test_the_bootstrap_finds_the_spread_of_a_score(tiny_model, labelled):
    rows = ROWS * 40
    result = evaluate(tiny_model, labelled(rows))
    low, high = result.intervals["recall_macro"]
    # Recall of the positives is 2/3 on 120 rows, that of the negatives 1: the mean varies half as much as the first.
    half = 1.96 * np.sqrt(2 / 3 * 1 / 3 / 120) / 2
    assert (low, high) == pytest.approx((5 / 6 - half, 5 / 6 + half), abs=0.02)


def test_labels_that_are_no_text_are_compared_as_text(labelled, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": 1}\n')
    assert read_labelled(str(path), TASK, ("0", "1"))[0].right == "1"


def test_other_columns_may_hold_text_and_label(labelled):
    (example,) = labelled([{"body": "great", "stars": "positive"}], text_column="body", label_column="stars")
    assert (example.asked, example.right) == ({"text": "great"}, "positive")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ROWS[0], {"text": "a", "label": "neutral"}], r":2: the label 'neutral' is unknown .*'negative', 'positive'"),
        ([ROWS[0], {"text": "a"}], r":2: no column 'label'; the columns there are: 'text'"),
        ([{"label": "positive"}], r":1: no column 'text'; the columns there are: 'label'"),
        ([{"text": None, "label": "positive"}], r":1: column 'text' must hold text, not null"),
        ([], r"rows\.jsonl has no rows"),
    ],
)
def test_rows_that_cannot_be_scored_are_said_with_their_line(labelled, rows, said):
    with pytest.raises(InputError, match=said):
        labelled(rows)
