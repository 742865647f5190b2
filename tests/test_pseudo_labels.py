"""Texts that a teacher is sure of are learned from as labelled rows; how far it can be trusted is seen on dev rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from burnish_serve.errors import InputError
from burnish_train import train
from burnish_train.data import read_splits
from burnish_train.methods.pseudo import spread, with_pseudo_labels
from tiny_model import LABELS, labelled_rows, write_rows
from training import record_of

pytestmark = pytest.mark.usefixtures("one_thread")
THRESHOLD = 0.44


@pytest.fixture
def texts(tmp_path) -> list[str]:
    """Return texts without labels, some of them of no label's words, which stand in ``texts.jsonl``."""
    rows = [row["text"] for row in labelled_rows(80, seed=5)] + ["please now", "the day", "my work again"] * 5
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in rows])
    return rows


@pytest.fixture
def given(train_config, tiny_checkpoint, texts, tmp_path):
    """Return a function that makes settings with these texts and a teacher."""
    settings = {
        "teacher": (str(tiny_checkpoint),),
        "unlabelled": str(tmp_path / "texts.jsonl"),
        "distill_alpha": 0.0,
        "pseudo_label_threshold": THRESHOLD,
    }
    return lambda **changes: train_config(**{**settings, **changes})


def scored(folder, texts):
    """Return (label, score) of each text by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    read = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        logits = model(**read).logits / record_of(folder)["decoding"]["temperature"]
    scores, numbers = logits.softmax(-1).max(-1)
    return [(model.config.id2label[int(number)], float(score)) for number, score in zip(numbers, scores, strict=True)]


def test_texts_that_the_teacher_is_sure_of_become_rows(given, tiny_checkpoint, texts):
    config = given()
    before = read_splits(config)
    after, told = with_pseudo_labels(before, LABELS, config)
    wanted = [
        (text, label)
        for text, (label, score) in zip(texts, scored(tiny_checkpoint, texts), strict=True)
        if score >= THRESHOLD
    ]
    assert 0 < len(wanted) < len(texts), "else the threshold tells nothing"
    assert [(row.texts[0], row.right) for row in after.train] == [
        *((row.texts[0], row.right) for row in before.train),
        *wanted,
    ]
    assert (after.dev, after.unlabelled) == (before.dev, ())
    dev = scored(tiny_checkpoint, [row.texts[0] for row in before.dev])
    sure = [label == row.right for (label, score), row in zip(dev, before.dev, strict=True) if score >= THRESHOLD]
    about = after.sources["unlabelled"]
    assert (about["pseudo_labelled"], about["dev_sure"]) == (len(wanted), len(sure))
    assert about["dev_right"] == pytest.approx(np.mean(sure))
    assert told == (
        f"{len(wanted)} of {len(texts)} texts have a label that scores 0.44 or more; "
        f"of {len(sure)} dev rows like them {np.mean(sure):.1%} are right"
    )


def test_a_teacher_that_is_wrong_where_it_is_sure_is_warned_of(given, tmp_path):
    write_rows(tmp_path / "dev.jsonl", [{**row, "label": "music"} for row in labelled_rows(60, seed=3)])
    after, told = with_pseudo_labels(read_splits(given(dev=str(tmp_path / "dev.jsonl"))), LABELS, given())
    assert any(told in warning for warning in after.warnings)
    assert after.sources["unlabelled"]["dev_right"] < THRESHOLD


def test_a_run_learns_from_them(given, train_config, tiny_rows, tmp_path):
    rows = [json.loads(line) for line in (tiny_rows / "train.jsonl").read_text().splitlines()]
    few = [next(row for row in rows if row["label"] == label) for label in LABELS] * 2
    write_rows(tmp_path / "few.jsonl", few)
    write_rows(tmp_path / "texts.jsonl", labelled_rows(200, seed=5))
    said: list[str] = []
    settings = {"train": str(tmp_path / "few.jsonl"), "dev": str(tiny_rows / "test.jsonl"), "num_train_epochs": 8.0}
    train(given(**settings, pseudo_label_threshold=0.36), log=said.append)
    record = record_of(train_config().out)
    taken = record["data"]["unlabelled"]["pseudo_labelled"]
    assert any(line.startswith(f"{taken} of 200 texts") for line in said)
    assert any(line.startswith(f"{6 + taken} rows to train") for line in said)
    assert record["metrics"]["test"]["accuracy"] > 0.95, "six rows alone do not tell that"


def test_where_it_is_sure_of_nothing_that_is_said(given, train_config):
    with pytest.raises(InputError, match=r"no text has a label that scores 0\.99999\d*; the highest score is 0\.\d+"):
        train(given(pseudo_label_threshold=0.999999))
    assert not train_config().out.with_name("run.partial").exists()


class Given:
    """Vectors of length 1 that are drawn by a text and a model's name: some are near, most are not."""

    def __init__(self, model: str, **_) -> None:
        self.model = Path(model).name  # not its folder, which is another in each run

    def __call__(self, rows):
        drawn = [np.random.default_rng([*self.model.encode(), *row[0].encode()]).normal(size=3) for row in rows]
        return np.stack([one / np.linalg.norm(one) for one in drawn]).astype(np.float32)


