"""Tokens a second and the share of the machine's best, against a count by hand."""

from __future__ import annotations

import pytest
import torch
import transformers

from burnish_train import train
from burnish_train.speed import Speed, figures, peak
from training import record_of, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("burnish_train.speed.time.perf_counter", clock)
    return clock


def test_tokens_are_those_of_the_rows_and_seconds_those_of_the_epochs(clock):
    speed = Speed()
    assert speed.tokens_per_second == 0.0
    for _ in range(2):
        speed.on_epoch_begin(None, None, None)
        speed.add(torch.tensor([[1, 1, 0], [1, 1, 1]]))
        clock.now += 0.5
        speed.on_epoch_end(None, None, None)
        clock.now += 100.0  # evaluation
    assert speed.tokens_per_second == 10 / 1.0


def test_a_share_is_of_all_weights_but_word_vectors(tiny_encoder, clock, monkeypatch):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=3)
    monkeypatch.setattr("burnish_train.speed.peak", lambda device, precision: 1e9)
    monkeypatch.setenv("WORLD_SIZE", "4")
    speed = Speed()
    speed.on_epoch_begin(None, None, None)
    speed.add(torch.ones(10, 10))
    clock.now += 1.0
    found = figures(speed, model, "cpu", "fp32")
    assert found["tokens_per_second"] == 400.0
    assert found["share_of_peak"] == pytest.approx(
        6 * model.num_parameters(exclude_embeddings=True) * 100 / 1e9, abs=1e-4
    )
    assert found["share_of_peak"] > 0.001


def test_the_best_is_that_of_a_product(clock, monkeypatch):
    turns = iter([2.0, 0.5, 1.0, 1.0, 1.0])
    multiply = torch.Tensor.__matmul__

    def slow(one, other):
        clock.now += next(turns)
        return multiply(one, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", slow)
    assert peak("cpu", "fp32") == 2 * 1024**3 / 0.5


def test_a_run_tells_its_speed(train_config, tiny_rows, tiny_encoder, monkeypatch, capsys):
    counted = []
    add = Speed.add
    monkeypatch.setattr(Speed, "add", lambda self, mask: (counted.append(int(mask.sum())), add(self, mask))[1])
    train(train_config(num_train_epochs=2.0, dev=str(tiny_rows / "test.jsonl")))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoder)
    texts = [row["text"] for row in rows_of(tiny_rows / "train.jsonl")]
    assert sum(counted) == 2 * sum(map(len, tokenizer(texts, truncation=True, max_length=16)["input_ids"]))
    assert capsys.readouterr().err.count(" tokens/s\n") == 2
    found = record_of(train_config().out)["speed"]
    assert found["tokens_per_second"] > 0
    assert 0 < found["share_of_peak"] < 1
