"""Dropout for CPUs against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import transformers

from burnish_train.dropout import FastDropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_those_of_pytorch(p, dtype):
    torch.manual_seed(0)
    ones = torch.ones(999, 1001, dtype=dtype)
    ours, theirs = dropout(ones, p), torch.nn.functional.dropout(ones, p)
    assert ours.dtype == theirs.dtype
    assert (ours == 0).float().mean().item() == pytest.approx(p, abs=0.003)
    assert ours.max().item() == pytest.approx(theirs.max().item(), rel=1e-3)
    for side in (0, 1):  # of every row and every column, so neighbours are drawn apart
        shares = (ours == 0).float().mean(side)
        assert shares.std().item() == pytest.approx((theirs == 0).float().mean(side).std().item(), rel=0.2)


def test_gradients_pass_where_elements_stay():
    tensor = torch.randn(7, 5, requires_grad=True)
    dropout(tensor, 0.4).sum().backward()
    torch.manual_seed(1)
    expected = dropout(tensor, 0.4)
    torch.manual_seed(1)
    tensor.grad = None
    dropout(tensor, 0.4).sum().backward()
    assert torch.equal(tensor.grad * tensor, expected)


@pytest.mark.parametrize(("p", "training"), [(0.1, False), (0.0, True), (1.0, True)])
def test_what_needs_no_bits_is_pytorchs(p, training):
    tensor = torch.randn(4, 4)
    assert torch.equal(dropout(tensor, p, training), torch.nn.functional.dropout(tensor, p, training))


def test_in_place():
    tensor = torch.ones(1000)
    assert dropout(tensor, 0.5, inplace=True) is tensor
    assert 300 < (tensor == 0).sum() < 700


def test_a_model_draws_by_it_wherever_it_drops(monkeypatch):
    drawn = []
    monkeypatch.setattr("burnish_train.dropout.dropout", lambda tensor, *_, **__: drawn.append(tensor.shape) or tensor)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertModel._from_config(config, attn_implementation="eager").train()
    with FastDropout():
        model(input_ids=torch.ones(3, 5, dtype=torch.int64))
    rows, attention = (3, 5, 8), (3, 2, 5, 5)
    assert drawn == [rows, attention, rows, rows, attention, rows, rows]
    model(input_ids=torch.ones(3, 5, dtype=torch.int64))
    assert len(drawn) == 7
