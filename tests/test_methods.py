"""The methods of fine-tuning: what learns, how fast, and what is added to the loss, each against a sum by hand."""

from __future__ import annotations

import contextlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from burnish_serve.errors import InputError
from burnish_train import TrainConfig, checkpoint, losses, train
from burnish_train.heads import PooledClassifier
from burnish_train.methods.depth import begin_anew, depths, freeze, keep_layers, spread
from burnish_train.methods.lora import Adapter
from burnish_train.methods.names import OPTIMIZERS, SCHEDULES
from burnish_train.methods.narrow import narrow
from burnish_train.methods.optimizer import parameter_groups
from burnish_train.methods.schedule import WarmUp, schedule_for
from burnish_train.methods.unfreezing import Unfreeze
from burnish_train.targets import Classes
from burnish_train.trainer import TaskTrainer
from training import furthest_apart, record_of, weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["first", "mean"])
def model(request, tiny_encoder):
    """Return a tiny model with the architecture's own head, or with ours."""
    config = transformers.AutoConfig.from_pretrained(tiny_encoder, num_labels=3)
    if request.param == "first":
        return transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, config=config)
    return PooledClassifier(transformers.AutoModel.from_pretrained(tiny_encoder, config=config), 3, "mean")


def read_ids(seed: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# What learns


def test_depths_go_from_the_word_vectors_to_the_head(model):
    for name, depth in depths(model).items():
        layer = re.search(r"layer\.(\d+)\.", name)
        wanted = int(layer[1]) + 1 if layer else 0 if "embeddings" in name else 3
        assert depth == wanted, name


@pytest.mark.parametrize(
    ("settings", "still"),
    [
        ({"embeddings": True, "layers": 0, "pattern": None}, r"embeddings"),
        ({"embeddings": False, "layers": 1, "pattern": None}, r"embeddings|layer\.0"),
        ({"embeddings": False, "layers": 0, "pattern": r"attention.*bias"}, r"attention.*bias"),
    ],
)
def test_what_is_frozen_learns_nothing_and_all_else_does(model, settings, still):
    freeze(model, **settings)
    learning = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert learning == {name: not re.search(still, name) for name in learning}
    assert not all(learning.values())


def test_frozen_weights_leave_a_run_as_they_came(train_config, tiny_encoder):
    record = train(train_config(freeze_layers=1, num_train_epochs=1.0))
    before, after = load_file(tiny_encoder / "model.safetensors"), weights(train_config().out)
    for name, array in before.items():
        same = np.array_equal(array.numpy(), after[f"bert.{name}"])
        assert same == ("embeddings" in name or "layer.0" in name), name
    assert 0 < record["weights_learned"] < sum(array.size for array in after.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_layers": 3}, "freeze_layers 3: the encoder has 2 layers"),
        ({"freeze_pattern": "("}, "is no regular expression"),
        ({"freeze_pattern": "decoder"}, "finds none of 41 weights"),
        ({"freeze_pattern": "."}, "all weights are frozen"),
        ({"reinit_layers": 3}, "reinit_layers 3: the encoder has 2 layers"),
        ({"keep_layers": 3}, "keep_layers 3: the encoder has 2 layers"),
        (
            {"lora_rank": 2, "lora_target_modules": "q_proj"},
            "no layer is called so; there are dense, key",
        ),
    ],
)
def test_what_a_model_has_not_is_said(train_config, settings, message):
    with pytest.raises(InputError, match=re.escape(message).replace("41", r"\d+")):
        train(train_config(**settings))
    assert not train_config().out.with_name("run.partial").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 4, "freeze_layers": 1}, "lora_rank freezes the encoder itself"),
        ({"unlabelled": "a.jsonl"}, "give --teacher CHECKPOINT too"),
        ({"distill_hidden": 1.0, "teacher": ("a", "b")}, "look into one teacher"),
        ({"task": "fill-mask", "rdrop_alpha": 1.0}, "rdrop_alpha is not for fill-mask"),
        ({"task": "regression", "focal_gamma": 2.0}, "focal_gamma is for tasks that give labels"),
        ({"task": "regression", "teacher": ("a",), "unlabelled": "b"}, "unlabelled is for tasks that give one label"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "max_minutes": 1.0}, "follows the dev score and no clock"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "dev_fraction": 0.0}, "give dev rows"),
    ],
)
def test_what_does_not_go_together_is_said(train_config, settings, message):
    with pytest.raises(InputError, match=message):
        train_config(**settings)


