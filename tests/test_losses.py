"""What is added to the loss, and what is kept of the weights: against sums by hand."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from burnish_train import checkpoint, losses, train
from burnish_train.targets import Classes
from burnish_train.trainer import TaskTrainer
from tiny_model import make_encoder
from training import furthest_apart, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_focal_loss_is_less_where_a_row_is_right_already():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    labels, weights_ = torch.tensor([0, 2, 1, 1, -100, 0]), torch.tensor([1.0, 2.0, 0.5])
    kept = labels >= 0
    score = logits.softmax(-1)[kept, labels[kept]]
    for gamma in (0.0, 2.0):
        for weight in (None, weights_):
            each = torch.ones(5) if weight is None else weight[labels[kept]]
            wanted = (each * (1 - score) ** gamma * -score.log()).sum() / each.sum()
            assert losses.cross_entropy(logits, labels, 0.0, weight, gamma) == pytest.approx(float(wanted), rel=1e-5)
    smoothed = torch.nn.functional.cross_entropy(logits.float(), labels, weights_, label_smoothing=0.2)
    assert losses.cross_entropy(logits, labels, 0.2, weights_) == pytest.approx(float(smoothed), rel=1e-5)
    assert losses.cross_entropy(logits, torch.full((6,), -100), 0.0) == 0
    right = (torch.randn(6, 3, generator=generator) > 0).double()
    each = torch.where(right > 0, logits.sigmoid(), 1 - logits.sigmoid())
    wanted = ((1 - each) ** 2 * -each.log()).mean()
    assert losses.binary_cross_entropy(logits, right.float(), 0.0, None, 2.0) == pytest.approx(float(wanted), rel=1e-4)


def test_divergences_are_those_of_scipy():
    from scipy.special import expit as sigmoid
    from scipy.special import rel_entr, softmax

    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(2, 5, 4))
    for temperature in (1.0, 3.0):
        wanted = rel_entr(softmax(theirs / temperature, -1), softmax(ours / temperature, -1)).sum(-1).mean()
        found = losses.softmax_divergence(torch.tensor(ours), torch.tensor(theirs), temperature)
        assert float(found) == pytest.approx(wanted * temperature**2, rel=1e-4)
        one, other = sigmoid(ours / temperature), sigmoid(theirs / temperature)
        wanted = (rel_entr(other, one) + rel_entr(1 - other, 1 - one)).mean()
        found = losses.sigmoid_divergence(torch.tensor(ours), torch.tensor(theirs), temperature)
        assert float(found) == pytest.approx(wanted * temperature**2, rel=1e-4)


def test_rdrop_adds_how_far_two_dropouts_are_apart(make_checkpoint):
    model = checkpoint.load_model(make_checkpoint())
    logits = torch.tensor([[[2.0, 0.0, -1.0]], [[0.5, 0.2, 0.0]]])
    answers = iter(logits)
    target = SimpleNamespace(
        config=SimpleNamespace(rdrop_alpha=3.0),
        learn=lambda *_: (torch.tensor(float(len(seen))), SimpleNamespace(logits=next(answers), _=seen.append(0))),
        apart=lambda one, other, *_: losses.softmax_divergence(one.logits, other.logits),
    )
    seen: list[int] = []
    trainer = TaskTrainer.__new__(TaskTrainer)
    trainer.target = Classes.__new__(Classes)
    trainer.target.__dict__.update(target.__dict__)
    trainer.teacher, trainer.state, trainer.args = None, SimpleNamespace(global_step=0), SimpleNamespace(world_size=1)
    loss = trainer.compute_loss(model.train(), {"labels": torch.tensor([0])})
    one, other = logits[:, 0].log_softmax(-1)
    both = sum(float((a.exp() * (a - b)).sum()) for a, b in ((one, other), (other, one)))
    assert float(loss) == pytest.approx((0 + 1) / 2 + 3.0 * both / 2, rel=1e-5)
    assert len(seen) == 2, "each batch is read twice"


def test_rdrop_trains(train_config):
    assert train(train_config(rdrop_alpha=1.0))["metrics"]["test"]["accuracy"] > 0.9


def test_the_average_is_what_is_scored_and_kept(train_config, monkeypatch):
    seen: list[dict[str, torch.Tensor]] = []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            seen.append({name: weight.detach().clone() for name, weight in model.named_parameters()})

    settings = {"ema_decay": 0.8, "num_train_epochs": 2.0, "dev_fraction": 0.0}
    train(train_config(**settings), callbacks=[Watch()])
    wanted = seen[0]
    for step in seen[1:]:
        wanted = {name: 0.8 * wanted[name] + 0.2 * step[name] for name in wanted}
    found = weights(train_config().out)
    assert max(float(np.abs(found[name] - wanted[name].numpy()).max()) for name in wanted) < 1e-5
    assert max(float(np.abs(found[name] - seen[-1][name].numpy()).max()) for name in wanted) > 1e-3


def test_the_average_of_the_best_epoch_is_kept_and_survives_a_resume(train_config, tmp_path, monkeypatch):
    settings = {"ema_decay": 0.7, "num_train_epochs": 4.0, "save_steps": 5}
    whole = train(train_config(**settings, out=tmp_path / "whole"))

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 23:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        train(train_config(**settings), callbacks=[Stop()])
    resumed = train(train_config(**settings), resume=True)
    assert furthest_apart(tmp_path / "run", tmp_path / "whole") == 0
    assert resumed["metrics"] == whole["metrics"]


def test_gradients_of_several_batches_make_the_step_of_one(train_config, tmp_path):
    model = str(make_encoder(tmp_path / "still", dropout=0.0))
    settings = {"model": model, "num_train_epochs": 1.0}  # of 108 rows, which fours and eights order alike
    once = train(train_config(**settings, out=tmp_path / "once"))
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    record = train(train_config(**settings, **halves))
    assert record["steps"] == once["steps"] == 14
    assert furthest_apart(tmp_path / "run", tmp_path / "once") < 1e-4


def test_what_is_computed_twice_drops_the_same(train_config, tmp_path, monkeypatch):
    settings = {"num_train_epochs": 1.0, "pooling": "mean"}
    train(train_config(**settings, gradient_checkpointing=True, out=tmp_path / "twice"))
    monkeypatch.setattr("burnish_train.trainer.FastDropout", contextlib.nullcontext)
    train(train_config(**settings, out=tmp_path / "once"))
    assert furthest_apart(tmp_path / "once", tmp_path / "twice") < 1e-6
