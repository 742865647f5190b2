"""One table test over all tasks, and each task's arithmetic against SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from burnish_serve import TASKS
from burnish_serve.errors import InputError
from burnish_serve.tasks import Reading, task_named
from burnish_serve.tasks.text_classification import score as score_answers

LABELS = ("a", "b", "c", "d")
ONE, SEVERAL = "single_label_classification", "multi_label_classification"
logits_of_rows = arrays(
    np.float32, st.tuples(st.integers(0, 5), st.just(len(LABELS))), elements=st.floats(-1000, 1000, width=32)
)


def decode(logits, labels, problem_type, top_k):
    """Return the answers of the task for a kind of problem, always as lists."""
    task = next(task for task in TASKS.values() if task.problem_type == problem_type)
    answers = task.decode([], logits, Reading(labels=tuple(labels)), top_k=top_k)
    return [[answer] for answer in answers] if top_k == 1 else answers


def score(right, predicted, labels):
    """Return the metrics of predicted labels."""
    return score_answers(right, [{"label": label, "score": 1.0} for label in predicted], Reading(labels=labels))


@pytest.mark.parametrize("name", TASKS)
def test_every_task(name):
    task = TASKS[name]
    assert task.name == name == task_named(name).name
    assert task.pipeline
    assert task.outputs
    for columns in task.columns:
        assert task.label_column not in columns
        assert task.label_column_of(dict.fromkeys(columns)) not in columns


@pytest.mark.parametrize("name", ["text-classification", "multi-label-classification"])
def test_tasks_with_scores_of_labels(name):
    task = TASKS[name]
    logits = np.random.default_rng(0).normal(size=(6, len(LABELS))).astype(np.float32)
    for top_k, count in ((1, 1), (2, 2), (None, len(LABELS)), (99, len(LABELS))):
        ranked = task.decode([], logits, Reading(labels=LABELS), top_k=top_k)
        ranked = [[answer] for answer in ranked] if top_k == 1 else ranked
        assert [len(answers) for answers in ranked] == [count] * 6
        for answers in ranked:
            assert [set(answer) for answer in answers] == [{"label", "score"}] * count
            scores = [answer["score"] for answer in answers]
            assert scores == sorted(scores, reverse=True)
            assert {type(value) for value in scores} == {float}


def test_one_label_is_scored_by_its_share():
    task = TASKS["text-classification"]
    answers = [{"label": label, "score": 0.5} for label in LABELS]
    assert task.score(list(LABELS), answers, Reading(labels=LABELS))[task.metric] == 1
    assert task.score(list(LABELS), answers[::-1], Reading(labels=LABELS))[task.metric] == 0


def test_an_unknown_task_names_those_there_are():
    with pytest.raises(InputError, match=r"no task is named 'sentiment'; the tasks are: .*text-classification"):
        task_named("sentiment")


@pytest.mark.parametrize(
    ("problem_type", "reference"),
    [(ONE, lambda logits: softmax(logits, axis=-1)), (SEVERAL, expit)],
    ids=[ONE, SEVERAL],
)
@example(logits=np.full((1, 4), -1000, dtype=np.float32))
@example(logits=np.array([[1000, -1000, 0, 1000]], dtype=np.float32))
@given(logits=logits_of_rows)
def test_scores_are_those_of_scipy(problem_type, reference, logits):
    ranked = decode(logits, LABELS, problem_type, None)
    scores = np.array(
        [[{a["label"]: a["score"] for a in answers}[label] for label in LABELS] for answers in ranked]
    ).reshape(logits.shape)
    np.testing.assert_allclose(scores, reference(logits.astype(np.float64)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("problem_type", [ONE, SEVERAL])
@given(logits=logits_of_rows, top_k=st.integers(1, 6))
def test_the_best_k_are_the_first_k_of_all(problem_type, logits, top_k):
    every = decode(logits, LABELS, problem_type, None)
    assert decode(logits, LABELS, problem_type, top_k) == [answers[:top_k] for answers in every]


@pytest.mark.parametrize("problem_type", [ONE, SEVERAL])
@pytest.mark.parametrize(("row", "order"), [([1, 1, 1, 1], "abcd"), ([0, 2, 1, 2], "bdca"), ([3, 0, 3, 0], "acbd")])
def test_ties_keep_the_order_of_the_labels(problem_type, row, order):
    logits = np.array([row], dtype=np.float32)
    for top_k in (1, 2, None):
        (answers,) = decode(logits, LABELS, problem_type, top_k)
        assert [answer["label"] for answer in answers] == list(order)[:top_k]


@pytest.mark.parametrize("problem_type", [ONE, SEVERAL])
def test_ties_of_many_labels_keep_their_order(problem_type):
    labels = [f"label{number}" for number in range(150)]
    logits = np.tile(np.float32([1, 2, 3]), 50)[None]
    (answers,) = decode(logits, labels, problem_type, None)
    assert [answer["label"] for answer in answers] == labels[2::3] + labels[1::3] + labels[0::3]


pairs_of_labels = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30)


@settings(max_examples=25)
@given(pairs_of_labels)
def test_metrics_are_those_of_scikit_learn(pairs):
    right, predicted = map(list, zip(*pairs, strict=True))
    metrics = score(right, predicted, LABELS)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(right, predicted))
    for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert metrics[f"{name}_macro"] == pytest.approx(function(right, predicted, average="macro", zero_division=0))
        for label, values in metrics["per_class"].items():
            expected = function(right, predicted, labels=[label], average=None, zero_division=0)
            assert values[name] == pytest.approx(expected[0])
            assert values["rows"] == right.count(label)
    assert list(metrics["per_class"]) == [label for label in LABELS if label in {*right, *predicted}]


def test_metrics_worked_by_hand():
    metrics = score(["a", "a", "b", "b"], ["a", "b", "b", "c"], ("c", "b", "a"))
    assert metrics["accuracy"] == 0.5
    assert metrics["precision_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics["recall_macro"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert list(metrics["per_class"]) == ["c", "b", "a"]
