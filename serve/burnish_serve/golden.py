"""The golden rows of a bundle, answered again.

>>> largest_difference(bundle, runner)  # doctest: +SKIP
0.0
"""

from __future__ import annotations

import itertools

import numpy as np

from burnish_serve.bundle import Bundle, golden_values
from burnish_serve.errors import ProofError
from burnish_serve.runner import Runner


def largest_difference(bundle: Bundle, runner: Runner) -> float:
    """Return how far an output of the golden rows is from what it was where the bundle was made.

    Raises:
        ProofError: there are more outputs, or fewer.
    """
    golden = bundle.manifest.variants[runner.variant].golden_outputs
    found = golden_values(runner.logits(bundle.manifest.golden_rows))
    if [len(row) for row in found] != [len(row) for row in golden]:
        name = runner.variant
        raise ProofError(f"{bundle.folder} gives {name}'s golden rows another number of outputs than where it was made")
    pairs = zip(itertools.chain(*found), itertools.chain(*golden), strict=True)
    return float(np.abs([one - np.float32(other) for one, other in pairs]).max(initial=0))
