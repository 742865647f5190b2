"""What is fitted on dev rows and what losses count, against brute force, PyTorch, scikit-learn and cases by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss
from sklearn.utils.class_weight import compute_class_weight

from burnish_serve.errors import InputError
from burnish_serve.tasks import Decoding, Reading, task_named
from burnish_serve.tasks.scores import sigmoid, softmax
from burnish_serve.tasks.text_classification import calibration_error
from burnish_train import TrainConfig, fitting, losses, probe, train
from tiny_model import make_encoder, write_rows

LABELS = ("a", "b", "oos")
CLASSES = task_named("text-classification")


def random_logits(rows, labels=3, *, seed=0, scale=3.0):
    return (scale * np.random.default_rng(seed).normal(size=(rows, labels))).astype(np.float32)


# Temperature


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_the_temperature_is_the_best_of_a_grid(factor):
    random = np.random.default_rng(1)
    honest = random_logits(3000)
    right = np.array([random.choice(3, p=row / row.sum()) for row in softmax(honest).astype(np.float64)])
    found = fitting.temperature(honest * factor, right)

    def loss(temperature):
        return log_loss(right, softmax((honest * factor / temperature).astype(np.float64)), labels=range(3))

    grid = np.geomspace(0.1, 15, 400)
    assert loss(found) <= min(map(loss, grid)) + 1e-6
    assert found == pytest.approx(factor, rel=0.1), "logits that were honest before they were multiplied"


def test_after_the_temperature_scores_are_shares_of_right_answers():
    random = np.random.default_rng(2)
    honest = random_logits(4000)
    right = np.array([random.choice(3, p=row / row.sum()) for row in softmax(honest).astype(np.float64)])
    loud = honest * 5
    errors = []
    for temperature in (1.0, fitting.temperature(loud, right)):
        answers = CLASSES.decode([], loud, Reading(labels=LABELS, decoding=Decoding(temperature=temperature)))
        errors.append(CLASSES.score([LABELS[i] for i in right], answers, Reading(labels=LABELS))["calibration_error"])
    assert errors[0] > 0.1
    assert errors[1] < 0.03


def test_the_calibration_error_worked_by_hand():
    # Bins are 1/15 wide. 0.95 and 0.97 share one: their mean is 0.96 and half are right; 0.5 stands alone and is right.
    error = calibration_error(np.array([0.95, 0.97, 0.5]), np.array([True, False, True]))
    assert error == pytest.approx((2 * abs(0.96 - 0.5) + 1 * abs(0.5 - 1)) / 3)
    apart = calibration_error(np.array([0.93, 0.94]), np.array([True, False]))
    assert apart == pytest.approx((0.07 + 0.94) / 2), "14/15 stands between them"
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0
    assert calibration_error(np.array([1.0]), np.array([False])) == 1


# Rejection


def lost(logits, right, limit, outside):
    """Return how many rows of known labels were right without a limit and are not with it."""
    decoding = Decoding(reject_label=LABELS[outside] if outside >= 0 else "none", reject_below=limit)
    answers = CLASSES.decode([], logits, Reading(labels=LABELS, decoding=decoding))
    plain = CLASSES.decode([], logits, Reading(labels=LABELS))
    return sum(
        before["label"] == LABELS[wanted] and after["label"] != LABELS[wanted]
        for before, after, wanted in zip(plain, answers, right, strict=True)
        if wanted not in (outside, -1)
    )


@pytest.mark.parametrize("outside", [2, -1])
@pytest.mark.parametrize("drop", [0.0, 0.02, 0.1])
def test_the_limit_is_the_highest_that_loses_no_more_than_allowed(outside, drop):
    logits = random_logits(400, seed=3)
    right = np.random.default_rng(4).integers(-1 if outside < 0 else 0, 3, 400)
    right[:200] = logits[:200].argmax(-1)
    limit = fitting.reject_below(logits, right, outside, drop)
    allowed = int(drop * (right != outside).sum())
    assert lost(logits, right, limit, outside) <= allowed
    assert lost(logits, right, limit + 1e-6, outside) > allowed
    candidates = sorted({*softmax(logits).max(-1).tolist()})
    assert limit == max(one for one in candidates if lost(logits, right, one, outside) <= allowed)


def test_a_model_without_a_mistake_keeps_scores_that_tell_something():
    right = np.arange(60) % 3
    logits = np.float32(5) * np.eye(3, dtype=np.float32)[right]
    assert fitting.temperature(logits, right) == pytest.approx(0.25, rel=1e-3)
    assert fitting.reject_below(logits * 20, right, -1, 0.01) == 0.999


def test_nothing_is_rejected_where_nothing_was_right():
    assert fitting.reject_below(random_logits(3), np.array([-1, -1, -1]), -1, 0.1) == 0


def test_an_answer_below_the_limit_is_the_label_for_rejection_with_what_is_left():
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]], dtype=np.float32))
    reading = Reading(labels=LABELS, decoding=Decoding(reject_label="oos", reject_below=0.7))
    answers = CLASSES.decode([], logits, reading)
    assert [answer["label"] for answer in answers] == ["oos", "a", "oos"]
    assert [answer["score"] for answer in answers] == pytest.approx([0.4, 0.8, 0.6])
    (first, second, third) = CLASSES.decode([], logits, reading, top_k=None)
    assert [one["label"] for one in first] == ["oos", "a", "b"], "each label once"
    assert [one["label"] for one in second] == ["a", "b", "oos"]
    assert [one["label"] for one in third] == ["oos", "a", "b"]
    never = CLASSES.decode([], logits, reading, reject_below=0.0)
    assert [answer["label"] for answer in never] == ["a", "a", "oos"]
    always = CLASSES.decode([], logits, reading, reject_below=1.0)
    assert {answer["label"] for answer in always} == {"oos"}


def test_scores_with_a_label_for_rejection_worked_by_hand():
    reading = Reading(labels=("a", "b"), decoding=Decoding(reject_label="oos", reject_below=0.5))
    answers = [{"label": label, "score": 0.9} for label in ("a", "oos", "b", "oos", "a")]
    metrics = CLASSES.score(["a", "a", "b", "oos", "oos"], answers, reading)
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["accuracy_in_scope"] == pytest.approx(2 / 3)
    assert metrics["recall_rejected"] == pytest.approx(1 / 2)
    assert reading.known == ("a", "b", "oos")
    CLASSES.check_names("oos", reading.known, "row 1")
    with pytest.raises(InputError, match="'c' is unknown"):
        CLASSES.check_names("c", reading.known, "row 1")


# Thresholds


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), st.booleans()), min_size=1, max_size=14),
)
def test_thresholds_are_the_best_of_all_there_could_be(rows):
    logits = np.array([[value] for value, _ in rows], dtype=np.float32)
    right = np.array([[flag] for _, flag in rows])
    found = fitting.thresholds(logits, right, ["x"])["x"]
    scores = sigmoid(logits)[:, 0]
    if not right.any():
        assert found == 0.5
        return

    def f1(threshold):
        return f1_score(right[:, 0], [score >= threshold for score in scores.tolist()], zero_division=0)

    values = sorted({0.0, 1.1, *scores.tolist()})
    between = [(one + other) / 2 for one, other in itertools.pairwise(values)]
    assert f1(found) == pytest.approx(max(map(f1, [*values, *between])))
    assert all(abs(found - score) > 0 for score in scores.tolist()), "it stands between two scores"


def test_a_label_without_rows_gets_one_half_and_no_rows_are_no_error():
    assert fitting.thresholds(random_logits(4, 2), np.array([[1, 0]] * 4) > 0, ["x", "y"])["y"] == 0.5
    assert fitting.thresholds(np.empty((0, 2), np.float32), np.empty((0, 2)) > 0, ["x", "y"]) == {"x": 0.5, "y": 0.5}


# Losses


def test_cross_entropy_with_weights_is_that_of_torch():
    logits, labels = torch.randn(7, 5), torch.randint(5, (7,))
    weights = losses.class_weights([1, 2, 3, 4, 0], 10, "balanced")
    expected = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=0.1)(logits, labels)
    assert losses.cross_entropy(logits, labels, 0.1, weights) == pytest.approx(expected.item(), abs=1e-6)


def test_class_weights_are_those_of_scikit_learn():
    labels = ["a"] * 6 + ["b"] * 3 + ["c"]
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    np.testing.assert_allclose(losses.class_weights([6, 3, 1], 10, "balanced"), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.class_weights([6, 3, 1], 10, "sqrt"), np.sqrt(expected), rtol=1e-6)
    assert losses.class_weights([6, 3, 1], 10, "none") is None
    np.testing.assert_allclose(losses.positive_weights([5, 1], 10, "balanced"), [1, 9])
    np.testing.assert_allclose(losses.positive_weights([5, 1], 10, "sqrt"), [1, 3])
    assert losses.positive_weights([5, 1], 10, "none") is None


def test_binary_cross_entropy_by_its_formula():
    logits, labels = torch.randn(6, 3), torch.randint(2, (6, 3)).float()
    weights = torch.tensor([1.0, 2.0, 5.0])
    chance = torch.sigmoid(logits)
    for share in (0.0, 0.2):
        target = labels * (1 - share) + share / 2
        expected = -(weights * target * chance.log() + (1 - target) * (1 - chance).log()).mean()
        assert losses.binary_cross_entropy(logits, labels, share, weights) == pytest.approx(expected.item(), abs=1e-5)


# The head starts where a linear probe ends


@pytest.mark.parametrize("kind", ["labels", "number", "classes"])
def test_a_probe_finds_what_is_linear_whatever_the_loss(kind):
    torch.manual_seed(0)
    vectors = 3 + 0.1 * torch.randn(300, 32)  # far from the centre and narrow: the probe has to scale them
    weight, bias = torch.randn(3, 32), torch.randn(3)
    truth = (vectors - 3) @ weight.T * 10 + bias
    head = torch.nn.Linear(32, 1 if kind == "number" else 3)
    if kind == "labels":
        probe.fit(head, vectors, lambda logits: losses.binary_cross_entropy(logits, (truth > 0).float(), 0.0))
        assert ((head(vectors) > 0) == (truth > 0)).float().mean() > 0.98
    elif kind == "number":
        probe.fit(head, vectors, lambda logits: losses.mean_squared_error(logits[:, 0], truth[:, 0]))
        assert (head(vectors)[:, 0] - truth[:, 0]).abs().mean() < 0.1 * truth[:, 0].std()
    else:
        probe.fit(head, vectors, lambda logits: losses.cross_entropy(logits, truth.argmax(-1), 0.0))
        assert (head(vectors).argmax(-1) == truth.argmax(-1)).float().mean() > 0.98


@pytest.mark.parametrize("rows", [400, 30_000])
def test_a_probe_does_not_lean_on_what_dropout_tears_apart(rows):
    """Two large elements differ by the label, and a small one says it less clearly, as in encoders fresh from text."""
    torch.manual_seed(0)
    labels = torch.arange(rows) % 2
    large = 5 + torch.randn(rows, 1)
    vectors = torch.cat([large, large + 0.4 * (labels[:, None] - 0.5), 0.5 * labels[:, None] - 0.25], dim=1)
    vectors[:, 2] += 0.3 * torch.randn(rows)
    heads = {}
    for dropout in (0.0, 0.1):
        heads[dropout] = torch.nn.Linear(3, 2)
        probe.fit(heads[dropout], vectors, lambda logits: losses.cross_entropy(logits, labels, 0.0), dropout)
    assert (heads[0.0](vectors).argmax(-1) == labels).float().mean() > 0.99
    seen = torch.nn.functional.dropout(vectors, 0.1)
    with torch.no_grad():
        loss = {dropout: float(losses.cross_entropy(head(seen), labels, 0.0)) for dropout, head in heads.items()}
    assert loss[0.1] < math.log(2) < 3 * math.log(2) < loss[0.0]


def test_the_probe_is_told_of_the_models_dropout(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(probe, "fit", lambda head, vectors, loss_of, dropout: told.append(dropout))
    make_encoder(tmp_path / "encoder", dropout=0.25)
    rows = [{"text": f"great film {number}", "label": "ab"[number % 2]} for number in range(8)]
    write_rows(tmp_path / "rows.jsonl", rows)
    settings = {"num_train_epochs": 1, "device": "cpu", "task": "text-classification", "pooling": "mean"}
    model, file = str(tmp_path / "encoder"), str(tmp_path / "rows.jsonl")
    train(TrainConfig(model=model, train=file, dev=file, out=tmp_path / "run", **settings))
    assert told == [0.25]
