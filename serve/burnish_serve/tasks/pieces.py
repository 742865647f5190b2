"""How a tokenizer's tokens become words again, as transformers' pipelines for tokens do it.

Where the vocabulary marks what continues a word (``##ing``), a token that has not the length of the characters that it
stands for is taken for a continuation; elsewhere one with no space before it is. A token for what is unknown begins a
word and is written as the text has it.

>>> pieces = Pieces.of(tokenizer)  # doctest: +SKIP
>>> pieces.joined(["Bur", "##nish"])  # doctest: +SKIP
'Burnish'
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from burnish_serve.tasks.task import Ids

Flags = npt.NDArray[np.bool_]
UNKNOWN = ("<unk>", "[UNK]")


@dataclass(frozen=True)
class Pieces:
    """What of a tokenizer it takes to write words."""

    tokenizer: Tokenizer
    marked: bool
    """Whether the vocabulary marks continuations."""
    unknown: int
    """Id of the token for what the vocabulary does not have; -1 where there is none."""
    known: dict[int, str] = field(default_factory=dict)
    """Tokens as they are written, by id: those that were asked for once, for asking costs more than all else here."""

    @classmethod
    @functools.lru_cache(maxsize=8)
    def of(cls, tokenizer: Tokenizer | None) -> Pieces:
        """Return what a tokenizer says of itself."""
        if tokenizer is None:
            raise AssertionError("an answer that holds words needs the tokenizer")
        model: Any = tokenizer.model
        names = (getattr(model, "unk_token", None), *UNKNOWN)
        ids = (tokenizer.token_to_id(name) for name in names if name is not None)
        return cls(
            tokenizer,
            marked=bool(getattr(model, "continuing_subword_prefix", None)),
            unknown=next((number for number in ids if number is not None), -1),
        )

    def read(self, ids: Ids, offsets: Ids, text: str) -> tuple[list[str], Flags]:
        """Return each token as it is written, and whether it begins a word.

        Args:
            ids: of the tokens of a text, without special ones ``[tokens]``.
            offsets: characters that they stand for ``[tokens, 2]``.
            text: which they index.
        """
        numbers = ids.tolist()
        known = self.known
        for number in numbers:
            if number not in known:
                known[number] = self.tokenizer.id_to_token(number) or ""
        written = [known[number] for number in numbers]
        places = offsets.tolist()
        if self.marked:
            begins = [len(piece) == end - start for piece, (start, end) in zip(written, places, strict=True)]
        else:
            begins = [start == 0 or " " in text[start - 1 : start + 1] for start, _ in places]
        for token in np.flatnonzero(ids == self.unknown).tolist():
            written[token] = text[slice(*places[token])]
            begins[token] = True
        return written, np.array(begins, dtype=bool)

    def joined(self, written: Sequence[str]) -> str:
        """Return tokens as one text."""
        decoder: Any = self.tokenizer.decoder
        return " ".join(written) if decoder is None else str(decoder.decode(list(written)))
