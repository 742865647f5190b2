"""The plots of a report as SVG that goes into a page: light and dark with it, its letters letters.

matplotlib draws with stand-ins for colours, and the page's own take their place, so that one picture is right on light
and on dark paper.

>>> svg(lambda axes: curves(axes, record["curve"], "accuracy"), "losses")  # doctest: +SKIP
'<svg …'
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Colours that nothing else has, and what the page puts in their place.
INK, ONE, TWO, THREE = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
COLORS = {INK: "currentColor", ONE: "var(--one)", TWO: "var(--two)", THREE: "var(--three)"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "burnish",
    "font.family": "sans-serif",
    "text.parse_math": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}
# Points of a scatter plot: more of them only make the page heavy.
MOST_POINTS = 2_000
# More labels than these cannot be read beside a matrix.
MOST_LABELS = 120
Points = Sequence[Mapping[str, float]]


def svg(draw: Callable[[Any], None], name: str, *, size: tuple[float, float] = (5, 3.4)) -> str:
    """Return one plot, the same for the same figures.

    Args:
        draw: draws into the axes that it is given.
        name: stands before the ids in it, which must be the only ones of their name on a page.
        size: in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the reader's fonts are others
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # HTML knows them
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg", '<svg aria-hidden="true"', 1)  # what is said of it stands around it
    for stand_in, color in COLORS.items():
        text = text.replace(stand_in, color)
    return text


def losses(axes: Any, points: Points) -> None:
    """Draw the losses over steps."""
    for key, label, color in (("loss", "train loss", ONE), ("eval_loss", "dev loss", TWO)):
        _line(axes, points, key, label, color)
    axes.set_ylabel("loss")
    axes.legend()


def scores(axes: Any, points: Points, metric: str, best: int | None) -> None:
    """Draw the dev score over steps, and the step whose weights were kept."""
    _line(axes, points, f"eval_{metric}", f"dev {metric}", THREE)
    kept = [point for point in points if f"eval_{metric}" in point and point["step"] == best]
    for point in kept:
        axes.plot([best], [point[f"eval_{metric}"]], "o", color=TWO, markersize=9, fillstyle="none", label="kept")
    axes.set_ylabel(metric)
    axes.legend(loc="lower right")


def rates(axes: Any, points: Points) -> None:
    """Draw the learning rate over steps."""
    _line(axes, points, "learning_rate", "learning rate", ONE)
    axes.set_ylabel("learning rate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _line(axes: Any, points: Points, key: str, label: str, color: str) -> None:
    some = [point for point in points if key in point]
    marker = "o" if len(some) < 40 else None
    steps = [point["step"] for point in some]
    axes.plot(steps, [point[key] for point in some], label=label, color=color, marker=marker, markersize=4)
    axes.set_xlabel("step")


def matrix(axes: Any, counts: Any, labels: Sequence[str]) -> None:
    """Draw a confusion matrix, each line by shares of its rows.

    Args:
        axes: where.
        counts: int64 ``[right, answered]``.
        labels: their names.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    paint = np.zeros((*counts.shape, 4))
    paint[..., :3] = (0.25, 0.5, 0.85)  # seen well on light and on dark paper
    paint[counts > 0] += (0, 0, 0, 0.35)
    paint[..., 3] += 0.65 * shares
    wrong = (counts > 0) & ~np.eye(len(counts), dtype=bool)
    paint[wrong, :3] = (0.85, 0.4, 0.15)
    axes.imshow(paint, interpolation="none")
    axes.grid(visible=False)
    if len(labels) <= MOST_LABELS:
        size = min(9.0, 600 / len(labels))
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
        axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.set_xlabel("answered")
    axes.set_ylabel("right")


def reliability(axes: Any, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Draw for each curve the share of right answers over their mean score, ``(score, share, …)`` a bin."""
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1, label="as it should be")
    for (label, bins), color in zip(curves.items(), (ONE, TWO), strict=False):
        axes.plot(
            [one[0] for one in bins], [one[1] for one in bins], marker="o", markersize=5, color=color, label=label
        )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("mean score of the answers")
    axes.set_ylabel("share that is right")
    axes.legend()


def scatter(axes: Any, wanted: Any, given: Any) -> None:
    """Draw the numbers that were given over those that were wanted, of `MOST_POINTS` rows at the most."""
    every = -(-len(wanted) // MOST_POINTS)
    axes.plot(wanted[::every], given[::every], "o", color=ONE, markersize=4, alpha=0.5, markeredgewidth=0)
    ends = [float(min(wanted)), float(max(wanted))]
    axes.plot(ends, ends, color=INK, linestyle=":", linewidth=1)
    axes.set_xlabel("wanted")
    axes.set_ylabel("given")


def histogram(axes: Any, residuals: Any) -> None:
    """Draw how often residuals of each size are met."""
    axes.hist(residuals, bins=min(40, max(5, int(len(residuals) ** 0.5))), color=ONE)
    axes.set_xlabel("given less wanted")
    axes.set_ylabel("rows")
