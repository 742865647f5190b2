"""Latency at a given rate of arrivals: texts come when they come, whether or not the ones before were answered.

A loop that asks, waits and asks again slows its own questions down whenever answers are slow, and so hides how long
people would wait. Here each text has a time at which it comes (a Poisson process), and its latency counts from then.
All that have come while the model was busy are answered together, as a server with batches would.

>>> serve(lambda rows: None, rows, np.array([0.0, 0.01, 0.011]))  # doctest: +SKIP
array([2.1e-06, 1.9e-06, 3.4e-06])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from burnish_serve.tasks import Row
from burnish_serve.timing import PAUSE, Latency, Samples, latency


@dataclass(frozen=True, kw_only=True)
class AtRate:
    """How long texts wait that come at random, so many a second in the mean."""

    rate: float
    """Texts a second that come."""
    answered: float
    """Texts a second that were answered; where it is less than came, the queue grew."""
    latency: Latency


def at_rate(
    models: Mapping[str, Callable[[Sequence[Row]], object]],
    rows: Sequence[Row],
    rate: float,
    *,
    rounds: int,
    seconds: float,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, AtRate]:
    """Return how long texts wait with each model, by name; all have turns in each round, with the same arrivals.

    Args:
        models: each answers a list of rows.
        rows: taken in a circle.
        rate: texts a second.
        rounds: turns of each model.
        seconds: time of each model in all.
        tick: called after each turn.
    """
    random = np.random.default_rng(0)
    waits: dict[str, list[Samples]] = {name: [] for name in models}
    spans = dict.fromkeys(models, 0.0)
    for _ in range(rounds):
        count = max(1, int(random.poisson(rate * seconds / rounds)))
        due = np.cumsum(random.exponential(1 / rate, count))
        for name, model in models.items():
            time.sleep(PAUSE)
            model(rows[:1])
            found = serve(model, rows, due)
            waits[name].append(found)
            spans[name] += float((due + found).max())
            tick()
    return {name: _found(rate, np.concatenate(some), spans[name]) for name, some in waits.items()}


def serve(model: Callable[[Sequence[Row]], object], rows: Sequence[Row], due: Samples) -> Samples:
    """Return how long each text waited for its answer, in seconds, float64 ``[texts]``.

    Args:
        model: answers a list of rows.
        rows: taken in a circle.
        due: when each text comes, in seconds from the start, ascending ``[texts]``.
    """
    waited = np.empty(len(due))
    start, done = time.perf_counter(), 0
    while done < len(due):
        now = time.perf_counter() - start
        time.sleep(max(0.0, due[done] - now))
        here = int(np.searchsorted(due, max(now, due[done]), side="right"))
        model([rows[place % len(rows)] for place in range(done, here)])
        waited[done:here] = time.perf_counter() - start - due[done:here]
        done = here
    return waited


def _found(rate: float, waited: Samples, span: float) -> AtRate:
    return AtRate(rate=rate, answered=len(waited) / span, latency=latency(waited))
