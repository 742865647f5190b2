"""How fast each weight learns: optimizers, groups, schedules."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from burnish_train import train
from burnish_train.methods.depth import depths
from burnish_train.methods.names import OPTIMIZERS, SCHEDULES
from burnish_train.methods.optimizer import parameter_groups
from burnish_train.methods.schedule import WarmUp, schedule_for
from burnish_train.trainer import TaskTrainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_every_weight_has_one_rate_which_falls_from_layer_to_layer(model, layer_decay):
    names = {id(weight): name for name, weight in model.named_parameters()}
    decayed = {name for name in names.values() if name.endswith("weight")}
    groups = parameter_groups(model, decayed, rate=1e-3, weight_decay=0.1, layer_decay=layer_decay)
    seen = [names[id(weight)] for group in groups for weight in group["params"]]
    assert sorted(seen) == sorted(names.values())
    for group in groups:
        for weight in group["params"]:
            name = names[id(weight)]
            assert group["weight_decay"] == (0.1 if name in decayed else 0.0)
            assert group["lr"] == pytest.approx(1e-3 * layer_decay ** (3 - depths(model)[name]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_what_it_is_called_and_learns(train_config, name):
    seen = []

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **_):
            seen.append(optimizer)

    record = train(train_config(optim=name, num_train_epochs=1.0, layer_lr_decay=0.9), callbacks=[Watch()])
    kind = getattr(seen[0], "optimizer", seen[0])
    assert type(kind).__name__.lower() == name.split("_")[0]
    assert bool(kind.defaults.get("fused")) == name.endswith("fused")
    assert len(kind.param_groups) == 8, "four depths, with and without decay"
    assert record["curve"][0]["loss"] > 0


def rates(name: str, steps: int, **settings) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    plan = schedule_for(name, optimizer, warmup=10, steps=steps, **settings)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    return found


def test_rates_rise_and_fall_as_they_are_called():
    steps = 110
    for name in SCHEDULES[:-1]:
        found = rates(name, steps, cycles=2, power=2.0)
        assert found[0] == 0
        assert found[5] == pytest.approx(1.0), name
        assert found[10] == pytest.approx(2.0), name
    linear, cosine = rates("linear", steps), rates("cosine", steps)
    assert linear[60] == pytest.approx(1.0)
    assert cosine[35] == pytest.approx(1 + np.cos(np.pi / 4))
    assert rates("polynomial", steps, power=2.0)[60] == pytest.approx(2 * 0.5**2, abs=1e-6)
    assert rates("constant_with_warmup", steps)[-1] == 2.0
    restarts = rates("cosine_with_restarts", steps, cycles=2)
    assert restarts[35] == pytest.approx(1.0)
    assert restarts[60] == pytest.approx(2.0)
    triangles = rates("cyclic", steps, cycles=2)
    assert triangles[35] == pytest.approx(0.2)
    assert triangles[60] == pytest.approx(2.0)
    assert triangles[85] == pytest.approx(0.2)


def test_a_rate_that_waits_for_the_dev_score_rises_first_and_halves_when_it_gets_no_better():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    plan = schedule_for("reduce_lr_on_plateau", optimizer, warmup=4, steps=100)
    warm_up, seen = WarmUp(4), []
    for step in range(8):
        warm_up.on_step_begin(None, SimpleNamespace(global_step=step), None, optimizer=optimizer)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0])
    for score, rate in ((0.5, 2.0), (0.6, 2.0), (0.6, 1.0), (0.55, 0.5), (0.7, 0.5)):
        plan.step(score)
        assert optimizer.param_groups[0]["lr"] == rate


def test_a_run_follows_the_dev_score(train_config, monkeypatch):
    scores = iter([0.9, 0.5, 0.5, 0.5])
    evaluate = TaskTrainer.evaluate

    def scored(self, *given, **named):
        return {**evaluate(self, *given, **named), "eval_accuracy": next(scores)}

    monkeypatch.setattr(TaskTrainer, "evaluate", scored)
    record = train(train_config(lr_scheduler_type="reduce_lr_on_plateau", num_train_epochs=4.0))
    found = [point["learning_rate"] for point in record["curve"] if "loss" in point]
    assert found[-1] == pytest.approx(2e-3 / 4)
    assert max(found) == pytest.approx(2e-3)
