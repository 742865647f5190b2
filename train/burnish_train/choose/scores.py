"""What the scores of folds say together: their mean, how far they scatter, and 95 % intervals.

>>> spread([0.90, 0.92, 0.94])["mean"]  # doctest: +SKIP
0.92
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def spread(scores: Sequence[float]) -> dict[str, float]:
    """Return mean, standard deviation (of a sample) and Student's 95 % interval of the mean of two scores or more.

    Folds share most of what they learn from, so their scores scatter less than those of independent runs would, and no
    estimate from one cross-validation is unbiased (Bengio and Grandvalet, 2004).
    """
    from scipy.stats import t

    mean, deviation = statistics.fmean(scores), statistics.stdev(scores)
    half = float(t.ppf(0.975, len(scores) - 1)) * deviation / math.sqrt(len(scores))
    return {"mean": mean, "standard_deviation": deviation, "low": mean - half, "high": mean + half}


def spreads(folds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return `spread` of each metric that is one number in every fold."""
    names = [name for name, value in folds[0].items() if all(isinstance(one.get(name), float) for one in folds)]
    return {name: spread([one[name] for one in folds]) for name in names}
