"""Tokens that a task adds to a pretrained vocabulary, such as the markers around two entities.

Each is one token whatever the tokenizer does to case and punctuation, and a row of its own in the table of word
vectors. They are ordinary added tokens and not special ones: special ones are listed in ``tokenizer_config.json`` in a
form that transformers 4.57 does not load.

>>> add_tokens(tokenizer, model, ("<e1>", "</e1>"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AddedToken

# Of the spread of the known vectors: enough that new tokens differ, little enough that they are like any word.
NOISE = 0.4


def add_tokens(tokenizer: Any, model: Any, tokens: Sequence[str]) -> None:
    """Add tokens that a tokenizer does not have, in place, with vectors near the mean of all others.

    Args:
        tokenizer: transformers' fast tokenizer.
        model: transformers' model that reads its ids; its table of word vectors grows where it is full.
        tokens: as they stand in a text.
    """
    known = len(tokenizer)
    have = tokenizer.get_vocab()
    new = [AddedToken(token, normalized=False, special=False) for token in tokens if token not in have]
    if not new:
        return
    tokenizer.add_tokens(new)
    table = model.get_input_embeddings().weight
    if len(tokenizer) > len(table):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = model.get_input_embeddings().weight
    with torch.no_grad():
        words = table[:known]
        table[known : len(tokenizer)] = words.mean(0) + NOISE * words.std() * torch.randn(len(new), table.shape[1])
