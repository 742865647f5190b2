"""Harder lessons: word vectors moved to where it hurts most, and tokens hidden behind the mask."""

from __future__ import annotations

import contextlib

import pytest
import torch
import transformers

from burnish_serve.errors import InputError
from burnish_train import checkpoint
from burnish_train.config import TrainConfig
from burnish_train.trainer import TaskTrainer, moved

pytestmark = pytest.mark.usefixtures("one_thread")


def test_word_vectors_move_to_where_the_loss_grows_fastest_and_come_back():
    torch.manual_seed(0)
    words = torch.nn.Parameter(torch.randn(20, 6))
    before = words.detach().clone()

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(words[[3, 5, 7]] @ words[:4].T, torch.tensor([0, 1, 2]))

    loss().backward()
    with moved(words, words.grad, 0.1):
        step = words.detach() - before
        worst = loss().item()
    assert torch.equal(words, before)
    assert step.norm().item() == pytest.approx(0.1, rel=1e-4)
    assert (step[8:] == 0).all(), "words that do not stand in the batch stay"
    for _ in range(20):  # no step of this length into another direction is as bad
        other = torch.randn_like(step)
        with torch.no_grad():
            words.add_(other * 0.1 / other.norm())
        assert loss().item() < worst
        with torch.no_grad():
            words.copy_(before)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_where_there_is_no_direction_nothing_moves(value):
    words = torch.nn.Parameter(torch.ones(3, 2))
    with moved(words, torch.full_like(words, value), 1.0):
        assert (words == 1).all()


def test_a_batch_is_moved_along_its_own_gradient_whatever_was_learned_before_it_in_the_step(
    make_checkpoint, monkeypatch
):
    slopes, own, step = [], [], TaskTrainer.training_step

    def learn(self, model, inputs, *rest):
        words, values = model.get_input_embeddings().weight, dict(inputs)
        with torch.random.fork_rng():
            kept, words.grad = words.grad, None
            transformers.Trainer.training_step(self, model, values, *rest)
            own.append(words.grad)
            words.grad = kept
        return step(self, model, inputs, *rest)

    def watch(words, slope, length):
        slopes.append(slope.clone())
        return moved(words, slope, length)

    monkeypatch.setattr("burnish_train.trainer.moved", watch)
    monkeypatch.setattr(TaskTrainer, "training_step", learn)
    monkeypatch.setattr(TaskTrainer, "_dropout", lambda self: contextlib.nullcontext())
    steps = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "num_train_epochs": 1.0}
    make_checkpoint(adversarial_epsilon=0.01, **steps)
    assert len(slopes) == len(own) > 8
    likeness = [
        torch.cosine_similarity(*(one.flatten() for one in both), dim=0).item()
        for both in zip(slopes, own, strict=True)
    ]
    assert min(likeness) > 0.99


@pytest.mark.parametrize(
    "frozen",
    [{"lora_rank": 2}, {"freeze_layers": 1}, {"freeze_embeddings": True}, {"freeze_pattern": "word_embeddings"}],
    ids=str,
)
def test_frozen_word_vectors_are_not_moved_and_that_is_said(make_checkpoint, frozen):
    with pytest.raises(InputError, match="adversarial_epsilon moves word vectors along their gradient"):
        make_checkpoint(adversarial_epsilon=0.01, **frozen)


def test_while_word_vectors_are_not_free_yet_nothing_is_learned_twice(make_checkpoint, monkeypatch):
    seen = []
    monkeypatch.setattr("burnish_train.trainer.moved", lambda *given: seen.append(given) or moved(*given))
    record = checkpoint.read_record(make_checkpoint(adversarial_epsilon=0.01, unfreeze_every=0.5))
    assert 0 < len(seen) < record["steps"]


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_step_adds_the_gradients_of_both(make_checkpoint, pooling, monkeypatch):
    seen = []
    monkeypatch.setattr("burnish_train.trainer.moved", lambda *given: seen.append(given[2]) or moved(*given))
    folder = make_checkpoint(adversarial_epsilon=0.01, pooling=pooling)
    record = checkpoint.read_record(folder)
    assert seen == [0.01] * record["steps"]
    assert record["metrics"]["test"]["accuracy"] > 0.6
    plain = checkpoint.load_model(make_checkpoint(pooling=pooling))
    weights = (model.get_input_embeddings().weight for model in (plain, checkpoint.load_model(folder)))
    assert not torch.equal(*weights)


def test_a_share_of_the_words_is_hidden_and_only_while_it_learns(make_checkpoint, monkeypatch):
    given, shown = [], []
    holes, learn = TaskTrainer._with_holes, TaskTrainer.compute_loss

    def watch_holes(self, ids):
        found = holes(self, ids)
        given.append((ids, found))
        return found

    def watch_loss(self, model, inputs, *rest, **named):
        if not model.training:
            shown.append(inputs["input_ids"])
        return learn(self, model, inputs, *rest, **named)

    monkeypatch.setattr(TaskTrainer, "_with_holes", watch_holes)
    monkeypatch.setattr(TaskTrainer, "compute_loss", watch_loss)
    folder = make_checkpoint(word_dropout=0.3)
    assert checkpoint.read_record(folder)["metrics"]["test"]["accuracy"] > 0.6
    tokenizer = checkpoint.load(folder, device="cpu").encoder.tokenizer
    mask, special = (
        tokenizer.token_to_id("[MASK]"),
        [tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[PAD]")],
    )
    before, after = (torch.cat([pair[side].flatten() for pair in given]) for side in (0, 1))
    hidden = before != after
    assert (after[hidden] == mask).all()
    assert not torch.isin(before[hidden], torch.tensor(special)).any()
    ordinary = ~torch.isin(before, torch.tensor(special))
    assert hidden[ordinary].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert shown
    assert not any((ids == mask).any() for ids in shown)


def test_masked_words_hide_tokens_in_their_own_way(tmp_path):
    with pytest.raises(InputError, match="word_dropout is not for fill-mask, which hides tokens by mlm_probability"):
        TrainConfig(model="m", train="t", out=tmp_path, task="fill-mask", word_dropout=0.1)
