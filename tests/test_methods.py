"""Which weights of a model learn, and how many it has: frozen, anew, fewer, narrower, LoRA."""

from __future__ import annotations

import copy
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from burnish_serve.errors import InputError
from burnish_train import checkpoint, train
from burnish_train.methods.depth import begin_anew, depths, freeze, keep_layers, spread
from burnish_train.methods.lora import Adapter
from burnish_train.methods.narrow import narrow
from burnish_train.methods.unfreezing import Unfreeze
from training import record_of, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def read_ids(seed: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


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
        ({"unlabelled": "a.jsonl"}, "give --teacher CHECKPOINT or --label-spreading too"),
        ({"lora_rank": 4, "keep_heads": 0.5}, "learns weights for the heads that keep_heads leaves out"),
        ({"distill_attention": 1.0, "teacher": ("a",), "keep_heads": 0.5}, "compares the mean of all heads"),
        ({"keep_heads": 1.5}, "keep_heads is a share, at most 1, not 1.5"),
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


def test_padding_does_not_tell_which_elements_matter(model, monkeypatch):
    monkeypatch.setattr("burnish_train.methods.narrow.MULTIPLE", 8)
    other, inputs = copy.deepcopy(model).eval(), read_ids()
    inputs["attention_mask"][0, 3:] = 0
    inputs["attention_mask"][1, 2:] = 0
    lengths = inputs["attention_mask"].sum(1).tolist()
    narrow(model.eval(), 0.5, lambda: model(**inputs))
    alone = [
        {name: values[row : row + 1, :length] for name, values in inputs.items()} for row, length in enumerate(lengths)
    ]
    narrow(other, 0.5, lambda: [other(**one) for one in alone])
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, same)


def test_a_narrow_student_is_a_checkpoint_as_any_other(train_config, monkeypatch):
    monkeypatch.setattr("burnish_train.methods.narrow.MULTIPLE", 8)
    record = train(train_config(keep_feed_forward=0.5, pooling="mean"))
    assert record["metrics"]["test"]["accuracy"] > 0.9
    loaded = transformers.AutoModel.from_pretrained(train_config().out)
    assert loaded.encoder.layer[1].intermediate.dense.weight.shape == (32, 32)
    runner = checkpoint.load(train_config().out, device="cpu")
    assert runner(["please wake me tomorrow"])[0]["label"] == "alarm"


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
