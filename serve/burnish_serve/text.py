"""Texts to token ids: the only tokenization in the repository, the same for proofs, predictions and measurements.

How a text is split is the model's decision and stands in ``tokenizer.json``; how long it may be is ours: truncation and
padding of that file are cleared. A text that does not fit is cut on the right, as transformers does it, and is marked;
or it is read in windows that overlap; or it is refused.

>>> encoder = TextEncoder("bundle/tokenizer.json", max_length=128)  # doctest: +SKIP
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from burnish_serve.errors import BundleError, InputError
from burnish_serve.tasks import Encoded, Task

ON_LONG = ("error", "truncate", "window")
# Tokenization of very long texts costs more than the model, and truncation comes after it: so characters are capped
# first. What is left must give this many tokens more than fit, or more characters are taken: the cap changes no token.
# (A word of more than 100 characters is one token to WordPiece, and up to 100 where it is cut in two.)
CHARACTERS_PER_TOKEN = 16
SPARE_TOKENS = 128


class TextEncoder:
    """Turns texts, or pairs of texts, into token ids.

    Args:
        path: a ``tokenizer.json``.
        max_length: tokens that a text may have at the most, special ones included.
        on_long: what becomes of longer ones: ``truncate``, ``window`` or ``error``.
        stride: tokens that neighbouring windows share.
        offsets: whether to say where in the text each token stands, for answers that point into it.

    Raises:
        BundleError: the file is not a tokenizer.
        InputError: the length leaves no room beside the special tokens.
    """

    def __init__(
        self, path: str | Path, max_length: int, *, on_long: str = "truncate", stride: int = 0, offsets: bool = False
    ) -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise BundleError(f"{path} is not a tokenizer that can be loaded: {error}") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.max_length = max_length
        self.on_long = on_long
        self.stride = stride
        self.offsets = offsets
        self.asks_last = offsets
        self._special = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= self._special:
            raise InputError(f"a max_length of {max_length} leaves no room beside {self._special} special tokens")
        if on_long != "window":
            self.tokenizer.enable_truncation(max_length)

    def with_offsets(self) -> TextEncoder:
        """Return one that reads the same tokens and says where in the texts they stand."""
        other = copy.copy(self)
        other.offsets = True
        return other

    def __call__(
        self, texts: Sequence[tuple[str, ...]], where: Sequence[str] | None = None
    ) -> list[tuple[Encoded, ...]]:
        """Return the windows of each text, most often one.

        Args:
            texts: one text each, or the two of a pair.
            where: what messages call them; rows, counted from 1, where none is given.

        Raises:
            InputError: a text is not valid Unicode (half of a surrogate pair); one is too long and that is an error; or
                the shorter text of a pair leaves no room for windows over the longer.
        """
        if self.on_long == "window":
            encodings = self._encode(list(texts))
            return [self._windows(encoding, _name(where, place)) for place, encoding in enumerate(encodings)]
        encodings = self._encode_capped(texts)
        long = [place for place, encoding in enumerate(encodings) if encoding.overflowing]
        if long and self.on_long == "error":
            raise InputError(
                f"{_name(where, long[0])} has more than {self.max_length} tokens; {len(long)} of {len(texts)} have "
                f"(truncate or window reads them, where that is meant)"
            )
        return [(self._whole(encoding),) for encoding in encodings]

    def _encode_capped(self, texts: Sequence[tuple[str, ...]]) -> list[Encoding]:
        limit = CHARACTERS_PER_TOKEN * self.max_length
        encodings = self._encode([self._cut(text, limit) for text in texts])
        short = [i for i, text in enumerate(texts) if self._cut_too_much(text, encodings[i], limit)]
        while short:
            limit *= 2
            again = self._encode([self._cut(texts[i], limit) for i in short])
            for i, encoding in zip(short, again, strict=True):
                encodings[i] = encoding
            short = [i for i in short if self._cut_too_much(texts[i], encodings[i], limit)]
        return encodings

    def _whole(self, encoding: Encoding) -> Encoded:
        """Return a text that is read at once."""
        ids, types = np.array(encoding.ids, dtype=np.int64), np.array(encoding.type_ids, dtype=np.int64)
        if not self.offsets:
            return Encoded(ids, types, bool(encoding.overflowing))
        asked = self._asked(encoding)
        words = [-1 if word is None else word for word in encoding.word_ids]
        return Encoded(
            ids,
            types,
            bool(encoding.overflowing),
            offsets=np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
            words=np.where(asked, np.array(words, dtype=np.int64), -1),
            sequences=_sequences(encoding),
        )

    def _windows(self, encoding: Encoding, name: str) -> tuple[Encoded, ...]:
        """Return the windows of a text: the same tokens before and after, and a part of it between them."""
        whole = self._whole(encoding)
        excess = len(whole.ids) - self.max_length
        if excess <= 0:
            return (whole,)
        places = np.flatnonzero(self._asked(encoding))
        first, end = int(places[0]), int(places[-1]) + 1
        room = end - first - excess
        if room < 1:
            raise InputError(
                f"{name} leaves no room for windows: beside the text that they would go over stand "
                f"{len(whole.ids) - (end - first)} tokens, and the model reads {self.max_length}"
            )
        # Where a long question leaves less room than the stride, windows share half of it: steps of one token would be
        # as many windows as tokens.
        step = room - (self.stride if self.stride < room else room // 2)
        starts = range(first, max(first + 1, end - room + step), step)
        parts = [np.r_[0:first, start : min(start + room, end), end : len(whole.ids)] for start in starts]
        return tuple(
            Encoded(
                whole.ids[part],
                whole.type_ids[part],
                truncated=False,
                offsets=None if whole.offsets is None else whole.offsets[part],
                words=None if whole.words is None else whole.words[part],
                start=start - first,
                sequences=None if whole.sequences is None else whole.sequences[part],
            )
            for start, part in zip(starts, parts, strict=True)
        )

    def _asked(self, encoding: Encoding) -> NDArray[np.bool_]:
        """Return which tokens are of the text that is cut into windows: the one, or of a pair the longer.

        Where answers point into the text it is the second of a pair, of a question and a context.
        """
        sequences = _sequences(encoding)
        counts = [int((sequences == number).sum()) for number in range(encoding.n_sequences)]
        number = len(counts) - 1 if self.asks_last else int(np.argmax(counts))
        asked: NDArray[np.bool_] = sequences == number
        return asked

    def _encode(self, texts: list[tuple[str, ...]]) -> list[Encoding]:
        inputs = [text[0] if len(text) == 1 else text for text in texts]
        try:
            return self.tokenizer.encode_batch(inputs) if self.offsets else self.tokenizer.encode_batch_fast(inputs)
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
            encoding = self.tokenizer.encode(part, add_special_tokens=False)
        special = self._special if alone else 0
        return sum(len(piece.ids) - special for piece in (encoding, *encoding.overflowing))


def _sequences(encoding: Encoding) -> NDArray[np.int64]:
    """Return which of its texts each token comes from; -1 for special tokens."""
    return np.array([-1 if number is None else number for number in encoding.sequence_ids], dtype=np.int64)


def _name(where: Sequence[str] | None, place: int) -> str:
    return f"row {place + 1}" if where is None else where[place]


def encoder_for(
    task: Task, path: str | Path, max_length: int, stride: int = 0, on_long: str | None = None
) -> TextEncoder:
    """Return the tokenization that a task needs.

    Args:
        task: says whether answers point into the text, and what becomes of a long one.
        path: a ``tokenizer.json``.
        max_length: tokens that the model reads at the most.
        stride: tokens that neighbouring windows share.
        on_long: None for the task's own way.
    """
    return TextEncoder(
        path, max_length, on_long=on_long or task.on_long, stride=stride, offsets=task.per_token and not task.apart
    )
