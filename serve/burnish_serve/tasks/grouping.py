"""From scores of tokens to spans, as transformers' ``pipeline("token-classification")`` groups them.

>>> Labels.of(("O", "B-PER", "I-PER")).kinds
('O', 'PER', 'PER')
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish_serve.tasks import tagged_rows
from burnish_serve.tasks.merging import places, words_of
from burnish_serve.tasks.pieces import Flags, Pieces
from burnish_serve.tasks.scores import softmax
from burnish_serve.tasks.tagging import ENDS, OUTSIDE, is_tag, kind_of
from burnish_serve.tasks.task import Asked, Ids, Logits

STRATEGIES = ("none", "simple", "first", "average", "max")
BY_WORD = ("first", "average", "max")


@dataclass(frozen=True)
class Labels:
    """A model's labels, and how they go on from one to the next."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    """The type of each."""
    outside: int
    """Number of the label for what is in no span; -1 where there is none."""
    tags: Ids
    """Number of what must stay the same for a span to go on."""
    begins: Flags
    """Whether a label begins a span wherever it stands."""
    ends: Flags
    """Whether a span ends with it."""

    @classmethod
    @functools.lru_cache(maxsize=16)
    def of(cls, names: tuple[str, ...]) -> Labels:
        """Return the reading of labels: as BIOES where they are of it, else as the pipeline groups them."""
        closed = all(map(is_tag, names)) and any(name[0] in ENDS for name in names)
        opening = ("B-", "S-") if closed else ("B-",)
        prefixes = ("B-", "I-", "E-", "S-") if closed else ("B-", "I-")
        tags = [name[2:] if name.startswith(prefixes) else name for name in names]
        return cls(
            names=names,
            kinds=tuple(map(kind_of, names)),
            outside=names.index(OUTSIDE) if OUTSIDE in names else -1,
            tags=np.array([tags.index(tag) for tag in tags], dtype=np.int64),
            begins=np.array([name.startswith(opening) for name in names], dtype=bool),
            ends=np.array([closed and name[0] in ENDS for name in names], dtype=bool),
        )


@dataclass(frozen=True)
class Scored:
    """One row with the scores of its tokens, as if the model had read it whole."""

    row: Asked
    scores: Logits
    """``[tokens, labels]``."""
    offsets: Ids
    """``[tokens, 2]``."""
    written: list[str]
    begins: Flags
    pieces: Pieces

    @classmethod
    def of(cls, row: Asked, outputs: Sequence[Logits], pieces: Pieces) -> Scored:
        """Return a row with what a model gave for its windows."""
        at = places(row.windows)
        offsets = np.concatenate([window.offsets for window in row.windows if window.offsets is not None])[at]
        written, begins = pieces.read(np.concatenate([window.ids for window in row.windows])[at], offsets, row.texts[0])
        return cls(row, softmax(np.concatenate(outputs)[at]), offsets, written, begins, pieces)

    def tokens(self, labels: Labels) -> list[dict[str, Any]]:
        """Return the tokens whose best label is another than that for no span."""
        best = self.scores.argmax(-1)
        special = int(np.argmax(words_of(self.row.windows[0]) >= 0))
        return [
            {
                "entity": labels.names[best[token]],
                "score": float(self.scores[token, best[token]]),
                "index": special + token,
                "word": self.written[token],
                "start": int(self.offsets[token, 0]),
                "end": int(self.offsets[token, 1]),
            }
            for token in np.flatnonzero(best != labels.outside).tolist()
        ]

    def spans(self, labels: Labels, strategy: str) -> list[dict[str, Any]]:
        """Return runs of tokens, or of words, of one type."""
        heads, bounds = self._heads(strategy)
        scores = self._of_words(heads, strategy)
        best = scores.argmax(-1)
        tags = labels.tags[best]
        goes_on = (tags[1:] == tags[:-1]) & ~labels.begins[best[1:]] & ~labels.ends[best[:-1]]
        firsts = np.append(0, np.flatnonzero(~goes_on) + 1)
        found = []
        edges, last_of = np.append(heads, len(self.scores)), np.append(firsts[1:], len(heads))
        for first, end in zip(firsts.tolist(), last_of.tolist(), strict=True):
            kind = labels.kinds[best[first]]
            if kind == OUTSIDE:
                continue
            words = [self.written[a:b] for a, b in itertools.pairwise(edges[first : end + 1].tolist())]
            start, stop = int(self.offsets[edges[first], 0]), int(self.offsets[edges[end] - 1, 1])
            if bounds is not None:
                begin, last = tagged_rows.token_at(bounds, [start, stop - 1])
                start, stop = int(bounds[begin, 0]), int(bounds[last, 1])
            found.append(
                {
                    "entity_group": kind,
                    "score": float(scores[first:end].max(-1).mean()),
                    "word": self.pieces.joined([self._word(word, strategy) for word in words]),
                    "start": start,
                    "end": stop,
                }
            )
        return found

    def _heads(self, strategy: str) -> tuple[Ids, Ids | None]:
        """Return the first token of each word, and where the row's own tokens stand if they are the words."""
        if strategy not in BY_WORD:
            return np.arange(len(self.scores)), None
        begins, bounds = self.begins, None
        if "tokens" in self.row.row:
            bounds = tagged_rows.bounds_of(tagged_rows.tokens_of(self.row.row))
            owner = tagged_rows.token_at(bounds, self.offsets[:, 0])
            begins = np.diff(owner, prepend=-1) != 0
        heads = np.flatnonzero(begins)
        return heads if len(heads) and not heads[0] else np.append(0, heads), bounds

    def _of_words(self, heads: Ids, strategy: str) -> Logits:
        """Return the scores of each word ``[words, labels]``."""
        if strategy == "average":
            counts: Logits = np.diff(heads, append=len(self.scores)).astype(np.float32)
            sums: Logits = np.add.reduceat(self.scores, heads, axis=0)
            return sums / counts[:, None]
        if strategy == "max":
            highest = self.scores.max(-1)
            words = np.repeat(np.arange(len(heads)), np.diff(heads, append=len(highest)))
            order = np.lexsort((-highest, words))  # stable: of equal ones the first
            return self.scores[order[np.searchsorted(words, np.arange(len(heads)))]]
        return self.scores[heads]

    def _word(self, written: list[str], strategy: str) -> str:
        return self.pieces.joined(written) if strategy in BY_WORD else written[0]
