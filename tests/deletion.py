"""Whether an explanation is true: deleting the words that it ranks highest must cost the answer more than any others.

The score is the one that `burnish predict` gives to the explained label (comprehensiveness: DeYoung et al., 2020,
arXiv:1911.03429, whose measure deletes a share of the words too).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import mean

from burnish_serve import Runner
from burnish_serve.explaining import Explanation

SHARE = 0.2


def without(text: str, words: Sequence[dict]) -> str:
    """Return a text without some of its words."""
    for word in sorted(words, key=lambda one: -one["start"]):
        text = text[: word["start"]] + text[word["end"] :]
    return text


def fall(model: Runner, found: Sequence[Explanation], chosen: Sequence[Sequence[dict]]) -> float:
    """Return how far the score of each text's label falls without the words chosen of it: the mean."""
    texts = [next(iter(one.texts.values())) for one in found]
    left = model([without(*pair) for pair in zip(texts, chosen, strict=True)], top_k=None)
    scores = [{one["label"]: one["score"] for one in answers} for answers in left]
    return mean(one.answer["score"] - score[one.answer["label"]] for one, score in zip(found, scores, strict=True))


def falls(model: Runner, found: Sequence[Explanation], seeds: Sequence[int] = range(5)) -> tuple[float, list[float]]:
    """Return the mean fall without the highest-ranked fifth of the words, and without random words for each seed."""
    counts = [max(1, round(SHARE * len(one.words))) for one in found]
    ranked = [sorted(one.words, key=lambda word: -word["weight"]) for one in found]
    top = fall(model, found, [words[:count] for words, count in zip(ranked, counts, strict=True)])
    by_chance = []
    for seed in seeds:
        draw = random.Random(seed)
        chosen = [draw.sample(one.words, count) for one, count in zip(found, counts, strict=True)]
        by_chance.append(fall(model, found, chosen))
    return top, by_chance
