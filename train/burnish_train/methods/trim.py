"""A vocabulary trimmed to the texts at hand: tokens that none of them uses are left out, with their word vectors.

Of a small encoder the table of word vectors is the larger part, and a domain in one language uses little of it. It is
trimmed as Abdaoui et al. (2020, arXiv:2010.05609) trim multilingual ones, by the texts and not by a language's
frequencies. What is made of kept tokens is answered as before: their vectors are what they were.

>>> smaller = trim(tokenizer, model, task, splits, Path("runs/a.partial/tokenizer"))  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from burnish_serve.errors import InputError
from burnish_serve.runner import windows
from burnish_serve.text import TextEncoder
from burnish_serve.writing import write_text
from burnish_train.data import Splits
from burnish_train.methods.depth import encoder_of
from burnish_train.methods.trim_pieces import cut

WHOLE = 1 << 30
"""Tokens of a text that is not cut."""
TOGETHER = 4096
"""Texts that are read at a time."""


def trim(tokenizer: Any, model: Any, splits: Splits, folder: Path) -> Any:
    """Leave a model the vectors of the tokens that its rows use; return the tokenizer that knows these alone.

    Rows to learn from are looked at, with labels or without, and texts of the domain; rows of dev and test are not.

    Args:
        tokenizer: transformers' fast tokenizer.
        model: the model that reads its numbers, changed in place.
        splits: the rows.
        folder: where the tokenizer is written.

    Raises:
        InputError: the tokenizer is of another kind, or its class would read other pieces.
    """
    tokenizer.save_pretrained(folder)
    rows = itertools.chain(splits.labelled, splits.domain)
    used = _used(folder / "tokenizer.json", (text for row in rows for text in row.texts))
    named = {number for _, _, number in _named(model)}
    first = range(tokenizer.pad_token_id + 1) if _counts_from_padding(model) else ()
    before = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    contents, kept = cut(before, {*used, *tokenizer.all_special_ids, *named & names.keys(), *first})
    if kept[-1] >= (size := len(model.get_input_embeddings().weight)):
        raise InputError(
            f"trim_vocabulary: the token {names[kept[-1]]!r} has the number {kept[-1]}, and the model has {size} word "
            "vectors; a tokenizer and a model of one size are wanted"
        )
    write_text(folder / "tokenizer.json", json.dumps(contents, ensure_ascii=False))
    smaller = type(tokenizer).from_pretrained(folder)
    if (
        smaller.get_vocab() != {names.get(old): new for new, old in enumerate(kept)}
        or _pieces(smaller) != contents["model"]
    ):
        raise InputError(f"trim_vocabulary: a {type(tokenizer).__name__} of fewer tokens is not read as it is written")
    keep_rows(model, kept)
    return smaller


def keep_rows(model: Any, kept: Sequence[int]) -> None:
    """Leave a model some rows of its table of word vectors, and of what guesses words, in this order.

    Args:
        model: the model, changed in place; its config's numbers of tokens are the new ones.
        kept: numbers of the tokens that stay; of those that the config names, others are named no more.
    """
    table, named = model.get_input_embeddings(), _named(model)
    guesses = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    rows = [table.weight, *([guesses.weight, guesses.bias] if guesses is not None else [])]
    less = {id(row): torch.nn.Parameter(row.detach()[list(kept)].clone()) for row in rows if row is not None}
    for module in model.modules():  # tied ones stand in several
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) in less:
                setattr(module, name, less[id(weight)])
    new = {old: number for number, old in enumerate(kept)}
    table.num_embeddings = len(kept)
    if table.padding_idx is not None:
        table.padding_idx = new.get(table.padding_idx)
    if guesses is not None:
        guesses.out_features = len(kept)
    for config, name, number in named:
        setattr(config, name, new.get(number))
    for config in _configs(model):
        config.vocab_size = len(kept)
    if numbers := getattr(model, "numbers", ()):  # tokens that a pooling looks for
        model.numbers = tuple(new[number] for number in numbers)


def _used(path: Path, texts: Iterable[str]) -> set[int]:
    """Return the numbers of all tokens that a tokenizer makes of texts."""
    encoder = TextEncoder(path, WHOLE)
    found: set[int] = set()
    for some in windows(texts, TOGETHER):
        for (whole,) in encoder([(text,) for text in some]):
            found.update(whole.ids.tolist())
    return found


def _configs(model: Any) -> list[Any]:
    """Return the configs of a model and its encoder, each once."""
    return list({id(part.config): part.config for part in (model, encoder_of(model))}.values())


def _named(model: Any) -> list[tuple[Any, str, int]]:
    """Return the tokens that a model's configs and its table name: (config, name, number)."""
    size = len(model.get_input_embeddings().weight)
    return [
        (config, name, number)
        for config in _configs(model)
        for name, number in config.to_dict().items()
        if name.endswith("_token_id") and isinstance(number, int) and 0 <= number < size
    ]


def _counts_from_padding(model: Any) -> bool:
    """Return whether position numbers start behind the padding's number, as RoBERTa's do, so that it must stay."""
    others = (module for module in model.modules() if module is not model.get_input_embeddings())
    return any(getattr(module, "padding_idx", None) is not None for module in others)


def _pieces(tokenizer: Any) -> Any:
    """Return what a tokenizer splits words by, as its file has it."""
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]
