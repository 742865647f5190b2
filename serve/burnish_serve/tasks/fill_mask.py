"""The word that a mask stands for: what a masked language model is trained on, and how well it knows a language.

The answer for a text has the shape of transformers' ``pipeline("fill-mask")``: for one mask a list of the best tokens,
``{"score", "token", "token_str", "sequence"}``; for several masks a list of such lists. Rows have no labels: to score a
model, a share of each text's own tokens is masked and must be guessed.

>>> model("Paris is the [MASK] of France.")  # doctest: +SKIP
[[{'score': 0.94, 'token': 3007, 'token_str': 'capital', 'sequence': 'paris is the capital of france.'}, …]]
"""

from __future__ import annotations

import functools
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from burnish_serve.errors import InputError
from burnish_serve.tasks.task import Answer, Asked, Encoded, Ids, Logits, Outputs, Reading, Task

SHARE = 0.15
"""Of the tokens of a text that are masked to score a model (Devlin et al., 2019, arXiv:1810.04805)."""
SEED = 15


class Special(NamedTuple):
    """The tokens of a vocabulary that stand for no word."""

    mask: int
    ids: Ids
    """All of them, the mask's and the unknown word's too."""


@functools.lru_cache(maxsize=16)
def special(tokenizer: Tokenizer) -> Special:
    """Return the special tokens of a tokenizer.

    Raises:
        InputError: none of them is a mask.
    """
    tokens = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    masks = [number for number, token in tokens.items() if re.fullmatch(r"\W*mask\W*", token, re.IGNORECASE)]
    if not masks:
        raise InputError(f"the tokenizer has no mask token; its special tokens are: {', '.join(tokens.values())}")
    return Special(masks[0], np.array(sorted(tokens), dtype=np.int64))


def examine(asked: Asked, reading: Reading) -> Asked:
    """Return a row with a share of its tokens masked, chosen by the text alone, and what they hide."""
    found = special(_tokenizer(reading))
    windows = []
    for number, window in enumerate(asked.windows):
        random = np.random.default_rng([SEED, number, *(zlib.crc32(text.encode()) for text in asked.texts)])
        words = window.ids if window.words is None else window.words
        places = np.flatnonzero((words >= 0) & ~np.isin(window.ids, found.ids))
        chosen = random.permutation(places)[: max(1, round(SHARE * len(places)))]
        ids, hidden = window.ids.copy(), np.full_like(window.ids, -1)
        hidden[chosen], ids[chosen] = ids[chosen], found.mask
        windows.append(window._replace(ids=ids, hidden=hidden))
    return asked._replace(windows=tuple(windows))


def keep(window: Encoded, reading: Reading) -> Ids:
    """Return the places of a window's masks."""
    if window.hidden is not None:
        return np.flatnonzero(window.hidden >= 0)
    return np.flatnonzero(window.ids == special(_tokenizer(reading)).mask)


def decode(
    asked: Sequence[Asked],
    outputs: Outputs,
    reading: Reading,
    *,
    top_k: int | str | None = 5,
    targets: str | Sequence[str] | None = None,
) -> list[Answer]:
    """Return the best tokens for each mask of each row; for rows that are scored, what stood there and its probability.

    Args:
        asked: the rows.
        outputs: of each row its windows' float32 ``[masks, vocabulary]``.
        reading: the tokenizer.
        top_k: how many tokens a mask; None for all.
        targets: the only tokens to choose among; of a word that is no token, its first one.

    Raises:
        InputError: a text has no mask, a target is no token, or ``top_k`` is no number.
    """
    if isinstance(top_k, str):
        raise InputError(f"fill-mask has no {top_k}: top_k is a whole number, or all")
    tokenizer = _tokenizer(reading)
    wanted = None if targets is None else target_ids(tokenizer, [targets] if isinstance(targets, str) else targets)
    answers: list[Answer] = []
    for row, windows in zip(asked, outputs, strict=True):
        if row.windows[0].hidden is not None:
            answers.append(
                [one for pair in zip(row.windows, windows, strict=True) for one in _scored(*pair, tokenizer)]
            )
            continue
        places = _places(row, reading)
        if not places:
            mask, cut = tokenizer.id_to_token(special(tokenizer).mask), " where it was cut" * row.truncated
            raise InputError(f"{row.where} has no {mask}{cut}: {row.texts[0][:80]!r}")
        found: list[list[dict[str, Any]]] = []
        skip = len(places) == 1
        for window, line, place in places:
            probabilities = _softmax(windows[window][line])
            sequence = row.windows[window].ids.copy()
            found.append([])
            for token in _best(probabilities, top_k, wanted):
                sequence[place] = token
                found[-1].append(
                    {
                        "score": float(probabilities[token]),
                        "token": token,
                        "token_str": tokenizer.decode([token], skip_special_tokens=False),
                        "sequence": tokenizer.decode(sequence.tolist(), skip_special_tokens=skip),
                    }
                )
        answers.append(found[0] if len(found) == 1 else found)
    return answers