def test_layers_are_let_learn_one_after_another_from_the_top(model):
    for weight in model.get_input_embeddings().parameters():
        weight.requires_grad_(False)  # frozen for good
    callback = Unfreeze(model, 0.5)
    embeddings = {name for name, depth in depths(model).items() if depth == 0}
    for epoch, lowest in ((0.0, 3), (0.49, 3), (0.5, 2), (1.0, 1), (1.5, 0), (9.0, 0)):
        callback.on_step_begin(None, SimpleNamespace(epoch=epoch), None)
        for name, weight in model.named_parameters():
            assert weight.requires_grad == (depths(model)[name] >= lowest and "word_embeddings" not in name)
    assert embeddings


def test_a_run_unfreezes(train_config, tiny_encoder):
    train(train_config(unfreeze_every=1.0, num_train_epochs=2.0, dev_fraction=0.0))
    before, after = load_file(tiny_encoder / "model.safetensors"), weights(train_config().out)
    moved = {name for name, array in before.items() if not np.array_equal(array.numpy(), after[f"bert.{name}"])}
    assert {name for name in before if "layer.1" in name or "pooler" in name} <= moved
    assert not any("layer.0" in name or "embeddings" in name for name in moved)


def test_layers_that_begin_anew_are_drawn_as_the_architecture_draws_them(model):
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    begin_anew(model, 1)
    for name, weight in model.named_parameters():
        if "layer.1" not in name:
            assert torch.equal(weight, before[name]), name
        elif name.endswith("weight") and "LayerNorm" not in name:
            assert not torch.equal(weight, before[name]), name
            assert 0.01 < float(weight.detach().std()) < 0.03  # BERT's initializer_range is 0.02
        elif name.endswith("bias"):
            assert not weight.any()


@pytest.mark.parametrize(("count", "kept"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (6, [0, 1, 2, 3, 4, 5])])
def test_kept_layers_are_spread_from_the_first_to_the_last(count, kept):
    assert spread(6, count) == kept


def test_a_model_of_fewer_layers_is_the_same_model_without_the_others(tiny_encoder):
    whole = transformers.AutoModel.from_pretrained(tiny_encoder)
    other = transformers.AutoModel.from_pretrained(tiny_encoder)
    keep_layers(other, 1)
    inputs = read_ids()
    wanted = whole.eval().encoder.layer[0](whole.embeddings(inputs["input_ids"]))
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    assert torch.allclose(other.eval()(**inputs).last_hidden_state, wanted, atol=1e-6)
    assert other.config.num_hidden_layers == 1


def test_a_narrower_model_keeps_the_elements_that_matter(model):
    generator = torch.Generator().manual_seed(0)
    layer = model.get_submodule("encoder.encoder.layer.0" if hasattr(model, "encoder") else "bert.encoder.layer.0")
    up, down = layer.intermediate.dense, layer.output.dense
    with torch.no_grad():  # 40 elements that nothing comes out of, or that go nowhere
        order = torch.randperm(64, generator=generator)
        up.weight[order[:20]] = up.bias[order[:20]] = 0.0
        down.weight[:, order[20:40]] = 0.0
    wanted = sorted(order[40:].tolist())
    monkey = pytest.MonkeyPatch()
    monkey.setattr("burnish_train.methods.narrow.MULTIPLE", 8)
    before, inputs = up.weight.detach().clone(), read_ids()
    model.eval()
    assert narrow(model, 24 / 64, lambda: model(**inputs)) == 24
    monkey.undo()
    assert torch.equal(up.weight, before[wanted])
    assert (up.out_features, down.in_features, tuple(down.weight.shape)) == (24, 24, (32, 24))
    assert model.config.intermediate_size == 24
    assert model(**inputs).logits.shape == (4, 3)


