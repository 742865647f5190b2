"""What else could stand at a place of a text: words that a masked language model puts there, drawn by its scores.

Contextual synonyms, as Kobayashi (2018, arXiv:1805.06201) took them from a language model and Wu et al. (2018,
arXiv:1812.06705) from BERT. Theirs see the label too, which takes a model trained for that; here it is any masked
language model as it comes.

>>> guesser = Guesser("google-bert/bert-base-uncased", max_length=128, cuda=False)  # doctest: +SKIP
>>> guesser([Blanks(Words.of("wake me tomorrow"), [2], np.random.default_rng(0))])  # doctest: +SKIP
['wake me early']
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from burnish_serve import batching
from burnish_serve.batching import Ids
from burnish_serve.errors import InputError
from burnish_serve.runner import model_inputs
from burnish_serve.tasks import TASKS, Encoded
from burnish_serve.tasks.fill_mask import special
from burnish_train import checkpoint, processes
from burnish_train.masking import Flags, logits_at
from burnish_train.methods.augment_words import Words, is_character

TOP = 10
"""Of how many of the best words one is drawn."""
BEGINNINGS = ("Ġ", "▁")
"""What vocabularies without a mark for the rest of a word have for its beginning, each in place of a space."""


class Blanks(NamedTuple):
    """A text with words to be replaced."""

    parts: Words
    places: list[int]
    """Of its words, in order."""
    random: np.random.Generator
    """Draws the new ones."""


class Vocabulary:
    """What of a tokenizer's tokens can stand for a whole word.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._normalizer = tokenizer.normalizer
        self.folds_case = self._key("A", fold=False) == "a"
        count = tokenizer.get_vocab_size()
        tokens = [tokenizer.id_to_token(number) or "" for number in range(count)]
        written = tokenizer.decode_batch([[number] for number in range(count)], skip_special_tokens=False)
        self.words = [text.strip() for text in written]
        """Each token as it is written."""
        rest = getattr(tokenizer.model, "continuing_subword_prefix", None) or ""
        marked = any(token.startswith(BEGINNINGS) for token in tokens)
        kept = set(special(tokenizer).ids.tolist())
        self._numbers: dict[str, list[int]] = {}
        self.allowed = torch.zeros(2, count, dtype=torch.bool)
        """Tokens that are whole words, and tokens that are a character of a script without spaces ``[2, tokens]``."""
        for number, (token, word) in enumerate(zip(tokens, self.words, strict=True)):
            self._numbers.setdefault(self._key(word), []).append(number)
            if number in kept or (rest and token.startswith(rest)) or Words.of(word) != Words((word,), ("", "")):
                continue
            alone = is_character(word)
            self.allowed[int(alone), number] = alone or not marked or token.startswith(BEGINNINGS)

    def same(self, word: str) -> list[int]:
        """Return the tokens that are a word itself, whatever its case."""
        return self._numbers.get(self._key(word), [])

    def written_for(self, word: str, number: int) -> str:
        """Return a token as it stands in place of a word: in that one's case where the tokenizer knows none."""
        new = self.words[number]
        if not self.folds_case or not word[:1].isupper():
            return new
        return new.upper() if len(word) > 1 and word.isupper() else new[:1].upper() + new[1:]

    def _key(self, word: str, *, fold: bool = True) -> str:
        """Return a word as the tokenizer sees it, without case."""
        normal = self._normalizer.normalize_str(word) if self._normalizer else word
        bare: str = normal.strip(" ▁")
        return bare.casefold() if fold else bare


