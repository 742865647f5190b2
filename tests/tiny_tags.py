"""Makes labelled spans that the tiny encoder of `tiny_model.py` learns in a second: words of intents among fillers.

python tests/tiny_tags.py | head
"""

from __future__ import annotations

import json
import random
from typing import Any

from tiny_model import FILLERS, KEYWORDS


def tagged_rows(count: int = 160, *, lengths: tuple[int, ...] = (1, 1, 2, 3), seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of tokens and BIO tags: spans of so many words, with fillers between them.

    An intent's first word begins a span and its second one goes on with it, so that a word alone tells its tag.
    """
    words = random.Random(seed)
    rows = []
    for _ in range(count):
        tokens, tags = [], []
        for _ in range(words.randint(0, 3)):
            for filler in words.choices(FILLERS, k=words.randint(1, 3)):
                tokens.append(filler.capitalize() if words.random() < 0.2 else filler)
                tags.append("O")
            kind = words.choice(list(KEYWORDS))
            for place in range(words.choice(lengths)):
                tokens.append(KEYWORDS[kind][place > 0] + words.choice(("", "", "s")))
                tags.append(f"{'I' if place else 'B'}-{kind}")
        tokens.append(words.choice(("today", "thanks", "!")))
        tags.append("O")
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def with_spans(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of tokens and tags as a text with character spans; worked out here, not by the code under test."""
    text, spans = "", []
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        text += " " if text else ""
        if tag.startswith("B-"):
            spans.append({"start": len(text), "end": len(text) + len(token), "label": tag[2:]})
        elif tag.startswith("I-"):
            spans[-1]["end"] = len(text) + len(token)
        text += token
    return {"text": text, "spans": [{**span, "text": text[span["start"] : span["end"]]} for span in spans]}


if __name__ == "__main__":
    for row in tagged_rows():
        print(json.dumps(row))