def test_a_narrow_student_is_a_checkpoint_as_any_other(train_config, monkeypatch):
    monkeypatch.setattr("burnish_train.methods.narrow.MULTIPLE", 8)
    record = train(train_config(keep_feed_forward=0.5, pooling="mean"))
    assert record["metrics"]["test"]["accuracy"] > 0.9
    loaded = transformers.AutoModel.from_pretrained(train_config().out)
    assert loaded.encoder.layer[1].intermediate.dense.weight.shape == (32, 32)
    runner = checkpoint.load(train_config().out, device="cpu")
    assert runner(["please wake me tomorrow"])[0]["label"] == "alarm"


# How fast


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


# LoRA


def test_thin_matrices_learn_and_the_merged_model_answers_as_the_unmerged(model):
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adapter = Adapter(model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "classifier" in name for name in learning)
    assert sum("lora_A" in name for name in learning) == 2 * 6, "six linear layers in each of two"
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    for seed in range(3):
        model.train()(**read_ids(seed)).logits.square().sum().backward()
        optimizer.step()
    apart = model.eval()(**read_ids()).logits
    adapter.merge()
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert {name for name, _ in model.named_parameters()} == before.keys()
    assert torch.allclose(model(**read_ids()).logits, apart, atol=1e-5)
    for name, weight in model.named_parameters():
        linear = re.search(r"layer\.\d.*(query|key|value|dense)\.weight$", name)
        assert torch.equal(weight, before[name]) == (not linear and "classifier" not in name), name


def test_only_the_layers_that_are_named_get_them(model):
    Adapter(model, rank=2, alpha=4.0, dropout=0.0, targets="query, value")
    found = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert found == {"query", "value"}


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_checkpoint_of_lora_is_as_any_other(make_checkpoint, tiny_checkpoint, mean_checkpoint, pooling):
    folder = make_checkpoint(lora_rank=8, lora_dropout=0.1, pooling=pooling, learning_rate=1e-2, num_train_epochs=16.0)
    plain = {"first": tiny_checkpoint, "mean": mean_checkpoint}[pooling]
    assert weights(folder).keys() == weights(plain).keys()
    assert record_of(folder)["metrics"]["test"]["accuracy"] > 0.9
    runner = checkpoint.load(folder, device="cpu")
    assert runner(["please wake me tomorrow"])[0]["label"] == "alarm"


# What is added to the loss


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


# A moving average


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


# Memory


def test_gradients_of_several_batches_make_one_step(train_config, tmp_path):
    once = train(train_config(num_train_epochs=1.0, out=tmp_path / "once"))
    record = train(train_config(num_train_epochs=1.0, per_device_train_batch_size=4, gradient_accumulation_steps=2))
    assert record["steps"] == once["steps"] == 14


def test_what_is_computed_twice_gives_the_same_weights(train_config, tmp_path, monkeypatch):
    monkeypatch.setattr("burnish_train.trainer.FastDropout", contextlib.nullcontext)
    for name, settings in (("plain", {}), ("twice", {"gradient_checkpointing": True})):
        train(train_config(num_train_epochs=1.0, out=tmp_path / name, pooling="mean", **settings))
    assert furthest_apart(tmp_path / "plain", tmp_path / "twice") < 1e-6


# Students


@given(st.integers(1, 6), st.integers(1, 4), st.integers(4, 40), st.integers(0, 3))
def test_processes_share_each_batch_and_each_row_once(size, processes, count, epoch):
    from burnish_train.order import EpochBatches

    rows = [{"input_ids": [0] * (number % 7 + 1)} for number in range(count)]
    shares = []
    for process in range(processes):
        batches = EpochBatches(size, rows, seed=3, processes=processes, process=process)
        batches.set_epoch(epoch)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches)
    assert len({len(share) for share in shares}) == 1, "a process without a batch would keep the others waiting"
    assert all(batch for share in shares for batch in share)
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(count))
    for batches in zip(*shares, strict=True):
        lengths = [len(batch) for batch in batches]
        assert max(lengths) - min(lengths) <= 1


def test_a_config_of_the_command_line_takes_several_teachers():
    assert TrainConfig(model="m", train="t", out="o", teacher=("a", "b")).teacher == ("a", "b")
