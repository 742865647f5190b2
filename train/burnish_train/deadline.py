"""A run that ends in time: the learning rate falls to its end by the clock, and training stops there.

How many steps a machine manages in an hour is not known before. So progress is the share of the steps or the share of
the time, whichever is more; the rate follows it, and a run on a slow machine ends as well as one on a fast machine,
with fewer steps. Time before a resume counts.

>>> trainer.add_callback(Deadline(minutes=60))  # doctest: +SKIP
"""

from __future__ import annotations

import time
from typing import Any

import transformers
from transformers.trainer_callback import ExportableState


class Deadline(transformers.TrainerCallback, ExportableState):
    """Stops training when its minutes are over.

    Args:
        minutes: of training, evaluations included; 0 for no end.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.before = 0.0
        self._started = time.monotonic()

    @property
    def progress(self) -> float:
        """Return the share of the time that is over, from 0 to 1."""
        seconds = self.before + time.monotonic() - self._started
        return min(1.0, seconds / (60 * self.minutes)) if self.minutes else 0.0

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to know."""
        before = self.before + time.monotonic() - self._started
        return {"args": {"minutes": self.minutes}, "attributes": {"before": before}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop where the time is over; the end of an epoch is made of it, with its evaluation."""
        if self.progress >= 1:
            control.should_training_stop = True
