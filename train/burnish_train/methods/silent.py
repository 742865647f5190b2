"""Attention with fewer heads: those that matter least on rows of one's own are silenced, and export leaves them out.

A head matters by how much what it adds to a token's vector differs from token to token. What it adds to all alike goes
into the bias behind it, where there is one (fluctuation and compensation of An et al., 2023, arXiv:2312.11983, taken
for whole heads). No config of transformers knows the size of a head apart from their number, so a head that goes is
not cut off: all its weights become zero. Then each of them has a gradient of zero, since each is multiplied by others
that are zero, and no optimizer moves it. The checkpoint stays one that transformers loads anywhere, with the same
answers; `burnish export` writes a graph without such heads.

>>> silence_heads(model, 0.5, lambda: model(**batch))  # doctest: +SKIP
6
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from burnish_serve.errors import InputError
from burnish_train.methods.depth import encoder_of
from burnish_train.methods.seeing import seeing

LIKE_BERT = ("self.query", "self.key", "self.value", "output.dense")
PROJECTIONS = {
    "albert": ("query", "key", "value", "dense"),
    "bert": LIKE_BERT,
    "deberta-v2": ("self.query_proj", "self.key_proj", "self.value_proj", "output.dense"),
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin"),
    "electra": LIKE_BERT,
    "modernbert": ("Wqkv", "Wo"),
    "mpnet": ("q", "k", "v", "o"),
    "roberta": LIKE_BERT,
    "xlm-roberta": LIKE_BERT,
}
"""By model type: the linear layers that make heads, and last the one that reads them; export has these names too."""


def silence_heads(model: Any, share: float, read: Callable[[], object]) -> int:
    """Leave each layer a share of its heads, in place, and make the weights of all others zero; return how many stay.

    Args:
        model: the model.
        share: of the heads that stay, at least one.
        read: reads rows with the model, so that it is seen which heads matter.

    Raises:
        InputError: the architecture's heads are not known, or none would go.
    """
    encoder = encoder_of(model)
    count = check_heads(encoder, share)
    found, heads = attentions(encoder), encoder.config.num_attention_heads
    seen = [_Moments(layers[-1], heads) for layers in found]
    with seeing(encoder, [(layers[-1], one.see) for layers, one in zip(found, seen, strict=True)]):
        read()
    for layers, one in zip(found, seen, strict=True):
        idle = one.matters().argsort(descending=True, stable=True)[count:].to(layers[-1].weight.device)
        _silence(layers, heads, idle, one.mean())
    return count


def check_heads(encoder: torch.nn.Module, share: float) -> int:
    """Return how many heads of each layer are a share of them, at least one.

    Raises:
        InputError: the architecture's heads are not known, or none would go.
    """
    if not attentions(encoder):
        raise InputError(
            f"keep_heads: the heads of {type(encoder).__name__} are not known (known are {', '.join(PROJECTIONS)}); "
            "keep_layers makes it smaller too"
        )
    heads = encoder.config.num_attention_heads
    count = max(1, round(heads * share))
    if count == heads:
        raise InputError(
            f"keep_heads: {share:g} of the {heads} heads of a layer are all of them; give less, or leave it out"
        )
    return count


def attentions(encoder: torch.nn.Module) -> list[list[torch.nn.Linear]]:
    """Return the linear layers of each attention, as in `PROJECTIONS`; none of an architecture that is not there."""
    names = PROJECTIONS.get(getattr(encoder.config, "model_type", ""), ())
    found = []
    for module in encoder.modules():
        inside = dict(module.named_modules())
        if names and all(isinstance(inside.get(name), torch.nn.Linear) for name in names):
            found.append([inside[name] for name in names])
    return found


def silent_heads(model: Any) -> list[list[int]]:
    """Return the numbers of the heads of each attention whose vectors go nowhere."""
    encoder = encoder_of(model)
    ways = (
        layers[-1].weight.detach().unflatten(1, (encoder.config.num_attention_heads, -1))
        for layers in attentions(encoder)
    )
    return [(way == 0).all(dim=2).all(dim=0).nonzero().flatten().tolist() for way in ways]


class _Moments:
    """The first and second moments of the vectors that the heads of one attention give, over all tokens.

    Args:
        out: the layer that reads them.
        heads: how many there are.
    """

    def __init__(self, out: torch.nn.Linear, heads: int) -> None:
        size = out.in_features // heads
        self._out = out
        self._tokens = 0
        self._sums = torch.zeros(heads, size, dtype=torch.float64)
        self._products = torch.zeros(heads, size, size, dtype=torch.float64)

    def see(self, given: torch.Tensor) -> None:
        """Take in what the layer reads: ``[tokens, heads * size]``."""
        vectors = given.unflatten(1, self._sums.shape)
        self._tokens += len(vectors)
        self._sums += vectors.sum(0).cpu()
        self._products += torch.einsum("nhs,nht->hst", vectors, vectors).cpu()

    def mean(self) -> torch.Tensor:
        """Return the mean vector of each head, float64 ``[heads, size]``."""
        return self._sums / max(1, self._tokens)

    def matters(self) -> torch.Tensor:
        """Return the variance of what each head adds to a token's vector, summed over its elements: ``[heads]``."""
        mean = self.mean()
        apart = self._products / max(1, self._tokens) - mean[:, :, None] * mean[:, None, :]
        way = self._out.weight.detach().cpu().double().unflatten(1, mean.shape)
        return torch.einsum("ohs,oht,hst->h", way, way, apart)


def _silence(layers: list[torch.nn.Linear], heads: int, idle: torch.Tensor, mean: torch.Tensor) -> None:
    """Make all weights of some heads zero, and what they give in the mean a part of the bias behind them."""
    *inward, out = layers
    with torch.no_grad():
        for layer in inward:  # one layer may make queries, keys and values one behind another
            layer.weight.unflatten(0, (-1, heads, out.in_features // heads))[:, idle] = 0
            if layer.bias is not None:
                layer.bias.unflatten(0, (-1, heads, out.in_features // heads))[:, idle] = 0
        way = out.weight.unflatten(1, (heads, -1))
        if out.bias is not None:
            given = mean.to(way.device, way.dtype)[idle]
            out.bias += torch.einsum("ohs,hs->o", way[:, idle], given)
        way[:, idle] = 0
