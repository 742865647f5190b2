"""A moving average of the weights: it is scored, chosen and written, while the weights themselves go on learning.

What jumps from step to step is levelled out; the average needs no lower rate at the end (Polyak and Juditsky, 1992;
Izmailov et al., 2018, arXiv:1803.05407). PyTorch computes it.

>>> average = Average(model, decay=0.999)  # doctest: +SKIP
>>> with average.in_place():  # doctest: +SKIP
...     score(model)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

FILE = "average.safetensors"


class Average(transformers.TrainerCallback):
    """The exponential moving average of a model's weights, taken after each step.

    Args:
        model: the model.
        decay: what is kept of the average at each step.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._model = model
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the weights of this step into the average."""
        self._average.update_parameters(self._model)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the average while this context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def take(self) -> None:
        """Give the model the average for good."""
        self._swap()

    def save(self, folder: str | Path) -> None:
        """Write the average into a folder of Trainer's."""
        save_model(self._average, str(Path(folder) / FILE))

    def load(self, folder: str | Path) -> None:
        """Take the average from a folder of Trainer's."""
        load_model(self._average, Path(folder) / FILE)

    def _swap(self) -> None:
        """Exchange the average and the weights; an average of nothing yet is left alone."""
        if not self._average.n_averaged:
            return
        for weight, mean in zip(self._model.parameters(), self._average.module.parameters(), strict=True):
            weight.data, mean.data = mean.data, weight.data
