"""Questions for a model of no layers: a function of token ids gives the logits, so that answers can be worked by hand.

>>> runner(path, believing(path, {"nice": (0.75, 0), "day": (0, 0.5)}))  # doctest: +SKIP
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from burnish_serve.runner import Runner
from burnish_serve.tasks import task_named
from burnish_serve.text import TextEncoder

TASK = task_named("question-answering")
QUESTION, CONTEXT = "was it good?", "It was a nice day, but the food was cold."


def encoder(path, max_length=64, stride=0, on_long="window"):
    return TextEncoder(path, max_length, on_long=on_long, stride=stride, offsets=True)


def runner(path, outputs, max_length=64, stride=0, decoding=None, on_long="window"):
    """Return a runner whose model gives each batch the outputs that a function of its ids returns."""
    return Runner(
        task=TASK,
        labels=(),
        encoder=encoder(path, max_length, stride, on_long),
        session=SimpleNamespace(run=lambda names, feed: outputs(feed["input_ids"])),
        inputs=("input_ids",),
        pad_token_id=0,
        variant="by hand",
        decoding=decoding,
        max_batch_tokens=1,
    )


def believing(path, chances):
    """Return a model that gives words the chances to be first and last, as logits: their logarithms, -30 for others."""
    ids = {encoder(path).tokenizer.token_to_id(word): pair for word, pair in chances.items()}

    def outputs(batch):
        pairs = [[ids.get(int(token), (0, 0)) for token in row] for row in batch]
        both = np.log(np.maximum(np.array(pairs, dtype=np.float32), math.exp(-30))).astype(np.float32)
        return [both[..., 0], both[..., 1]]

    return outputs


def drawn(seed):
    """Return a model with logits drawn at random for each batch."""
    random = np.random.default_rng(seed)
    return lambda batch: [random.normal(size=batch.shape, scale=3).astype(np.float32) for _ in range(2)]


def ask(model, **options):
    (answer,) = model({"question": QUESTION, "context": CONTEXT}, **options)
    return answer
