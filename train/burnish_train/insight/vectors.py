"""Vectors of texts: the mean of an encoder's token vectors, of length 1, by the runner that gives them to users.

>>> Vectors("encoder/")([("great film",), ("dull",)]).shape  # doctest: +SKIP
(2, 384)
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from burnish_serve import machine
from burnish_serve.runner import windows
from burnish_serve.tasks import Decoding, task_named
from burnish_train import checkpoint
from burnish_train.device import use_cuda

Matrix = npt.NDArray[np.float32]
# Texts at a time: the vectors of all their tokens are held, and thrown away when they are pooled.
TEXTS = 512


class Vectors:
    """An encoder that gives rows their vectors; each different text is read once.

    Args:
        model: a folder, a name on the Hub, or a checkpoint, of whose head nothing is asked.
        max_length: tokens of a text at the most.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        InputError: there is no such model.
        DeviceError: the device cannot be used.
    """

    def __init__(self, model: str, *, max_length: int = 512, device: str = "auto") -> None:
        checkpoint.quiet()
        task = task_named("feature-extraction")
        tokenizer, network = checkpoint.load_encoder(model, task, ())
        torch.set_num_threads(machine.num_threads())
        network.to("cuda" if use_cuda(device) else "cpu")
        with tempfile.TemporaryDirectory() as folder:
            encoder = checkpoint.saved_tokenizer(
                task, tokenizer, Path(folder), network, max_length=max_length, stride=0, on_long="truncate"
            )
        self._runner = checkpoint.runner_for(network, encoder, tokenizer.pad_token_id, task, (), Decoding())
        self._known: dict[str, Matrix] = {}

    def __call__(self, rows: Sequence[tuple[str, ...]]) -> Matrix:
        """Return a vector of length 1 for each row, float32 ``[rows, width]``; a row of two texts has both in a line.

        The product of two rows is the mean of the cosines of their texts.
        """
        new = dict.fromkeys(text for row in rows for text in row if text not in self._known)
        for some in windows(sorted(new, key=len), TEXTS):
            answers = self._runner([{"text": text} for text in some])
            self._known |= zip(some, np.array(answers, dtype=np.float32), strict=True)
        joined = np.stack([np.concatenate([self._known[text] for text in row]) for row in rows])
        return joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)