class Guesser:
    """A masked language model that fills blanks.

    Args:
        name: a folder or a name on the Hub.
        max_length: tokens of a text that are read at the most; words behind them stay as they are.
        cuda: whether it reads on a GPU.

    Raises:
        InputError: there is no such model, or it has no head for masked words.
    """

    def __init__(self, name: str, *, max_length: int, cuda: bool) -> None:
        task = TASKS["fill-mask"]
        tokenizer, model = checkpoint.load_encoder(name, task, ())
        kinds = model.config.architectures or []
        if not any(kind.endswith("ForMaskedLM") for kind in kinds):
            has = f"it is a {kinds[0]}" if kinds else "its config names no architecture"
            raise InputError(
                f"augment 'replace' needs a masked language model, and {name} has no head for masked words ({has}); "
                "give one of the texts' language as --augment-model, or leave out 'replace'"
            )
        if not cuda:
            torch.set_num_threads(processes.num_threads())
        self._model = model.to("cuda" if cuda else "cpu").eval()
        with tempfile.TemporaryDirectory() as folder:
            self._encoder = checkpoint.saved_tokenizer(
                task, tokenizer, Path(folder), model, max_length=max_length, stride=0, on_long="truncate"
            )
        self._inputs = checkpoint.input_names(model.config)
        self._pad = tokenizer.pad_token_id
        self._mask = special(self._encoder.tokenizer).mask
        self._vocabulary = Vocabulary(self._encoder.tokenizer)
        self._allowed = self._vocabulary.allowed.to(self._model.device)

    def __call__(self, texts: Sequence[Blanks]) -> list[str]:
        """Return each text with other words at its places; one that holds the mask already stays as it is."""
        token = str(self._encoder.tokenizer.id_to_token(self._mask))
        found = [blanks.parts.text for blanks in texts]
        free = [number for number, text in enumerate(found) if token not in text]
        hidden = [texts[number].parts.with_words(dict.fromkeys(texts[number].places, token)).text for number in free]
        encoded = [windows[0] for windows in self._encoder([(text,) for text in hidden])]
        for indices in batching.plan([len(row.ids) for row in encoded], checkpoint.MAX_BATCH_TOKENS):
            numbers = [free[place] for place in indices]
            filled = self._filled([texts[number] for number in numbers], [encoded[place] for place in indices])
            for number, text in zip(numbers, filled, strict=True):
                found[number] = text
        return found

    def _filled(self, texts: Sequence[Blanks], encoded: Sequence[Encoded]) -> list[str]:
        """Return the texts of a batch with words drawn for their masks, of which a cut text has fewer than places."""
        arrays = model_inputs(encoded, self._inputs, self._pad)
        chosen = arrays["input_ids"] == self._mask
        places = [one.places[:count] for one, count in zip(texts, chosen.sum(1).tolist(), strict=True)]
        words = [one.parts.words[at] for one, own in zip(texts, places, strict=True) for at in own]
        best = zip(*self._best(arrays, chosen, words), words, strict=True)
        return [
            one.parts.with_words({at: self._drawn(*next(best), one.random) for at in own}).text
            for one, own in zip(texts, places, strict=True)
        ]

    def _best(self, arrays: dict[str, Ids], chosen: Flags, words: Sequence[str]) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Return the best tokens for each mask of a batch and their logits, ``[masks, TOP]`` each, -inf for none.

        Args:
            arrays: int64 ``[rows, length]`` each.
            chosen: where the masks are.
            words: what each of them hides, which it is never to be again.
        """
        device = self._allowed.device
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        kinds = torch.tensor([is_character(word) for word in words], dtype=torch.long, device=device)
        with torch.inference_mode():
            logits = logits_at(self._model, inputs, torch.from_numpy(chosen).to(device))[:, : self._allowed.shape[1]]
            logits.masked_fill_(~self._allowed[kinds], -torch.inf)
            for line, word in enumerate(words):
                logits[line, self._vocabulary.same(word)] = -torch.inf
            best = logits.topk(min(TOP, logits.shape[1]))
        return best.indices.cpu().numpy(), best.values.double().cpu().numpy()

    def _drawn(self, numbers: Ids, logits: npt.NDArray[np.float64], word: str, random: np.random.Generator) -> str:
        """Return one of some tokens as it is written, drawn by its probability among them; the word where none can be.

        Args:
            numbers: of the tokens, the best first.
            logits: of each.
            word: what is replaced.
            random: decides.
        """
        if not np.isfinite(logits[0]):
            return word
        powers = np.exp(logits - logits[0])
        return self._vocabulary.written_for(word, int(random.choice(numbers, p=powers / powers.sum())))
