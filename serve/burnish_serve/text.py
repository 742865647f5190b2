"""Texts to token ids: the only tokenization in the repository, the same for proofs, predictions and measurements.

How a text is split is the model's decision and stands in ``tokenizer.json``; how long it may be is ours: truncation and
padding of that file are cleared. A text that does not fit is cut on the right, as transformers does it, and is marked.

>>> encoder = TextEncoder("bundle/tokenizer.json", max_length=128)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from burnish_serve.errors import BundleError, InputError

Ids = npt.NDArray[np.int64]
# Tokenization of very long texts costs more than the model, and truncation comes after it: so characters are capped
# first. What is left must give this many tokens more than fit, or more characters are taken: the cap changes no token.
# (A word of more than 100 characters is one token to WordPiece, and up to 100 where it is cut in two.)
CHARACTERS_PER_TOKEN = 16
SPARE_TOKENS = 128


class Encoded(NamedTuple):
    """One text as the model reads it, not yet padded."""

    ids: Ids
    type_ids: Ids
    truncated: bool


class TextEncoder:
    """Turns texts, or pairs of texts, into token ids.

    Args:
        path: a ``tokenizer.json``.
        max_length: tokens that a text may have at the most, special ones included.

    Raises:
        BundleError: the file is not a tokenizer.
    """

    def __init__(self, path: str | Path, max_length: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise BundleError(f"{path} is not a tokenizer that can be loaded: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_length = max_length
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= self._special:
            raise InputError(f"a max_length of {max_length} leaves no room beside {self._special} special tokens")
        self._tokenizer.enable_truncation(max_length)

    def __call__(self, texts: Sequence[tuple[str, ...]]) -> list[Encoded]:
        """Return the token ids of each text; an element of ``texts`` holds one text or the two of a pair.

        Raises:
            InputError: a text is not valid Unicode (half of a surrogate pair).
        """
        limit = CHARACTERS_PER_TOKEN * self.max_length
        encodings = self._encode([self._cut(text, limit) for text in texts])
        short = [i for i, text in enumerate(texts) if self._cut_too_much(text, encodings[i], limit)]
        while short:
            limit *= 2
            again = self._encode([self._cut(texts[i], limit) for i in short])
            for i, encoding in zip(short, again, strict=True):
                encodings[i] = encoding
            short = [i for i in short if self._cut_too_much(texts[i], encodings[i], limit)]
        return [
            Encoded(
                np.array(encoding.ids, dtype=np.int64),
                np.array(encoding.type_ids, dtype=np.int64),
                bool(encoding.overflowing),
            )
            for encoding in encodings
        ]

    def _encode(self, texts: list[tuple[str, ...]]) -> list[Encoding]:
        inputs = [text[0] if len(text) == 1 else text for text in texts]
        try:
            return self._tokenizer.encode_batch_fast(inputs)
        except (UnicodeEncodeError, TypeError) as error:
            for text in texts:
                for part in text:
                    if any("\ud800" <= character <= "\udfff" for character in part):
                        raise InputError(f"a text holds half of a surrogate pair: {ascii(part)[:80]}") from error
            raise

    @staticmethod
    def _cut(text: tuple[str, ...], limit: int) -> tuple[str, ...]:
        return tuple(part[:limit] for part in text)

    def _cut_too_much(self, text: tuple[str, ...], encoding: Encoding, limit: int) -> bool:
        if all(len(part) <= limit for part in text):
            return False
        counts = [self._num_tokens(part[:limit], encoding, alone=len(text) == 1) for part in text]
        for place, part in enumerate(text):
            # Of a pair the longer part is cut first, so a part that was capped must stay longer than the other.
            others = counts[:place] + counts[place + 1 :]
            if len(part) > limit and counts[place] < max([self.max_length, *others]) + SPARE_TOKENS:
                return True
        return False

    def _num_tokens(self, part: str, encoding: Encoding, *, alone: bool) -> int:
        """Return the tokens of a part without special ones; what overflows of a pair stands there many times over."""
        if not alone:
            encoding = self._tokenizer.encode(part, add_special_tokens=False)
        special = self._special if alone else 0
        return sum(len(piece.ids) - special for piece in (encoding, *encoding.overflowing))
