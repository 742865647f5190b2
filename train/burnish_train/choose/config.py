"""The settings of ``burnish search``: those of the search itself, and which of ``burnish train`` all its runs share.

>>> SearchConfig(trials=30, sampler="random").pruner
'median'
"""

from __future__ import annotations

from burnish_serve.config import dataclass, setting

SHARED = (
    "model",
    "task",
    "train",
    "dev",
    "out",
    "text_column",
    "label_column",
    "dev_fraction",
    "seed",
    "device",
)
"""What all trials share and the command takes as flags: they decide on the rows, so scores can be compared."""
FIXED = frozenset({*SHARED, "test"})
"""What is never searched."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How settings are searched."""

    trials: int = setting("runs to make", default=12, minimum=1)
    sampler: str = setting(
        "how the next settings are chosen: by what was learned from the scores so far, by chance, or all there are",
        default="tpe",
        choices=("tpe", "random", "grid"),
    )
    pruner: str = setting(
        "which runs end early: those whose dev score is below the median at that epoch, those that lose a rung of "
        "Hyperband, or none",
        default="median",
        choices=("median", "hyperband", "none"),
    )
    keep_all: bool = setting("keep the checkpoint of each whole trial, not of the best alone", default=False)
    search_minutes: float = setting("start no trial after so many; 0 for no end", default=0.0, minimum=0)
