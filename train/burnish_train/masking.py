"""What a masked language model learns from: words hidden anew at each step, which it must guess from the others.

Of a batch's tokens 15 % are chosen; of these 80 % become the mask, 10 % a random token, 10 % stay as they are (Devlin
et al., 2019, arXiv:1810.04805). Whole words are chosen. Where words are not written apart, as in Chinese, runs of one
to three characters stand for them (n-gram masking, Cui et al., 2020, arXiv:2004.13922). What is chosen follows from
seed and step alone, so that a resumed run learns from what the whole one would have.

>>> chosen = choose(words, ideographs, 0.15, np.random.default_rng(0))  # doctest: +SKIP
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from burnish_serve import batching
from burnish_serve.batching import Ids
from burnish_serve.runner import Runner
from burnish_serve.tasks import Asked, Encoded
from burnish_serve.tasks.fill_mask import special
from burnish_train import losses
from burnish_train.data import Example
from burnish_train.targets import Target, item

Flags = npt.NDArray[np.bool_]
# How often a run of ideographs that is hidden together has one, two or three of them: MacBERT's shares without four.
RUNS = np.array([4, 3, 2]) / 9
MASKED, RANDOM = 0.8, 0.1


class Masked(Target):
    """The tokens that are hidden."""

    @classmethod
    def labels_of(cls, names: Sequence[str], config: Any) -> tuple[str, ...]:
        """Return none: the outputs are the vocabulary."""
        return ()

    def meet(self, runner: Runner) -> None:
        """Take from the runner which tokens are words, and how many the model reads."""
        tokenizer = runner.encoder.tokenizer
        self.max_length = runner.encoder.max_length
        self.special = special(tokenizer)
        size = tokenizer.get_vocab_size()
        self.ordinary = np.setdiff1d(np.arange(size), self.special.ids)
        self.ideographs = np.array([is_ideograph(tokenizer.id_to_token(number) or "") for number in range(size)])

    def items(self, examples: Sequence[Example], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """Return the windows that hold a word; where that is set, full ones of many texts, but of rows to be scored."""
        windows = [window for row in asked for window in row.windows]
        if self.config.pack_texts and not any(window.hidden is not None for window in windows):
            windows = pack(windows, self.max_length)
        return [item((window,), value) for window in windows if ((value := self._value(window)) >= 0).any()]

    def _value(self, window: Encoded) -> Ids:
        """Return the word of each token, -1 where nothing can be hidden; of a row to be scored, the hidden tokens."""
        if window.hidden is not None:
            return window.hidden
        words = window.ids if window.words is None else window.words
        return np.where(np.isin(window.ids, self.special.ids), -1, words)

    def stack(self, values: Sequence[Any], length: int) -> torch.Tensor:
        """Return the words, or the hidden tokens: int64 ``[windows, length]``, filled up with -1."""
        return torch.from_numpy(batching.pad(values, -1))

    def learn(
        self, model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor, step: int | None
    ) -> tuple[torch.Tensor, Any]:
        """Return the mean loss of the hidden tokens; no output but theirs is computed.

        Args:
            model: with a head for masked words.
            inputs: int64 ``[windows, length]`` each.
            labels: from `stack`.
            step: decides what is hidden; None where it is hidden already.
        """
        if step is None:
            chosen, right = labels >= 0, labels[labels >= 0]
        else:
            ids, flags = self.hide(inputs["input_ids"].cpu().numpy(), labels.cpu().numpy(), step)
            chosen = torch.from_numpy(flags).to(labels.device)
            right = inputs["input_ids"][chosen]
            inputs = {**inputs, "input_ids": torch.from_numpy(ids).to(labels.device)}
        return losses.cross_entropy(logits_at(model, inputs, chosen), right, 0.0), None

    def hide(self, ids: Ids, words: Ids, step: int) -> tuple[Ids, Flags]:
        """Return the ids of a batch with words hidden, and which tokens were chosen: ``[windows, length]`` each.

        Args:
            ids: int64 ``[windows, length]``.
            words: of each token, -1 where nothing can be hidden.
            step: of the run.
        """
        random = np.random.default_rng([self.config.seed, step])
        whole = self.config.whole_word_masking
        ideographs = self.ideographs[ids] if whole else np.zeros(ids.shape, dtype=bool)
        numbers = words if whole else np.where(words < 0, -1, np.arange(words.shape[1]))
        chosen = choose(numbers, ideographs, self.config.mlm_probability, random)
        draw = random.random(ids.shape)
        hidden = np.where(chosen & (draw < MASKED), self.special.mask, ids)
        others = random.choice(self.ordinary, ids.shape)
        return np.where(chosen & (draw >= 1 - RANDOM), others, hidden), chosen


def choose(words: Ids, ideographs: Flags, share: float, random: np.random.Generator) -> Flags:
    """Return which tokens of a batch to hide: whole words, or runs of ideographs, at random.

    Args:
        words: the word of each token, ``[windows, length]``; -1 where nothing can be hidden.
        ideographs: whether a token is one character of a script that writes no spaces between words.
        share: of the tokens that can be hidden; no more than that are, but one word always.
        random: decides.
    """
    free = words >= 0
    before = np.full_like(words, -2)
    before[:, 1:] = words[:, :-1]
    starts = free & (words != before)
    joins = np.zeros_like(free)
    joins[:, 1:] = starts[:, 1:] & free[:, :-1] & ideographs[:, 1:] & ideographs[:, :-1]
    ends = np.cumsum(random.choice([1, 2, 3], size=int(starts.sum()) + 1, p=RUNS))
    joins &= ~np.isin(np.cumsum(starts).reshape(starts.shape), ends)
    units = (np.cumsum(starts & ~joins) - 1).reshape(words.shape)
    sizes = np.bincount(units[free])
    order = random.permutation(len(sizes))
    count = int(np.searchsorted(np.cumsum(sizes[order]), share * free.sum(), side="right"))
    taken = np.zeros(len(sizes), dtype=bool)
    taken[order[: max(1, count)]] = True
    return free & taken[units]


def logits_at(model: Any, inputs: Mapping[str, torch.Tensor], chosen: torch.Tensor) -> torch.Tensor:
    """Return a model's logits ``[chosen tokens, vocabulary]``, those of the other tokens not computed.

    The head works on each token by itself, and its projection onto a vocabulary costs more than a small encoder.

    Args:
        model: transformers' model with a head for masked words.
        inputs: what it reads.
        chosen: flags ``[windows, length]``.
    """

    def gather(module: Any, arguments: Any, output: Any) -> Any:
        return type(output)(last_hidden_state=output.last_hidden_state[chosen][None])

    own = getattr(model, "module", model)  # of what joins several processes around it
    handle = own.base_model.register_forward_hook(gather)
    try:
        logits: torch.Tensor = model(**inputs).logits[0]
    finally:
        handle.remove()
    return logits


def pack(windows: Sequence[Encoded], max_length: int) -> list[Encoded]:
    """Return full windows of many texts in their order, the closing tokens of a text between it and the next one.

    Liu et al., 2019, arXiv:1907.11692, call it full sentences. The tokens before and after a text are those of the
    first window; the last window is as long as what is left.

    Args:
        windows: of single texts, with their words.
        max_length: tokens of a window.
    """
    ids: list[Ids] = []
    words: list[Ids] = []
    opening = closing = np.empty(0, dtype=np.int64)
    texts = 0
    for window in windows:
        own = window.ids if window.words is None else window.words
        inside = np.flatnonzero(own >= 0)
        if not len(inside):
            continue
        first, end = int(inside[0]), int(inside[-1]) + 1
        if not window.start:  # a text, and not what follows of a long one
            texts += 1
            ids += [closing] * bool(ids)
            words += [np.full_like(closing, -1)] * bool(words)
        opening, closing = window.ids[:first], window.ids[end:]
        ids.append(window.ids[first:end])
        words.append(own[first:end] + (texts << 32))
    if not ids:
        return []
    stream, of = np.concatenate(ids), np.concatenate(words)
    room = max_length - len(opening) - len(closing)
    packed = []
    for start in range(0, len(stream), room):
        part = np.concatenate([opening, stream[start : start + room], closing])
        outside = (np.full_like(opening, -1), np.full_like(closing, -1))
        inside = np.concatenate([outside[0], of[start : start + room], outside[1]])
        packed.append(Encoded(part, np.zeros_like(part), False, words=inside))
    return packed


def is_ideograph(token: str) -> bool:
    """Return whether a token is one Chinese character, by itself or with a mark for its place in a word."""
    bare = token.removeprefix("##").removeprefix("▁")
    return len(bare) == 1 and unicodedata.name(bare, "").startswith("CJK ")
