"""A ``tokenizer.json`` with some of its tokens alone: vocabulary, merges, and every number that stands elsewhere in it.

Whatever is made of kept tokens is read as before, for all three kinds of word pieces. WordPiece takes the longest piece
each time, and Unigram the best path; with fewer to choose from the same one is the longest, and the best. BPE joins
pairs in an order, so all pieces on the way to a kept one are kept too, and the merges between kept pieces. Characters
are kept by themselves, so other words fall to smaller pieces and stay readable.

>>> contents, kept = cut(json.loads(tokenizer.backend_tokenizer.to_str()), used={5, 7})  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from burnish_serve.errors import InputError

KINDS = ("WordPiece", "Unigram", "BPE")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""What a byte is called that stands for itself where a character is unknown."""


def cut(contents: Mapping[str, Any], used: Collection[int]) -> tuple[dict[str, Any], list[int]]:
    """Return a tokenizer with those tokens, and the old number of each of its tokens.

    Special and added tokens, the unknown one, single characters and bytes stay without being asked for, and so does a
    token with a character that has none of its own.

    Args:
        contents: a ``tokenizer.json`` as the library tokenizers writes it.
        used: numbers of tokens to keep.

    Raises:
        InputError: its tokens are no word pieces.
    """
    model = contents["model"]
    if model["type"] not in KINDS:
        raise InputError(f"trim_vocabulary is for tokenizers of {', '.join(KINDS)}, and the model's is {model['type']}")
    unigram = model["type"] == "Unigram"
    numbers = {token: i for i, (token, _) in enumerate(model["vocab"])} if unigram else dict(model["vocab"])
    added = {one["content"]: one["id"] for one in contents["added_tokens"]}
    kept = {*used, *added.values(), *_numbers_in(contents["post_processor"])}
    kept.update(number for token, number in numbers.items() if _stays(_letters(token, model), token, numbers))
    if unigram:  # the least score is what an unknown character costs
        kept.update({model["unk_id"]} - {None}, {min(numbers.values(), key=lambda i: float(model["vocab"][i][1]))})
    elif model.get("unk_token") in numbers:
        kept.add(numbers[model["unk_token"]])
    if model["type"] == "BPE":
        ranks = {pair: rank for rank, pair in enumerate(_pairs(model))}
        for token in [token for token, number in numbers.items() if number in kept and token not in added]:
            kept.update(numbers[part] for part in _on_the_way(_letters(token, model), ranks, model))
    inside = sorted(number for number in numbers.values() if number in kept)
    order = inside + sorted(kept.difference(inside))
    new = {old: number for number, old in enumerate(order)}
    smaller = {**model, "vocab": {token: new[i] for token, i in numbers.items() if i in new}}
    if unigram:
        smaller["vocab"] = [model["vocab"][i] for i in inside]
        smaller["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    if model["type"] == "BPE":
        known = smaller["vocab"]
        smaller["merges"] = [
            list(pair) for pair in _pairs(model) if all(part in known for part in (*pair, _joined(*pair, model)))
        ]
    padding = contents["padding"] and {**contents["padding"], "pad_id": new.get(contents["padding"]["pad_id"], 0)}
    changed = {
        "model": smaller,
        "added_tokens": [{**one, "id": new[one["id"]]} for one in contents["added_tokens"]],
        "post_processor": _renumbered(contents["post_processor"], new.__getitem__),
        "padding": padding,
    }
    return {**contents, **changed}, order


def _stays(letters: list[str], token: str, numbers: Mapping[str, int]) -> bool:
    """Return whether a token is a character or a byte, or cannot be spelled with others."""
    return len(letters) < 2 or bool(BYTE.fullmatch(token)) or any(letter not in numbers for letter in letters)


def _letters(token: str, model: Mapping[str, Any]) -> list[str]:
    """Return the smallest tokens that a token is spelled with, marked as it is for their place in a word."""
    prefix, suffix = (model.get(name) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix"))
    inner = bool(prefix) and token.startswith(prefix)
    last = bool(suffix) and token.endswith(suffix)
    letters = list(token.removeprefix(prefix if inner else "").removesuffix(suffix if last else ""))
    marked = [letter if place == 0 and not inner else prefix + letter for place, letter in enumerate(letters)]
    return [*marked[:-1], marked[-1] + suffix] if last and marked else marked


def _pairs(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the merges of BPE, the first first; older files hold them as one text each."""
    for merge in model["merges"]:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        yield first, second


def _joined(first: str, second: str, model: Mapping[str, Any]) -> str:
    """Return the token that a merge makes."""
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")


def _on_the_way(parts: list[str], ranks: Mapping[tuple[str, str], int], model: Mapping[str, Any]) -> list[str]:
    """Return what BPE makes one after another of a token's characters until there is nothing to merge."""
    made = []
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, math.inf), place) for place, pair in enumerate(itertools.pairwise(parts)))
        if rank == math.inf:
            break
        made.append(_joined(parts[place], parts[place + 1], model))
        parts = [*parts[:place], made[-1], *parts[place + 2 :]]
    return made


def _numbers_in(processor: Mapping[str, Any] | None) -> set[int]:
    """Return the numbers of the tokens that are put around a text."""
    seen: list[int] = []

    def same(number: int) -> int:
        seen.append(number)
        return number

    _renumbered(processor, same)
    return set(seen)


def _renumbered(processor: Mapping[str, Any] | None, new: Callable[[int], int]) -> dict[str, Any] | None:
    """Return what puts tokens around a text, with their new numbers."""
    if processor is None:
        return None
    changed = dict(processor)
    if processor["type"] == "Sequence":
        changed["processors"] = [_renumbered(part, new) for part in processor["processors"]]
    for name in {"sep", "cls"} & set(processor):
        changed[name] = [processor[name][0], new(processor[name][1])]
    if processor["type"] == "TemplateProcessing":
        changed["special_tokens"] = {
            name: {**token, "ids": [new(number) for number in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
    return changed
