"""What training takes from dev rows and from counts: limits for rejection, weights, the range of numbers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from burnish_serve.errors import InputError
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_serve.tasks import Decoding, Reading, task_named
from burnish_train import TrainConfig, checkpoint, fitting, train
from burnish_train.data import Example
from burnish_train.targets import Classes, Similarity
from tiny_model import FILLERS, labelled_rows, write_rows
from tiny_tasks import numbers, several_labels

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tiny_settings, tmp_path):
    """Return a function that trains on rows, with some settings changed, and returns the record."""

    def trained(rows, *, name="run", **changes):
        paths = {split: str(write_rows(tmp_path / f"{split}.jsonl", some)) for split, some in rows.items()}
        chosen = {**tiny_settings, "test": None, "num_train_epochs": 1.0, **paths, **changes}
        return train(TrainConfig(**{**chosen, "out": tmp_path / name}))

    return trained


def strangers(count):
    """Return texts that no intent fits, with the label for rejection."""
    return [{"text": " ".join(FILLERS[i : i + 4]), "label": "none"} for i in range(count)]


def test_texts_that_train_has_not_set_the_limit_in_dev_and_are_scored_in_test(run, tmp_path):
    rows = labelled_rows(180)
    splits = {"train": rows[:120], "dev": rows[120:150] + strangers(10), "test": rows[150:] + strangers(20)[10:]}
    record = run(splits, reject_label="none", reject_max_drop=0.1, num_train_epochs=4.0, pooling="mean")
    assert record["labels"] == ["alarm", "music", "weather"]
    decoding = Decoding(**record["decoding"])
    assert decoding.reject_label == "none"
    assert 0 < decoding.reject_below < 1
    assert decoding.temperature != 1
    metrics = record["metrics"]["test"]
    model = checkpoint.load(tmp_path / "run", device="cpu")
    again = evaluate(model, read_labelled(str(tmp_path / "test.jsonl"), model.task, model.reading.known)).metrics
    assert again["per_class"] == metrics["per_class"]
    plain = {name: value for name, value in metrics.items() if name != "per_class"}
    assert {name: again[name] for name in plain} == pytest.approx(plain, rel=1e-5)
    never = evaluate(
        model, read_labelled(str(tmp_path / "test.jsonl"), model.task, model.reading.known), reject_below=0.0
    ).metrics
    assert never["recall_rejected"] == 0 < metrics["recall_rejected"]
    assert metrics["accuracy_in_scope"] >= never["accuracy_in_scope"] - 0.2


def test_rows_of_no_known_label_set_neither_temperature_nor_what_may_be_lost(tmp_path):
    labels, task = ("a", "b", "c"), task_named("text-classification")
    config = TrainConfig(model="m", train="t", out=tmp_path, reject_label="none", reject_max_drop=0.1)
    right = ["a", "b", "c"] * 10 + ["none"] * 20
    examples = [Example({}, (), label, label) for label in right]
    logits = (2 * np.random.default_rng(0).normal(size=(50, 3))).astype(np.float32)
    logits[np.arange(24), [labels.index(label) for label in right[:24]]] += 4
    decoding = Classes(task, config, labels, examples[:30]).fit([None] * 50, logits, examples)
    known = fitting.temperature(logits[:30], np.arange(30) % 3)
    assert decoding.temperature == pytest.approx(known)
    reading = Reading(labels=labels, decoding=decoding)
    before, after = (
        sum(answer["label"] == label for answer, label in zip(answers, right[:30], strict=True))
        for answers in (task.decode([], logits[:30], reading, reject_below=0.0), task.decode([], logits[:30], reading))
    )
    assert before - after == 3, "a tenth of the 30 rows with known labels, not of all 50"


def test_a_label_of_dev_that_is_neither_trains_nor_for_rejection_is_said(run):
    splits = {"train": labelled_rows(30), "dev": strangers(3)}
    with pytest.raises(InputError, match=r"labels that .* does not have: 'none'"):
        run(splits, reject_label="oos")


def test_without_a_label_for_rejection_scores_are_plain(run):
    rows = labelled_rows(60)
    assert Decoding(**run({"train": rows[:48], "dev": rows[48:]})["decoding"]) == Decoding()


@pytest.mark.parametrize("method", ["balanced", "sqrt"])
@pytest.mark.parametrize("task", ["text-classification", "multi-label-classification"])
def test_class_weights_reach_the_training(run, task, method):
    rows = [row for i, row in enumerate(labelled_rows(90)) if row["label"] == "alarm" or i % 9 == 1]
    if task.startswith("multi"):
        rows = [{"text": row["text"], "labels": [row["label"]]} for row in rows]
    plain, weighed = (
        run({"train": rows}, name=name, task=task, class_weights=name, num_train_epochs=0.1)["curve"][0]["loss"]
        for name in ("none", method)
    )
    assert plain != weighed


def test_thresholds_and_the_range_of_numbers_are_kept(run):
    record = run({"train": several_labels(60, 0)}, task="multi-label-classification", pooling="mean")
    thresholds = record["decoding"]["thresholds"]
    assert list(thresholds) == record["labels"] == ["alarm", "music", "weather"]
    assert len({*thresholds.values()}) == 3
    record = run({"train": numbers(60, 0)}, name="numbers", task="regression", pooling="mean")
    assert record["decoding"]["score_range"] == (0, 2)
    assert json.loads(json.dumps(record))["labels"] == ["score"]


def test_labels_of_several_and_numbers_are_checked_with_file_and_line(run, tmp_path):
    for task, row, said in (
        ("multi-label-classification", {"text": "a", "labels": "joy"}, "column 'labels' must hold a list of labels"),
        (
            "multi-label-classification",
            {"text": "a", "labels": [["joy"]]},
            "column 'labels' must hold a list of labels",
        ),
        ("multi-label-classification", {"text": "a"}, "column 'labels'"),
        ("regression", {"text": "a", "score": "much"}, "column 'score' must hold a number, not \"much\""),
        ("regression", {"text": "a", "score": True}, "column 'score' must hold a number, not true"),
        ("regression", {"text": "a", "score": float("nan")}, "column 'score' must hold a number"),
        ("regression", {"text": "a"}, "no column 'score'"),
        ("feature-extraction", {"text_a": "a", "score": 1}, "no column 'text_b'"),
    ):
        with pytest.raises(InputError, match=rf"train\.jsonl:1: .*{said}"):
            run({"train": [row]}, task=task)


def test_the_loss_of_pairs_is_the_squared_error_of_their_cosines(tmp_path):
    rows = [Example({}, ("a", "b"), score) for score in (1.0, 5.0, 2.0)]
    config = TrainConfig(model="m", task="feature-extraction", train="t", out=tmp_path / "run")
    target = Similarity(task_named("feature-extraction"), config, (), rows)
    wanted = [target.value(row) for row in rows]
    assert wanted == [0.0, 1.0, 0.25], "shares of the range of the train rows"
    hidden, mask = torch.randn(6, 4, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]] * 3)
    vectors = [rows_of_text[: int(count)].mean(0) for rows_of_text, count in zip(hidden, mask.sum(1), strict=True)]
    cosines = [one @ other / one.norm() / other.norm() for one, other in zip(vectors[::2], vectors[1::2], strict=True)]
    expected = sum((cosine - share) ** 2 for cosine, share in zip(cosines, wanted, strict=True)) / 3
    outputs = SimpleNamespace(last_hidden_state=hidden)
    loss = target.loss(outputs, target.stack(wanted, 4), {"attention_mask": mask})
    assert loss == pytest.approx(float(expected), abs=1e-6)
