"""Gradual unfreezing: the head learns alone at first, then layer by layer from the top.

Howard and Ruder, 2018, arXiv:1801.06146.

>>> trainer.add_callback(Unfreeze(model, every=0.5))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import transformers

from burnish_train.methods.depth import depths


class Unfreeze(transformers.TrainerCallback):
    """Lets one layer more learn each time that a share of an epoch is over; what is frozen for good stays so.

    Args:
        model: the model.
        every: epochs between two layers.
    """

    def __init__(self, model: Any, every: float) -> None:
        deep = depths(model)
        self._top = max(deep.values())
        self._weights = [(deep[name], weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self._every = every

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let learn what may by now, which follows from the epoch alone, so that a resumed run does the same."""
        lowest = self._top - int((state.epoch or 0.0) / self._every + 1e-9)
        for depth, weight in self._weights:
            weight.requires_grad_(depth >= lowest)
