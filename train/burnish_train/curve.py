"""The training curve: loss and dev score over steps, as JSON in ``burnish.json`` and as a picture beside it.

>>> points([{"step": 10, "epoch": 0.1, "loss": 1.2, "learning_rate": 1e-4, "grad_norm": 3.0}])
[{'step': 10, 'epoch': 0.1, 'loss': 1.2, 'learning_rate': 0.0001}]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

KEPT = ("step", "epoch", "loss", "learning_rate")


def points(history: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return Trainer's log without what is no curve; each point has its step and either a loss or dev scores."""
    kept: list[dict[str, float]] = [
        {key: value for key, value in entry.items() if key in KEPT or key.startswith("eval_")} for entry in history
    ]
    return [point for point in kept if "loss" in point or "eval_loss" in point]


def draw(curve: list[dict[str, float]], path: Path, metric: str) -> None:
    """Draw the losses and the dev score over steps into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.add_subplot()
    for key, label in (("loss", "train loss"), ("eval_loss", "dev loss")):
        some = [point for point in curve if key in point]
        left.plot(
            [point["step"] for point in some], [point[key] for point in some], label=label, marker="." * (key != "loss")
        )
    right = left.twinx()
    some = [point for point in curve if f"eval_{metric}" in point]
    scores = [point[f"eval_{metric}"] for point in some]
    right.plot([point["step"] for point in some], scores, label=f"dev {metric}", color="tab:green", marker="o")
    left.set_xlabel("step")
    left.set_ylabel("loss")
    right.set_ylabel(metric)
    figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=110)
