"""Heads that are silenced: those that matter least, for good, in a checkpoint that transformers loads as any other."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
import transformers

from burnish_export import heads
from burnish_serve.errors import InputError
from burnish_train import checkpoint, train
from burnish_train.methods.depth import encoder_of
from burnish_train.methods.names import OPTIMIZERS
from burnish_train.methods.silent import PROJECTIONS, attentions, silence_heads, silent_heads
from burnish_train.soup import soup
from exporting import TEXTS, in_transformers
from test_architectures import MORE, make_network, make_rows
from training import record_of

pytestmark = pytest.mark.usefixtures("one_thread")
HEADS = 4
architectures = pytest.mark.parametrize("architecture", MORE)


def reading(network, seed=0):
    """Return some rows, and a function that reads them as training does before its first step."""
    feed = {name: torch.from_numpy(array) for name, array in network.feed(make_rows(24, 20, seed)).items()}

    def read():
        with torch.inference_mode():
            return network.module(**feed).logits

    return feed, read


def test_the_head_that_says_the_same_of_every_token_goes_and_the_bias_says_it_from_then_on():
    network = make_network("bert", "text")
    found = attentions(network.module.base_model)
    planted = [2, 1]
    with torch.no_grad():
        for (_, _, value, out), number in zip(found, planted, strict=True):
            rows = slice(8 * number, 8 * number + 8)
            value.weight[rows] = 0.0
            value.bias[rows] = 5.0  # large, and tells nothing
            out.weight[:, rows] *= 3
    _, read = reading(network)
    before = read()
    assert silence_heads(network.module, 0.75, read) == 3
    assert silent_heads(network.module) == [[number] for number in planted]
    torch.testing.assert_close(read(), before, atol=2e-5, rtol=0)


def test_a_head_matters_by_the_variance_of_what_it_adds():
    network = make_network("bert", "text")
    found = attentions(network.module.base_model)
    given = [[] for _ in found]
    feed, read = reading(network)
    real = feed["attention_mask"].bool()
    assert not real.all()
    hooks = [
        layers[-1].register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0][real]))
        for layers, seen in zip(found, given, strict=True)
    ]
    read()
    for hook in hooks:
        hook.remove()
    wanted = []
    for layers, (vectors,) in zip(found, given, strict=True):
        added = [vectors[:, n : n + 8] @ layers[-1].weight.detach()[:, n : n + 8].T for n in range(0, 32, 8)]
        wanted.append(int(torch.stack([one.var(dim=0).sum() for one in added]).argmin()))
    silence_heads(network.module, 0.75, read)
    assert silent_heads(network.module) == [[number] for number in wanted]


@architectures
def test_padding_counts_for_nothing(architecture):
    network = make_network(architecture, "text")
    feed, read = reading(network)
    alone = copy.deepcopy(network.module)

    def one_by_one():
        with torch.inference_mode():
            for place, length in enumerate(feed["attention_mask"].sum(1).tolist()):
                alone(**{name: values[place : place + 1, :length] for name, values in feed.items()})

    silence_heads(network.module, 0.5, read)
    silence_heads(alone, 0.5, one_by_one)
    for one, other in zip(network.module.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@architectures
def test_silent_heads_have_gradients_of_exactly_zero(architecture):
    network = make_network(architecture, "text")
    feed, read = reading(network)
    before = read()
    assert silence_heads(network.module, 0.5, read) == 2
    silent = silent_heads(network.module)
    assert [len(numbers) for numbers in silent] == [2] * len(silent)
    assert len(silent) == (1 if architecture == "albert" else 2)
    assert float((read() - before).abs().max()) > 1e-3, "the planted ones are the other test's"
    network.module.train()(**feed).logits.square().sum().backward()
    for layers, numbers in zip(attentions(encoder_of(network.module)), silent, strict=True):
        for layer in layers[:-1]:
            grown = layer.weight.grad.unflatten(0, (-1, HEADS, 8))
            assert not grown[:, numbers].any()
            assert grown.any()
            assert not layer.weight.detach().unflatten(0, (-1, HEADS, 8))[:, numbers].any()
            if layer.bias is not None:
                assert not layer.bias.grad.unflatten(0, (-1, HEADS, 8))[:, numbers].any()
        grown = layers[-1].weight.grad.unflatten(1, (HEADS, 8))
        assert not grown[:, numbers].any()
        assert grown.any()


def assert_silent(folder):
    """See that one of two heads of each layer is nothing but zeros, and the other one is not."""
    model = checkpoint.load_model(folder)
    silent = silent_heads(model)
    assert [len(numbers) for numbers in silent] == [1, 1]
    for layers, (number,) in zip(attentions(encoder_of(model)), silent, strict=True):
        for layer in layers[:-1]:
            of_heads = layer.weight.detach().unflatten(0, (2, 16))
            assert not of_heads[number].any()
            assert not layer.bias.detach().unflatten(0, (2, 16))[number].any()
            assert of_heads[1 - number].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_wakes_them(train_config, name):
    train(train_config(optim=name, keep_heads=0.5, weight_decay=0.3, num_train_epochs=1.0))
    assert_silent(train_config().out)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"ema_decay": 0.9, "rdrop_alpha": 1.0, "adversarial_epsilon": 1.0}, id="all at once"),
        pytest.param({"reinit_layers": 2, "contrastive_steps": 3}, id="layers anew"),
        pytest.param({"precision": "bf16", "gradient_checkpointing": True}, id="bf16"),
        pytest.param({"freeze_layers": 1, "layer_lr_decay": 0.9, "keep_feed_forward": 0.5}, id="frozen and narrow"),
    ],
)
def test_no_method_wakes_them(train_config, monkeypatch, settings):
    monkeypatch.setattr("burnish_train.methods.narrow.MULTIPLE", 8)
    train(train_config(keep_heads=0.5, num_train_epochs=1.0, **settings))
    assert_silent(train_config().out)


def test_the_checkpoint_is_as_any_other(make_checkpoint, tiny_checkpoint):
    folder = make_checkpoint(keep_heads=0.5)
    assert record_of(folder)["metrics"]["test"]["accuracy"] > 0.9
    shapes = [
        {k: v.shape for k, v in checkpoint.load_model(one).state_dict().items()} for one in (folder, tiny_checkpoint)
    ]
    assert shapes[0] == shapes[1]
    runner = checkpoint.load(folder, device="cpu")
    ours = np.stack([np.asarray(row) for row in runner.outputs(runner.examine(TEXTS))])
    np.testing.assert_allclose(ours, in_transformers(folder, TEXTS, 16), atol=1e-5)


def test_members_of_a_soup_have_lost_the_same_heads(make_checkpoint, tiny_rows, tmp_path):
    members = [make_checkpoint(seed=seed, dev=str(tiny_rows / "test.jsonl"), keep_heads=0.5) for seed in (1, 2)]
    soup(members, tmp_path / "soup", device="cpu")
    assert_silent(tmp_path / "soup")
    whole = make_checkpoint(seed=1, dev=str(tiny_rows / "test.jsonl"))
    with pytest.raises(InputError, match="keep_heads left out different heads"):
        soup([members[0], whole], tmp_path / "other", device="cpu")


def test_lora_does_not_wake_silent_heads(make_checkpoint, train_config):
    folder = make_checkpoint(keep_heads=0.5)
    with pytest.raises(InputError, match=r"lora_rank learns weights for the heads that .* was left without"):
        train(train_config(model=str(folder), lora_rank=2))


def test_an_architecture_whose_heads_are_not_known_is_refused():
    config = transformers.FunnelConfig(vocab_size=60, block_sizes=[1], d_model=32, n_head=2, d_head=16, d_inner=64)
    model = transformers.FunnelForSequenceClassification(config)
    with pytest.raises(
        InputError, match=re.escape("the heads of FunnelBaseModel are not known (known are albert, bert,")
    ):
        silence_heads(model, 0.5, lambda: None)
    assert silent_heads(model) == []


def test_train_and_export_know_the_same_heads():
    assert PROJECTIONS == heads.PROJECTIONS
    assert sorted(PROJECTIONS) == sorted(MORE)