def weights_of(vectors):
    """Return the weights between texts, dense: exp(-d^2/0.1) of each and its ten nearest."""
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    weights = np.zeros_like(distances)
    for row, own in enumerate(distances):
        places = np.argsort(own)[:10]
        weights[row, places] = np.exp(-own[places] / 0.1)
    return np.maximum(weights, weights.T)


def test_labels_spread_over_the_nearest_texts(given, tiny_encoder, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("burnish_train.methods.pseudo.Vectors", Given)
    config = given(label_spreading=True, pseudo_label_threshold=0.0)
    splits = read_splits(config)
    rows = [*splits.train, *splits.unlabelled, *splits.dev]
    each = [Given(str(model))([row.texts for row in rows]).astype(float) for model in (tiny_encoder, tiny_checkpoint)]
    weights = weights_of(np.hstack(each) / np.sqrt(2))
    degrees = weights.sum(0)
    known = np.zeros((len(rows), len(LABELS)))
    for number, row in enumerate(splits.train):
        known[number, LABELS.index(row.right)] = 1
    normed = weights / np.sqrt(degrees[:, None] * degrees[None])
    wanted = np.linalg.solve(np.eye(len(rows)) - 0.95 * normed, known)  # Zhou's closed form
    wanted = (wanted / wanted.sum(-1, keepdims=True))[len(splits.train) :]
    assert wanted.max(-1).std() > 0.05, "else all are alike"
    found = spread(splits, LABELS, config, "cpu")
    assert np.abs(found - wanted).mean() < 2e-4, "it ends when little changes any more"
    after, told = with_pseudo_labels(splits, LABELS, config)
    guessed, texts = [LABELS[number] for number in wanted.argmax(-1)], len(splits.unlabelled)
    assert [row.right for row in after.train[len(splits.train) :]] == guessed[:texts]
    share = np.mean([label == row.right for label, row in zip(guessed[texts:], splits.dev, strict=True)])
    assert told.endswith(f"of {len(splits.dev)} dev rows like them {share:.1%} are right")


def test_labels_spread_without_a_teacher(given, train_config):
    said: list[str] = []
    train(given(teacher=(), label_spreading=True, pseudo_label_threshold=0.0, num_train_epochs=1.0), log=said.append)
    assert record_of(train_config().out)["data"]["unlabelled"]["pseudo_labelled"] == 95
    assert any(line.startswith("95 of 95 texts") for line in said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pseudo_label_threshold": 0.9}, "give --unlabelled FILE too"),
        ({"label_spreading": True}, "label_spreading is for rows without labels"),
        ({"label_spreading": True, "unlabelled": "a", "dev_fraction": 0.0}, "label_spreading is checked on dev rows"),
        (
            {"pseudo_label_threshold": 0.9, "unlabelled": "a", "teacher": ("b",), "dev_fraction": 0.0},
            "is checked on dev rows",
        ),
    ],
)
def test_what_it_needs_is_said(train_config, settings, message):
    with pytest.raises(InputError, match=message):
        train_config(**settings)
