"""Attention heads that add nothing are left out before the graph is made.

`burnish train --keep-heads` makes all weights of a head zero, and a checkpoint of transformers keeps them, since no
config knows layers of different heads. A graph does: queries, keys, values and what reads them become narrower, layer
by layer. The model itself stays as it is, zeros and all, and is what the graph is proven against.

A head adds nothing where the layer that reads it multiplies its vector by zeros, whoever made them. Heads of model
types that are not known are left alone.

>>> lean, count = without_idle_heads(network)  # doctest: +SKIP
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch

from burnish_export.network import Network

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
"""By model type: the linear layers that make heads, and last the one that reads them; train has these names too."""
BESIDE = ("self.pos_key_proj", "self.pos_query_proj")
"""DeBERTa's, of positions, where it does not share those of tokens."""
COUNTS = ("num_attention_heads", "n_heads")
BIAS_PLACE = 2
"""Where MPNet's attention takes its bias of positions, ``[1, heads, length, length]``, one for all layers."""


def without_idle_heads(network: Network) -> tuple[Network, int]:
    """Return a network that gives the same without the heads that add nothing, and how many these were.

    A network without such heads is returned as it is; else it is a copy that shares all other weights. One head at
    least stays in each layer.
    """
    names = PROJECTIONS.get(network.config.model_type, ())
    heads = network.config.num_attention_heads if names else 0
    kept = {name: _kept(out, heads) for name, out in _outputs(network.module, names).items()}
    count = sum(heads - len(numbers) for numbers in kept.values())
    if not count:
        return network, 0
    shared: list[Any] = [*network.module.parameters(), *network.module.buffers(), network.config]
    module = copy.deepcopy(network.module, {id(one): one for one in shared})
    for name, numbers in kept.items():
        if len(numbers) < heads:
            _narrow(module.get_submodule(name), names, heads, numbers)
    return dataclasses.replace(network, module=module), count


def _outputs(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, torch.nn.Linear]:
    """Return the linear layer behind each attention, by the name of the module that holds all of its projections."""
    found = {}
    for place, module in model.named_modules():
        inside = dict(module.named_modules())
        if names and all(isinstance(inside.get(name), torch.nn.Linear) for name in names):
            found[place] = inside[names[-1]]
    return found


def _kept(out: torch.nn.Linear, heads: int) -> list[int]:
    """Return the numbers of the heads that a layer reads; the first where it reads none."""
    way = out.weight.detach().unflatten(1, (heads, -1))
    return (way != 0).any(dim=2).any(dim=0).nonzero().flatten().tolist() or [0]


def _narrow(block: torch.nn.Module, names: tuple[str, ...], heads: int, kept: list[int]) -> None:
    """Leave an attention these heads alone, in place."""
    inside = dict(block.named_modules())
    out = inside[names[-1]]
    size = out.in_features // heads
    for name in (*names[:-1], *(name for name in BESIDE if name in inside)):
        layer = inside[name]  # may make queries, keys and values one behind another
        layer.weight = _parameter(layer.weight.unflatten(0, (-1, heads, size))[:, kept].flatten(0, 2))
        if layer.bias is not None:
            layer.bias = _parameter(layer.bias.unflatten(0, (-1, heads, size))[:, kept].flatten())
        layer.out_features = len(layer.weight)
    out.weight = _parameter(out.weight.unflatten(1, (heads, size))[:, kept].flatten(1))
    out.in_features = len(kept) * size
    attention: Any = inside.get("self", block)
    for name in COUNTS:
        if hasattr(attention, name):
            setattr(attention, name, len(kept))
    if hasattr(attention, "all_head_size"):
        attention.all_head_size = len(kept) * size
    if names == PROJECTIONS["mpnet"]:
        attention.register_forward_pre_hook(_OfHeads(kept))


class _OfHeads:
    """Chooses the heads of MPNet's bias of positions before its attention sees it.

    Args:
        kept: their numbers.
    """

    def __init__(self, kept: list[int]) -> None:
        self._kept = kept

    def __call__(self, _: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what the attention is given, with the bias of these heads alone."""
        bias = given[BIAS_PLACE]
        return (*given[:BIAS_PLACE], bias[:, self._kept], *given[BIAS_PLACE + 1 :])


def _parameter(weight: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