def target_ids(tokenizer: Tokenizer, targets: Sequence[str]) -> Ids:
    """Return the tokens of words, each the whole word where that is a token, else its first piece.

    Raises:
        InputError: a word has no token.
    """
    found = []
    for target in targets:
        whole = tokenizer.token_to_id(target)
        pieces = [whole] if whole is not None else tokenizer.encode(target, add_special_tokens=False).ids
        if not pieces:
            raise InputError(f"the target {target!r} is no token of the model, and holds none")
        found.append(pieces[0])
    return np.unique(np.array(found, dtype=np.int64))


def _places(row: Asked, reading: Reading) -> list[tuple[int, int, int]]:
    """Return (window, line of its outputs, token) of each mask; of a mask in several windows, where it is innermost."""
    found: dict[int, tuple[int, tuple[int, int, int]]] = {}
    for number, window in enumerate(row.windows):
        for line, place in enumerate(keep(window, reading).tolist()):
            first = place if window.offsets is None else int(window.offsets[place, 0])
            room = min(place, len(window.ids) - 1 - place)
            if first not in found or room > found[first][0]:
                found[first] = (room, (number, line, place))
    return [found[first][1] for first in sorted(found)]


def _scored(window: Encoded, logits: Logits, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return for each mask the token that it hides with its probability, and the best token with its own."""
    answers = []
    for token, line in zip(_hidden(window), logits, strict=True):
        probabilities = _softmax(line)
        best = int(probabilities.argmax())
        answers.append({**_told(tokenizer, int(token), probabilities), "best": _told(tokenizer, best, probabilities)})
    return answers


def _hidden(window: Encoded) -> Ids:
    """Return the tokens that the masks of a window hide."""
    hidden: Ids = np.empty(0, dtype=np.int64) if window.hidden is None else window.hidden[window.hidden >= 0]
    return hidden


def _told(tokenizer: Tokenizer, token: int, probabilities: Any) -> dict[str, Any]:
    text = tokenizer.decode([token], skip_special_tokens=False)
    return {"score": float(probabilities[token]), "token": token, "token_str": text}


def _softmax(logits: Logits) -> Any:
    """Return the probabilities of one mask's tokens, in float64: the least of them counts in a perplexity."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def _best(scores: Any, top_k: int | None, among: Ids | None) -> list[int]:
    """Return the tokens with the greatest scores, greatest first and of equal ones the lowest number first."""
    numbers = np.arange(len(scores)) if among is None else among
    count = len(numbers) if top_k is None else min(int(top_k), len(numbers))
    some = numbers[np.argpartition(-scores[numbers], count - 1)[:count]]
    best: list[int] = some[np.lexsort((some, -scores[some]))].tolist()
    return best


def predicted(answer: Answer) -> tuple[int, ...]:
    """Return the best token of each mask."""
    if answer and isinstance(answer[0], dict) and "best" in answer[0]:
        return tuple(one["best"]["token"] for one in answer)
    several = answer if answer and isinstance(answer[0], list) else [answer]
    return tuple(ranked[0]["token"] for ranked in several if ranked)


def score(rights: Sequence[Any], answers: Sequence[Answer], reading: Reading) -> dict[str, Any]:
    """Return over all masked tokens their likelihood, the perplexity, and the share that is guessed.

    The likelihood is the geometric mean of the probabilities of what was masked, and the perplexity one over it: e to
    the mean loss. Both compare models with one vocabulary; where no token was masked they are 1.
    """
    masked = [one for answer in answers for one in answer]
    losses = [-math.log(max(one["score"], 1e-300)) for one in masked]
    hits = [one["token"] == one["best"]["token"] for one in masked]
    count = max(1, len(masked))
    loss = sum(losses) / count
    return {"likelihood": math.exp(-loss), "perplexity": math.exp(loss), "token_accuracy": sum(hits) / count}


def _tokenizer(reading: Reading) -> Tokenizer:
    if reading.tokenizer is None:
        raise InputError("fill-mask answers with words, and so reads with a tokenizer")
    return reading.tokenizer


TASK = Task(
    name="fill-mask",
    pipeline="fill-mask",
    head="MaskedLM",
    columns=(("text",),),
    label_column="",
    outputs=("logits",),
    labelled=False,
    per_token=True,
    on_long="window",
    right=lambda row, asked, column, where: None,
    examine=examine,
    keep=keep,
    decode=decode,
    options={"top_k": 5, "targets": None},
    predicted=predicted,
    score=score,
    metric="likelihood",
)
