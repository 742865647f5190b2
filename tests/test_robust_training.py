"""Harder lessons: word vectors moved to where it hurts most, and tokens hidden behind the mask."""

from __future__ import annotations

import pytest
import torch

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
    with moved(words, 0.1):
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


def test_without_a_gradient_nothing_moves():
    words = torch.nn.Parameter(torch.ones(3, 2))
    with moved(words, 1.0):
        assert (words == 1).all()


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_step_adds_the_gradients_of_both(make_checkpoint, pooling, monkeypatch):
    seen = []
    monkeypatch.setattr("burnish_train.trainer.moved", lambda *given: seen.append(given[1]) or moved(*given))
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
