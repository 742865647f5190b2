"""What came of each student: a table, a picture of score against speed, and which is taken.

>>> taken([Tried("a", 2.1, 0.92, 12.0, 300.0)], speedup=2.0, least=0.91).name
'a'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tried:
    """A student, exported and measured."""

    name: str
    speedup: float
    """Texts a second of its bundle against the teacher's, a median over rounds of one run."""
    score: float
    """Of its bundle on the dev rows."""
    size_mb: float
    seconds: float
    """That it took to train."""


def taken(tried: Sequence[Tried], *, speedup: float, least: float) -> Tried | None:
    """Return the best of the students that are fast and good enough; None where there is none."""
    enough = [one for one in tried if one.speedup >= speedup and one.score >= least]
    return max(enough, key=lambda one: (one.score, one.speedup), default=None)


def table(tried: Sequence[Tried], metric: str) -> str:
    """Return the students as lines of text, the teacher first."""
    wide = max(len(one.name) for one in tried)
    head = f"{'':{wide}}  {metric:>9}  {'x':>5}  {'MB':>6}"
    return "\n".join(
        [head, *(f"{one.name:{wide}}  {one.score:9.4f}  {one.speedup:5.2f}  {one.size_mb:6.1f}" for one in tried)]
    )


def draw(tried: Sequence[Tried], path: Path, metric: str, *, speedup: float, least: float) -> None:
    """Draw score against speed, with what was asked for, into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter([one.speedup for one in tried], [one.score for one in tried])
    for one in tried:
        axes.annotate(one.name, (one.speedup, one.score), textcoords="offset points", xytext=(5, 5), fontsize=8)
    axes.axvline(speedup, linestyle=":", color="gray")
    axes.axhline(least, linestyle=":", color="gray")
    axes.set_xlabel("texts a second, times the teacher's")
    axes.set_ylabel(f"{metric} on dev rows")
    figure.savefig(path, dpi=110)
