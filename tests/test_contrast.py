"""Rows of one label are drawn together before the labels are learned."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish_train import checkpoint, train
from burnish_train.methods import contrast
from burnish_train.methods.contrast import LABELS, ROWS, TEMPERATURE, batches, loss_of
from tiny_model import make_encoder
from training import rows_of

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(0, 5))
def test_a_batch_has_several_rows_of_several_labels(labels, seed):
    counts = collections.Counter(labels)
    for batch in batches(labels, count=3, seed=seed):
        assert len(set(batch)) == len(batch)
        drawn = collections.Counter(labels[row] for row in batch)
        assert len(drawn) == min(LABELS, len(counts))
        assert all(drawn[label] == min(ROWS, counts[label]) for label in drawn)
    assert batches(labels, count=3, seed=seed) == batches(labels, count=3, seed=seed)


def test_the_loss_is_that_of_the_paper():
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(7, 4)), [0, 1, 0, 2, 1, 0, 3]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    each = []
    for one, label in enumerate(labels):
        others = [other for other in range(7) if other != one]
        partners = [other for other in others if labels[other] == label]
        if partners:
            total = np.log(sum(np.exp(unit[one] @ unit[other] / TEMPERATURE) for other in others))
            each.append(np.mean([total - unit[one] @ unit[other] / TEMPERATURE for other in partners]))
    found = loss_of(torch.tensor(vectors), torch.tensor(labels))
    assert float(found) == pytest.approx(np.mean(each), rel=1e-4)
    assert float(loss_of(torch.tensor(vectors[:3]), torch.tensor([0, 1, 2]))) == 0


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_each_row_has_the_vector_that_the_head_is_given_for_it(train_config, tmp_path, monkeypatch, pooling):
    seen = {}

    def draw(model, vectors_of, labels, **_):
        model.eval()
        seen["vectors"] = vectors_of([5, 0, 3, 77]).detach()
        seen["apart"] = torch.cat([vectors_of([number]).detach() for number in (5, 0, 3, 77)])
        seen["labels"] = labels

    monkeypatch.setattr(contrast, "draw_together", draw)
    monkeypatch.setattr("burnish_train.trainer.TOGETHER_TOKENS", 16)
    model = str(make_encoder(tmp_path / "still", dropout=0.0))
    config = train_config(contrastive_steps=1, pooling=pooling, model=model, num_train_epochs=1.0, dev_fraction=0.0)
    train(config)
    assert torch.allclose(seen["vectors"], seen["apart"], atol=1e-6)
    assert not torch.allclose(seen["vectors"][0], seen["vectors"][1], atol=1e-5)
    names = sorted({row["label"] for row in rows_of(tmp_path / "run" / "calibration.jsonl")})
    assert seen["labels"][:3] == [names.index(label) for label in ("alarm", "music", "weather")]


def test_rows_of_one_label_come_together(train_config, tmp_path):
    apart = {}
    for steps in (0, 200):
        settings = {"pooling": "mean", "contrastive_learning_rate": 1e-3, "learning_rate": 0.0, "num_train_epochs": 0.1}
        train(train_config(contrastive_steps=steps, out=tmp_path / f"run-{steps}", **settings))
        model = checkpoint.load_model(tmp_path / f"run-{steps}")
        runner = checkpoint.load(tmp_path / f"run-{steps}", device="cpu")
        rows = rows_of(tmp_path / f"run-{steps}" / "calibration.jsonl")[:30]
        vectors = []
        for row in rows:
            ids = torch.tensor(runner.encode([{"text": row["text"]}])[0].windows[0].ids)[None]
            vectors.append(model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1))
        unit = torch.nn.functional.normalize(torch.cat(vectors), dim=-1).detach()
        alike = (unit @ unit.T).numpy()
        same = np.array([[one["label"] == other["label"] for other in rows] for one in rows])
        apart[steps] = alike[same].mean() - alike[~same].mean()
    assert apart[200] > apart[0] + 0.3
