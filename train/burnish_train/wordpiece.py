"""A tokenizer made from texts: BERT's, with word pieces that are frequent in them; Chinese is split by character.

>>> tokenizer = make_tokenizer(["a text", "一段文字"], size=8000, lowercase=True, max_length=128)  # doctest: +SKIP
"""

from __future__ import annotations

import collections
import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from burnish_serve.errors import InputError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FREQUENT = 2
"""How often a character or a piece must be seen to be one of the vocabulary; others are ``[UNK]``."""


def make_tokenizer(texts: Sequence[str], *, size: int, lowercase: bool, max_length: int) -> Any:
    """Return transformers' tokenizer with a vocabulary of these texts, the same one for the same texts.

    Each character that is seen twice is in it, the most frequent ones where they are too many; the rest are pieces of
    words, which the library tokenizers joins by frequency (Sennrich et al., 2016, arXiv:1508.07909).

    Args:
        texts: to learn from.
        size: tokens at the most.
        lowercase: fold case, and accents with it, as BERT's uncased models do.
        max_length: tokens that the model will read, for ``tokenizer_config.json``.

    Raises:
        InputError: the size has no room for the letters of the texts, or these hold nothing that is seen twice.
    """
    normalizer = normalizers.BertNormalizer(handle_chinese_chars=True, lowercase=lowercase)
    numbers = pieces(texts, normalizer, size)
    backend = Tokenizer(models.WordPiece(numbers, unk_token=SPECIAL[1]))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    opening, closing = ((token, numbers[token]) for token in SPECIAL[2:4])
    backend.post_processor = processors.BertProcessing(closing, opening)
    return transformers.BertTokenizerFast(
        tokenizer_object=backend, do_lower_case=lowercase, model_max_length=max_length
    )


def pieces(texts: Sequence[str], normalizer: Any, size: int) -> dict[str, int]:
    """Return a vocabulary: special tokens, then others by length and character.

    The trainer's own numbers, and its choice among pieces of one frequency, change from run to run unless it is given
    every letter in an order; so it is.

    Args:
        texts: to learn from.
        normalizer: what a text goes through first.
        size: tokens at the most.

    Raises:
        InputError: as in `make_tokenizer`.
    """
    counts: collections.Counter[str] = collections.Counter()
    inner: set[str] = set()
    for text in texts:
        normal = normalizer.normalize_str(text)
        counts.update(normal)
        inner.update(re.findall(r"(?<=\S)\S", normal))
    frequent = [letter for letter, count in counts.items() if count >= FREQUENT and not letter.isspace()]
    letters = sorted(frequent, key=lambda letter: (-counts[letter], letter))
    followers = [f"##{letter}" for letter in sorted(inner.intersection(letters)) if not _is_punctuation(letter)]
    room = size - len(SPECIAL) - len(followers)
    if not letters or room < 1:
        raise InputError(
            f"a vocabulary of {size} tokens cannot be made: {len(SPECIAL)} are special, and of the {len(letters)} "
            f"characters that are seen twice {len(followers)} stand inside words too; give a larger --vocab-size, or "
            f"more text"
        )
    scratch = Tokenizer(models.WordPiece({}, unk_token=SPECIAL[1]))
    scratch.normalizer = normalizer
    scratch.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=FREQUENT,
        show_progress=False,
        special_tokens=[*SPECIAL, *followers],
        initial_alphabet=letters[:room],
        limit_alphabet=min(len(letters), room),
    )
    scratch.train_from_iterator(texts, trainer)
    others = sorted(set(scratch.get_vocab()) - set(SPECIAL), key=lambda token: (len(token), token))
    return {token: number for number, token in enumerate([*SPECIAL, *others])}


def _is_punctuation(letter: str) -> bool:
    """Return whether BERT's tokenizer makes a character a word of its own."""
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")
