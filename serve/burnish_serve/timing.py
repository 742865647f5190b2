"""Timing of whatever can be called: export's model card and the verb bench measure with these functions and no others.

Machines are noisy, so two figures can be compared only where they were taken in one run, in turns (`interleave`), and
no figure is given that its samples cannot support: a percentile is None without enough samples beyond it, and a median
has a 95 % interval.

>>> samples = measure(lambda: sum(range(1000)), rounds=20, seconds=0)
>>> percentile(samples, 50) is not None, percentile(samples, 95)
(True, None)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)
# A percentile rests on the samples beyond it: with k of them its rank is known to about 1 in sqrt(k), a third at ten.
SAMPLES_BEYOND = 10
# ONNX Runtime's threads go on spinning for some 50 ms after a run and would take the processor from the next candidate.
PAUSE = 0.1


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What a call gives that took its own time, as one does that asks another process."""

    value: Any
    seconds: float
    """Without the way there and back."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A median with its 95 % interval."""

    median: float
    low: float | None
    """Lower end; None under 6 samples, too few for any such interval."""
    high: float | None
    """Upper end, or None as above."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one call takes, in milliseconds; a percentile is None where there were too few samples for it."""

    samples: int
    """Calls that were timed."""
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Texts a second: the median over rounds, with its 95 % interval."""

    texts_per_second: float
    low: float | None
    """Lower end; None under 6 rounds."""
    high: float | None
    """Upper end; None under 6 rounds."""
    rounds: int
    """Rounds that were measured."""


def measure(call: Callable[[], object], *, rounds: int = 10, seconds: float = 5.0) -> Samples:
    """Return the seconds that each call took, float64 ``[samples]``; see `interleave` for the arguments."""
    return interleave({"": call}, rounds=rounds, seconds=seconds)[""].ravel()


def interleave(
    calls: Mapping[Name, Callable[[], object]],
    *,
    rounds: int = 10,
    seconds: float = 5.0,
    pause: float = PAUSE,
    tick: Callable[[], object] = lambda: None,
) -> dict[Name, Samples]:
    """Return the seconds that each call of each candidate took, float64 ``[rounds, calls a turn]`` by name.

    In each round every candidate has one turn, in the order given: A B A B and so on, so that a slow minute of the
    machine is everybody's. A turn is as many calls as fill its time, at least one; how many is decided once, in a
    warm-up of one turn each that is not counted. Where a turn has several calls, one more goes before them uncounted,
    to fetch back into the caches what the others drove out.

    Args:
        calls: what to time, by name; one that gives a `Timed` has timed itself.
        rounds: turns of each candidate.
        seconds: time of each candidate in all, warm-up aside; a turn is ``seconds / rounds``.
        pause: seconds of sleep before a turn where there are several candidates.
        tick: called after each turn, for a progress bar.
    """
    turn = seconds / rounds
    sizes = {name: max(1, math.ceil(turn / _warm_up(call, turn))) for name, call in calls.items()}
    samples = {name: np.empty((rounds, sizes[name])) for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            if len(calls) > 1:
                time.sleep(pause)
            if sizes[name] > 1:
                call()
            for place in range(sizes[name]):
                samples[name][number, place] = _seconds(call)
            tick()
    return samples


def percentile(samples: Samples, q: float) -> float | None:
    """Return the q-th percentile, linear between samples, or None where fewer than 10 samples lie beyond it.

    So p50 needs 20 samples, p95 needs 200 and p99 needs 1,000.

    Args:
        samples: of any shape.
        q: between 0 and 100; beyond means above where it is over 50, and below where it is under.
    """
    beyond = round(samples.size * min(q, 100 - q) / 100, 6)
    return float(np.percentile(samples, q)) if beyond >= SAMPLES_BEYOND else None


def median_interval(samples: Samples) -> Estimate:
    """Return the median and its 95 % interval between two order statistics, which needs no assumed distribution.

    The number of samples under the true median is binomial with one half (W. R. Thompson, Annals of Mathematical
    Statistics 7, 1936; J.-Y. Le Boudec, Performance Evaluation of Computer and Communication Systems, theorem 2.1), so
    the r-th smallest and r-th largest sample hold it between them with a chance of 1 - 2 P(B < r).

    Args:
        samples: independent of one another, of any shape.

    Raises:
        ValueError: there are no samples.
    """
    ordered = np.sort(samples, axis=None)
    count = len(ordered)
    if not count:
        raise ValueError("no samples, no median")
    below = np.arange(count)
    log_ways = np.concatenate([[0.0], np.cumsum(np.log((count - below) / (below + 1)))])
    chance_at_most = np.cumsum(np.exp(log_ways - count * math.log(2)))
    rank = int(np.searchsorted(chance_at_most, 0.025, side="right"))
    low, high = (float(ordered[rank - 1]), float(ordered[-rank])) if rank else (None, None)
    return Estimate(median=float(np.median(ordered)), low=low, high=high)


def latency(samples: Samples) -> Latency:
    """Return the percentiles of single calls; ``samples`` are seconds of any shape."""
    p50, p95, p99 = (percentile(samples * 1000, q) for q in (50, 95, 99))
    return Latency(samples=samples.size, p50_ms=p50, p95_ms=p95, p99_ms=p99)


def throughput(samples: Samples, texts: int) -> Throughput:
    """Return texts a second of calls that take ``texts`` texts each; ``samples`` are seconds ``[rounds, calls]``."""
    rate = median_interval(texts / samples.mean(axis=1))
    return Throughput(texts_per_second=rate.median, low=rate.low, high=rate.high, rounds=len(samples))


def speedup(samples: Samples, baseline: Samples) -> Estimate:
    """Return how many times as fast as the baseline something is, compared round by round of one `interleave`.

    Args:
        samples: seconds ``[rounds, calls]``.
        baseline: seconds ``[rounds, calls]``, of the same rounds.
    """
    return median_interval(baseline.mean(axis=1) / samples.mean(axis=1))


def _warm_up(call: Callable[[], object], turn: float) -> float:
    """Return the seconds of the fastest call in a turn, which has at least one."""
    started = time.perf_counter()
    fastest = _seconds(call)
    while time.perf_counter() - started < turn:
        fastest = min(fastest, _seconds(call))
    return max(fastest, 1e-6)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    found = call()
    passed = time.perf_counter() - started
    return found.seconds if isinstance(found, Timed) else passed
